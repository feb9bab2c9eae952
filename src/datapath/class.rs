//! What is loaded as one: a graph of steps at a hook, with all that decides how its
//! programs look.

use libbpf_rs::MapHandle;

use crate::abi;
use crate::abi::Framing;
use crate::graph::Graph;
use crate::graph::Target;
use crate::module::Family;
use crate::module::Hook;

/// One graph with all that decides how its programs look.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) hook: Hook,
    pub(crate) framing: Framing,
    /// XDP for packets of several buffers.
    pub(crate) frags: bool,
    pub(crate) graph: Graph,
    /// Number of each node in the counters.
    pub(crate) ids: Vec<u32>,
    /// Zone of each node's chain.
    pub(crate) zones: Vec<u32>,
    /// Packets that cannot be parsed are dropped, because a chain asks for it.
    pub(crate) drop_undecidable: bool,
    /// Programs count (the rule; `bench` measures without too).
    pub(crate) count: bool,
    /// Steps are joined into programs (the rule; tests look at single ones too).
    pub(crate) join: bool,
    /// Another part of the policy follows at this hook.
    pub(crate) more: bool,
}

impl Class {
    pub(crate) fn family(&self) -> Family {
        self.hook.into()
    }

    /// What the entry program must know to run this class.
    pub(crate) fn start(&self) -> Start {
        Start {
            // The first group begins with the first node.
            slot: match self.graph.start {
                Target::Node(_) => 0,
                Target::Pass => abi::SLOT_PASS,
                Target::Drop => abi::SLOT_DROP,
            },
            undecidable: if self.drop_undecidable {
                abi::SLOT_DROP
            } else {
                abi::SLOT_PASS
            },
        }
    }
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Start {
    pub(crate) slot: u32,
    /// Slot for packets that cannot be parsed.
    pub(crate) undecidable: u32,
}

/// A class in the kernel.
#[derive(Debug)]
pub(crate) struct LoadedClass {
    /// The program array.
    pub(crate) array: MapHandle,
    /// For each step the slot of its program, and the program's id.
    pub(crate) programs: Vec<(u32, u32)>,
}

/// One side of an entry program.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    pub(crate) generation: u64,
    pub(crate) array: &'a MapHandle,
    pub(crate) start: Start,
    /// Programs behind the first over which it is split at the hook.
    pub(crate) later: usize,
}
