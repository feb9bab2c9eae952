//! A chain graph that is in force nowhere: loaded with maps of its own, for test
//! runs (fixtures, `bench`).

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;

use super::class::Class;
use super::class::Side;
use super::counters;
use super::counters::Counted;
use super::counters::Counters;
use super::loader::Loader;
use super::loader::StateMap;
use super::maps::create_map;
use super::shared;
use super::shared::Shared;
use super::tables;
use crate::abi::Framing;
use crate::graph::Graph;
use crate::module::Family;
use crate::module::KernelVersion;
use crate::module::Registry;
use crate::module::Scope;
use crate::sys;
use crate::sys::Beside;
use crate::sys::TestRun;
use crate::table::Planned;

/// How an instance is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packets begin with an IP header, not with an Ethernet header.
    pub raw_ip: bool,
    /// Steps count.
    pub count: bool,
    /// XDP for packets of several buffers.
    pub frags: bool,
    /// Packets that cannot be parsed are dropped.
    pub drop_undecidable: bool,
    /// Steps are joined into programs.
    pub join: bool,
    /// Entries of maps of which a policy may limit the number; `None`: as many as they have without.
    pub limit: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            raw_ip: false,
            count: true,
            frags: false,
            drop_undecidable: false,
            join: true,
            limit: None,
        }
    }
}

/// What a program returned, in emptcp's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on.
    Pass,
    /// The packet is dropped.
    Drop,
    /// Another verdict of the kernel.
    Other(i32),
}

impl Verdict {
    /// What a program at these hooks returned.
    pub(super) fn of(family: Family, returned: i32) -> Self {
        let (pass, drop) = match family {
            Family::Xdp => (2, 1),
            Family::Tc => (-1, 2),
        };
        match returned {
            v if v == pass => Verdict::Pass,
            v if v == drop => Verdict::Drop,
            v => Verdict::Other(v),
        }
    }
}

/// A map that a module keeps.
#[derive(Debug)]
pub(super) struct State {
    name: String,
    /// The step whose own it is; none if all share it.
    step: Option<u32>,
    map: MapHandle,
}

/// The map that a step asks for, made where nobody has asked for it yet.
pub(super) fn state_map(
    state: &mut Vec<State>,
    wanted: &StateMap<'_>,
    limit: Option<u32>,
) -> Result<MapHandle> {
    let name = &wanted.info.name;
    let step = (wanted.info.scope == Scope::Step).then_some(wanted.step);
    if let Some(known) = state.iter().find(|s| s.name == *name && s.step == step) {
        return Ok(MapHandle::try_from(&known.map)?);
    }
    let map = create_map(
        name,
        wanted.prepared.ty,
        [
            wanted.prepared.key_size,
            wanted.prepared.value_size,
            limit
                .filter(|_| wanted.info.limit.is_some())
                .unwrap_or(wanted.prepared.max_entries),
        ],
        wanted.prepared.flags,
    )?;
    state.push(State {
        name: name.clone(),
        step,
        map: MapHandle::try_from(&map)?,
    });
    Ok(map)
}

/// A loaded graph.
#[derive(Debug)]
pub struct Instance {
    entry: OwnedFd,
    class: Class,
    shared: Shared,
    state: Vec<State>,
    /// Kept: programs of an array that nobody holds are gone.
    array: MapHandle,
}

impl Instance {
    /// Loads the graph's steps and an entry program.
    ///
    /// # Errors
    ///
    /// No privilege, no memory, or the verifier refuses a step.
    pub fn load(
        registry: &Registry,
        kernel: KernelVersion,
        graph: Graph,
        options: Options,
    ) -> Result<Self> {
        Self::load_with_tables(registry, kernel, graph, &[], options)
    }

    /// The same with tables of its own.
    ///
    /// # Errors
    ///
    /// As for [`Instance::load`].
    pub fn load_with_tables(
        registry: &Registry,
        kernel: KernelVersion,
        graph: Graph,
        tables: &[Planned],
        options: Options,
    ) -> Result<Self> {
        let nodes = graph.nodes.len();
        let class = Class {
            hook: graph.hook,
            framing: if options.raw_ip {
                Framing::Ip
            } else {
                Framing::Ether
            },
            frags: options.frags,
            ids: (0..nodes as u32).collect(),
            zones: vec![0; nodes],
            drop_undecidable: options.drop_undecidable,
            count: options.count,
            join: options.join,
            more: false,
            graph,
        };
        let mut shared = Shared::create()?;
        shared.tables = tables::load(tables)?;
        for _ in 0..shared::blocks(nodes as u32) {
            shared.counters.push(shared::create_counters()?);
        }
        let mut loader = Loader::new(registry, kernel);
        let mut state: Vec<State> = Vec::new();
        let loaded = loader.load_class(&class, &shared, &mut |wanted| {
            state_map(&mut state, &wanted, options.limit)
        })?;
        let side = Side {
            generation: 1,
            array: &loaded.array,
            start: class.start(),
            later: 0,
        };
        let entry = loader.load_entry(&class, &shared, true, &side, None)?;
        sys::store_u64(&shared.generation, 0, 1).context("cannot put the generation in force")?;
        Ok(Self {
            entry,
            class,
            shared,
            state,
            array: loaded.array,
        })
    }

    /// Runs a packet through it `repeat` times; `mark`: of the packet, at tc.
    ///
    /// # Errors
    ///
    /// The kernel refuses the packet (shorter than an Ethernet header).
    pub fn run(&self, packet: &[u8], mark: Option<u32>, repeat: u32) -> Result<(Verdict, TestRun)> {
        let beside = mark.map(|mark| Beside {
            mark,
            ..Beside::default()
        });
        self.run_with(packet, beside, repeat)
    }

    /// The same with all that a packet at tc has beside its bytes.
    ///
    /// # Errors
    ///
    /// As for [`Instance::run`].
    pub fn run_with(
        &self,
        packet: &[u8],
        beside: Option<Beside>,
        repeat: u32,
    ) -> Result<(Verdict, TestRun)> {
        let run = sys::test_run_with(&self.entry, packet, beside, repeat).context("test run")?;
        let verdict = Verdict::of(self.class.family(), run.verdict);
        Ok((verdict, run))
    }

    /// The entry program.
    pub fn entry(&self) -> impl AsFd + '_ {
        &self.entry
    }

    /// The array of the steps' programs.
    pub fn array(&self) -> &MapHandle {
        &self.array
    }

    /// Counters of each node of the graph.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn counters(&self) -> Result<Vec<Counters>> {
        let counted = Counted::read(&self.shared.counters)?;
        Ok(self.class.ids.iter().map(|id| counted.raw(*id)).collect())
    }

    /// Packets by reason, those that are not zero.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn reasons(&self) -> Result<Vec<(String, u64)>> {
        counters::reasons(&self.shared.reasons, self.class.hook)
    }

    /// Names of the maps that its modules keep.
    pub fn state_names(&self) -> impl Iterator<Item = &str> {
        self.state.iter().map(|s| s.name.as_str())
    }

    /// The map that modules keep under a name; the first, where steps have one each.
    pub fn state_map(&self, name: &str) -> Option<&MapHandle> {
        self.state.iter().find(|s| s.name == name).map(|s| &s.map)
    }

    /// Keys and values of a map that a module keeps; of all steps that have one, in the
    /// order of the nodes.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn state(&self, map: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        for State { map, .. } in self.state.iter().filter(|s| s.name == map) {
            for key in map.keys() {
                if let Some(value) = map.lookup(&key, MapFlags::ANY)? {
                    entries.push((key, value));
                }
            }
        }
        Ok(entries)
    }
    /// Empties the maps that its modules keep: as if it had seen no packet.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn forget(&self) -> Result<()> {
        for State { name, map, .. } in &self.state {
            // First all of them: behind one that is deleted the kernel begins anew.
            let keys: Vec<Vec<u8>> = map.keys().collect();
            let zeros = vec![0; map.value_size() as usize];
            for key in keys {
                match map.map_type() {
                    // Entries of arrays are always there.
                    MapType::Array => map.update(&key, &zeros, MapFlags::ANY),
                    MapType::PercpuArray => {
                        let cpus = libbpf_rs::num_possible_cpus()?;
                        map.update_percpu(&key, &vec![zeros.clone(); cpus], MapFlags::ANY)
                    }
                    _ => map.delete(&key),
                }
                .with_context(|| format!("cannot empty the map {name}"))?;
            }
        }
        Ok(())
    }
}
