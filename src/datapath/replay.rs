//! Chains of one hook that packets of a capture run through: a copy of the policy with
//! maps of its own, in force nowhere, whose clock is set for each packet.

use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use nix::errno::Errno;
use nix::sched;
use nix::sched::CloneFlags;
use nix::sched::CpuSet;
use nix::unistd::Pid;

use super::class::Class;
use super::class::Side;
use super::counters::Counters;
use super::instance::State;
use super::instance::Verdict;
use super::instance::state_map;
use super::loader::Loader;
use super::netlink;
use super::shared::Shared;
use super::tables;
use crate::abi;
use crate::abi::Framing;
use crate::interface::ONE_BUFFER_MTU;
use crate::module::Family;
use crate::module::Hook;
use crate::module::KernelVersion;
use crate::module::Registry;
use crate::plan::ClassPlan;
use crate::sys;
use crate::sys::Mapped;
use crate::table::Planned;

/// The kernel that runs XDP programs on packets of several buffers.
const FRAGS_SINCE: KernelVersion = KernelVersion(5, 18);

/// Brings the calling thread into a new network namespace with nothing but a loopback
/// interface, so that a packet which an actor clones or redirects goes nowhere, and keeps it on
/// one CPU.
///
/// # Errors
///
/// `CAP_SYS_ADMIN` is missing.
pub fn isolate() -> Result<()> {
    match sched::unshare(CloneFlags::CLONE_NEWNET) {
        // Said here: what other verbs lack is something else.
        Err(Errno::EPERM) => bail!(
            "replay makes a network namespace of its own, for which this process lacks \
             CAP_SYS_ADMIN: run it as root"
        ),
        other => other
            .map_err(io::Error::from)
            .context("cannot make a network namespace for the replay")?,
    }
    netlink::set_up(LOOPBACK).context("cannot set up the loopback interface")?;
    let mut cpus = CpuSet::new();
    let cpu = sched::sched_getcpu().map_err(io::Error::from)?;
    cpus.set(cpu).map_err(io::Error::from)?;
    sched::sched_setaffinity(Pid::from_raw(0), &cpus)
        .map_err(io::Error::from)
        .context("cannot stay on one CPU")
}

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// How packets look that go through the same programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flavour {
    raw_ip: bool,
    frags: bool,
}

/// A part of the policy in the kernel.
#[derive(Debug)]
struct Part {
    entry: OwnedFd,
    /// Kept: programs of an array that nobody holds are gone.
    _array: MapHandle,
}

/// What became of a packet.
#[derive(Debug)]
pub enum Ran {
    /// It ran.
    Done {
        /// What became of it.
        verdict: Verdict,
        /// Its bytes when it came out.
        packet: Vec<u8>,
    },
    /// The kernel does not take it for a test run.
    Refused(io::Error),
}

/// What a replay has counted, in the memory of this process too: a system call for each step and
/// reason behind each packet takes ten times as long as the packet.
#[derive(Debug)]
struct Counted {
    blocks: Vec<Mapped>,
    reasons: Mapped,
}

/// Words of the counters of a step, and of all that lie in one value.
const STEP_WORDS: usize = size_of::<abi::Counter>() / 8;
const BLOCK_WORDS: usize = STEP_WORDS * abi::COUNTER_BLOCK as usize;

impl Counted {
    fn new(shared: &Shared) -> Result<Self> {
        let map = |map: &MapHandle, words| Mapped::new(map, words).context("cannot map counters");
        let blocks = shared.counters.iter().map(|b| map(b, BLOCK_WORDS));
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            reasons: map(&shared.reasons, Hook::ALL.len() * abi::REASONS)?,
        })
    }

    fn step(&self, step: usize) -> Counters {
        let block = self.blocks.get(step / abi::COUNTER_BLOCK as usize);
        let first = step % abi::COUNTER_BLOCK as usize * STEP_WORDS;
        let word = |at: usize| block.and_then(|b| b.word(first + at / 8)).unwrap_or(0);
        Counters::of(&abi::Counter {
            matched: word(offset_of!(abi::Counter, matched)),
            missed: word(offset_of!(abi::Counter, missed)),
            errors: word(offset_of!(abi::Counter, errors)),
            bytes: word(offset_of!(abi::Counter, bytes)),
        })
    }
}

/// Chains of one hook, for packets of a capture.
#[derive(Debug)]
pub struct Replay<'r> {
    loader: Loader<'r>,
    kernel: KernelVersion,
    hook: Hook,
    parts: Vec<ClassPlan>,
    loaded: Vec<(Flavour, Vec<Part>)>,
    counted: Counted,
    shared: Shared,
    /// For the entry programs of later parts, which run by themselves here: what cannot be parsed
    /// the first one has counted.
    later: Shared,
    state: Vec<State>,
    time: Option<u64>,
}

impl<'r> Replay<'r> {
    /// Makes the maps; programs are loaded with the first packet that needs them. `parts`: see
    /// [`crate::plan::at_hook`].
    ///
    /// # Errors
    ///
    /// No privilege, no memory.
    pub fn new(
        registry: &'r Registry,
        kernel: KernelVersion,
        hook: Hook,
        parts: Vec<ClassPlan>,
        tables: &[Planned],
    ) -> Result<Self> {
        let steps: usize = parts.iter().map(|p| p.graph.nodes.len()).sum();
        let mut shared = Shared::for_replay(steps as u32)?;
        shared.tables = tables::load(tables)?;
        let counted = Counted::new(&shared)?;
        let later = Shared::create()?;
        for shared in [&shared, &later] {
            sys::store_u64(&shared.generation, 0, GENERATION)
                .context("cannot put the generation in force")?;
        }
        Ok(Self {
            loader: Loader::new(registry, kernel),
            kernel,
            hook,
            parts,
            loaded: Vec::new(),
            counted,
            shared,
            later,
            state: Vec::new(),
            time: None,
        })
    }

    /// Loads the programs for packets of this kind.
    ///
    /// # Errors
    ///
    /// No privilege, no memory, or the verifier refuses a step.
    fn load(&mut self, flavour: Flavour) -> Result<usize> {
        if let Some(known) = self.loaded.iter().position(|(f, _)| *f == flavour) {
            return Ok(known);
        }
        let mut loaded = Vec::new();
        let mut first = 0;
        for (number, part) in self.parts.iter().enumerate() {
            let nodes = part.graph.nodes.len() as u32;
            let class = Class {
                hook: self.hook,
                framing: if flavour.raw_ip {
                    Framing::Ip
                } else {
                    Framing::Ether
                },
                frags: flavour.frags,
                graph: part.graph.clone(),
                ids: (first..first + nodes).collect(),
                zones: part.zones.clone(),
                drop_undecidable: part.drop_undecidable,
                count: true,
                join: true,
                more: part.more,
            };
            first += nodes;
            let state = &mut self.state;
            let programs = self
                .loader
                .load_class(&class, &self.shared, &mut |w| state_map(state, &w, None))?;
            let side = Side {
                generation: GENERATION,
                array: &programs.array,
                start: class.start(),
                later: if number == 0 { self.parts.len() - 1 } else { 0 },
            };
            let shared = if number == 0 {
                &self.shared
            } else {
                &self.later
            };
            let entry = self.loader.load_entry(&class, shared, true, &side, None)?;
            loaded.push(Part {
                entry,
                _array: programs.array,
            });
        }
        self.loaded.push((flavour, loaded));
        Ok(self.loaded.len() - 1)
    }

    /// Runs a packet. `raw_ip`: it begins with an IP header; `time`: nanoseconds, what modules
    /// take for the time.
    ///
    /// # Errors
    ///
    /// Programs cannot be loaded; the kernel's.
    pub fn run(&mut self, raw_ip: bool, packet: &[u8], time: u64) -> Result<Ran> {
        let frags = self.hook == Hook::Xdp
            && packet.len() > ONE_BUFFER_MTU as usize
            && self.kernel >= FRAGS_SINCE;
        let loaded = self.load(Flavour { raw_ip, frags })?;
        if self.time != Some(time) {
            let clock = self.shared.replay_clock.as_ref().context("no clock")?;
            clock.update(&0u32.to_ne_bytes(), &time.to_ne_bytes(), MapFlags::ANY)?;
            self.time = Some(time);
        }
        let family = Family::from(self.hook);
        let parts = &self.loaded[loaded].1;
        // Where a part follows it takes the mark too.
        let mut mark = (parts.len() > 1).then_some(0);
        let mut out: Option<Vec<u8>> = None;
        let mut verdict = Verdict::Pass;
        for (number, part) in parts.iter().enumerate() {
            let run = match sys::test_run(&part.entry, out.as_deref().unwrap_or(packet), mark, 1) {
                Ok(run) => run,
                Err(error) if number == 0 && refuses_packet(&error) => {
                    return Ok(Ran::Refused(error));
                }
                Err(error) => return Err(error).context("test run"),
            };
            out = Some(run.packet);
            mark = mark.map(|_| run.mark);
            verdict = Verdict::of(family, run.verdict);
            let last = number + 1 == parts.len();
            if verdict != Verdict::Pass || last || self.ended_here()? {
                break;
            }
        }
        Ok(Ran::Done {
            verdict,
            packet: out.unwrap_or_else(|| packet.to_vec()),
        })
    }

    /// Whether an actor keeps the packet from later parts (`ctx_end_here()` of `ctx_tc.h`): the
    /// first part's entry program has left the generation on this CPU, and such an actor takes it
    /// away.
    fn ended_here(&self) -> Result<bool> {
        const GENERATION_AT: usize = offset_of!(abi::Handover, generation);
        let key = u32::from(abi::hook_number(self.hook)).to_ne_bytes();
        let per_cpu = self.shared.handover.lookup_percpu(&key, MapFlags::ANY)?;
        let left = |value: &Vec<u8>| {
            let bytes = value.get(GENERATION_AT..).and_then(|v| v.first_chunk());
            bytes.map(|bytes| u64::from_ne_bytes(*bytes)) == Some(GENERATION)
        };
        Ok(!per_cpu.iter().flatten().any(left))
    }

    /// What each step has counted: those of the parts, one behind the other.
    pub fn counters(&self) -> Vec<Counters> {
        let steps: usize = self.parts.iter().map(|p| p.graph.nodes.len()).sum();
        (0..steps).map(|step| self.counted.step(step)).collect()
    }

    /// Packets by reason, those that are not zero.
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let first = usize::from(abi::hook_number(self.hook)) * abi::REASONS;
        let names = abi::reason_names().iter().enumerate();
        let counted = names.map(|(number, name)| (name, self.counted.reasons.word(first + number)));
        counted
            .filter_map(|(name, count)| Some((name.clone(), count.filter(|c| *c > 0)?)))
            .collect()
    }

    /// Where its chains run.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The parts, in their order.
    pub fn parts(&self) -> &[ClassPlan] {
        &self.parts
    }
}

/// Number of the one generation that there is.
const GENERATION: u64 = 1;

/// Whether the kernel has refused this packet, not packets: too short or too long for a test run,
/// or one whose headers it looks at.
fn refuses_packet(error: &io::Error) -> bool {
    let refusals = [Errno::EINVAL, Errno::EMSGSIZE, Errno::E2BIG, Errno::ENODATA];
    refusals
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}
