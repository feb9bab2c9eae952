//! Programs that are compared with chains (`emptcp bench`): monolithic ones that
//! do the same as a chain, and the frame in which everything is timed.

use std::os::fd::AsFd;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::Object;
use libbpf_rs::ObjectBuilder;

use super::Counters;
use super::counters;
use crate::module::Family;
use crate::module::monolith;
use crate::sys;
use crate::sys::TestRun;

/// Opens one of the programs of `benches/bpf`, writes its constants, loads it.
/// `None`: there is no such program.
fn load(name: &str, family: Family, constants: &[u8]) -> Result<Option<Object>> {
    let Some(bytes) = monolith(name, family)? else {
        return Ok(None);
    };
    let mut open = ObjectBuilder::default().open_memory(bytes)?;
    for mut map in open.maps_mut() {
        let rodata = map.name().to_string_lossy().ends_with(".rodata");
        if let Some(value) = map.initial_value_mut().filter(|_| rodata) {
            value
                .get_mut(..constants.len())
                .context("its constants are smaller")?
                .copy_from_slice(constants);
        }
    }
    let object = open
        .load()
        .with_context(|| format!("the kernel does not take {name}"))?;
    Ok(Some(object))
}

fn program(object: &Object) -> Result<impl AsFd + '_> {
    object.progs().next().context("an object has no program")
}

fn map<'o>(object: &'o Object, name: &str) -> Option<libbpf_rs::Map<'o>> {
    object.maps().find(|m| m.name() == name)
}

/// A program that does what a chain does, in one piece.
#[derive(Debug)]
pub struct Monolith {
    object: Object,
    steps: usize,
}

impl Monolith {
    /// The one for the chain of this name, else for one of so many selectors and actors.
    ///
    /// # Errors
    ///
    /// No privilege, or the kernel refuses it.
    pub fn load(
        family: Family,
        chain: &str,
        (selectors, actors): (usize, usize),
        count: bool,
    ) -> Result<Option<Self>> {
        let generation = 1u64;
        let mut constants = generation.to_ne_bytes().to_vec();
        constants.extend(u32::from(count).to_ne_bytes());
        let own = load(&format!("monolith_{chain}"), family, &constants)?;
        let shape = || {
            let name = format!("monolith_{selectors}_{actors}");
            load(&name, family, &constants)
        };
        let Some(object) = own.map_or_else(shape, |o| Ok(Some(o)))? else {
            return Ok(None);
        };
        let word = map(&object, "generation").context("a monolith has no generation")?;
        sys::store_u64(word, 0, generation)?;
        Ok(Some(Self {
            object,
            steps: selectors + actors,
        }))
    }

    /// The program.
    ///
    /// # Errors
    ///
    /// Built wrong.
    pub fn program(&self) -> Result<impl AsFd + '_> {
        program(&self.object)
    }

    /// Runs a packet through it.
    ///
    /// # Errors
    ///
    /// The kernel refuses the packet.
    pub fn run(&self, packet: &[u8], mark: Option<u32>) -> Result<TestRun> {
        sys::test_run(self.program()?, packet, mark, 1).context("test run")
    }

    /// Counters of each step.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn counters(&self) -> Result<Vec<Counters>> {
        let map = map(&self.object, "steps").context("a monolith has no counters")?;
        counters::read_row(&map, self.steps)
    }

    /// Keys and values of one of its maps.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn state(&self, name: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some(map) = map(&self.object, name) else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for key in map.keys() {
            if let Some(value) = map.lookup(&key, MapFlags::ANY)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }
}

/// Mark of the packets that are timed at tc.
pub(crate) const MARK: u32 = 1;
/// Bytes that `restore` gives back at the most: its words.
const RESTORED: usize = 96;

/// A program behind the one that restores the packet: test runs repeat on the
/// packet as it came out of the run before.
#[derive(Debug)]
pub struct Timed {
    object: Object,
    mark: Option<u32>,
}

impl Timed {
    /// `packet`: Ethernet, whose headers the program restores.
    ///
    /// # Errors
    ///
    /// No privilege, or the packet is too short.
    pub fn new(family: Family, program: impl AsFd, packet: &[u8]) -> Result<Self> {
        let headers = &packet[..packet.len().min(RESTORED)];
        let last = headers
            .last_chunk::<8>()
            .context("the packet is too short")?;
        let mut original = (packet.len() as u32).to_ne_bytes().to_vec();
        original.extend((headers.len() as u32).to_ne_bytes());
        original.extend(headers);
        original.resize(8 + RESTORED, 0);
        original.extend(last);
        let object = load("restore", family, &original)?.context("restore is not there")?;
        let array = map(&object, "progs").context("restore has no slots")?;
        sys::set_slot(&array, 0, program).context("cannot put a program behind restore")?;
        Ok(Self {
            mark: (family == Family::Tc).then_some(MARK),
            object,
        })
    }

    /// As [`Timed::new`], with a program that does nothing.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn floor(family: Family, packet: &[u8]) -> Result<Self> {
        let empty = load("empty", family, &[])?.context("empty is not there")?;
        Self::new(family, program(&empty)?, packet)
    }

    /// Mean nanoseconds of a run, and the verdict.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn run(&self, packet: &[u8], repeat: u32) -> Result<(u32, i32)> {
        let run =
            sys::test_run(program(&self.object)?, packet, self.mark, repeat).context("test run")?;
        Ok((run.nanoseconds, run.verdict))
    }
}
