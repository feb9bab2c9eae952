//! Chains of one hook and interface as a decision graph.
//!
//! Two steps lead there: [`bind`] checks every step of a policy against the
//! descriptions of the modules and encodes its parameters; [`compile`] joins
//! the chains that meet at one hook of one interface.

mod bind;
mod build;
mod join;
mod path;
mod simplify;
mod tracker;
mod values;

#[cfg(test)]
mod tests;

pub use bind::bind;
pub(crate) use bind::bind_expr;
pub use build::compile;
pub use join::apart;
pub use join::join;
pub(crate) use join::predecessors;
pub use path::Budget;
pub use path::Groups;
pub use path::check_run;
pub use path::longest_path;
pub use path::proves_lookup;
pub use path::split;
pub use tracker::with_tracker;
pub use values::check_values;
pub(crate) use values::value_tables;

use crate::module::Hook;
use crate::module::Kind;
use crate::params::Encoded;
use crate::policy::Chain;
use crate::policy::Place;

/// Tail calls that the kernel makes in one run of a program, the one into the
/// first step included.
pub const MOST_CALLS_PER_RUN: usize = 33;

/// A chain whose steps are checked and encoded.
#[derive(Clone, Debug)]
pub struct BoundChain<'a> {
    /// The chain as written.
    pub chain: &'a Chain,
    /// Its expression.
    pub select: BoundExpr,
    /// Its actors; at least one.
    pub act: Vec<BoundStep>,
}

impl BoundChain<'_> {
    /// All its steps: selectors as written, then actors.
    pub fn steps(&self) -> Vec<&BoundStep> {
        let mut steps = Vec::new();
        self.select.steps(&mut steps);
        steps.extend(&self.act);
        steps
    }
}

/// An expression whose steps are checked and encoded.
#[derive(Clone, Debug)]
pub enum BoundExpr {
    /// Every part matches.
    All(Vec<BoundExpr>),
    /// A part matches.
    Any(Vec<BoundExpr>),
    /// The part does not match.
    Not(Box<BoundExpr>),
    /// A selector.
    Step(BoundStep),
}

impl BoundExpr {
    fn steps<'e>(&'e self, steps: &mut Vec<&'e BoundStep>) {
        match self {
            BoundExpr::All(parts) | BoundExpr::Any(parts) => {
                parts.iter().for_each(|part| part.steps(steps));
            }
            BoundExpr::Not(part) => part.steps(steps),
            BoundExpr::Step(step) => steps.push(step),
        }
    }
}

/// A step that is checked and encoded.
#[derive(Clone, Debug)]
pub struct BoundStep {
    /// Where the module's name stands.
    pub at: Place,
    /// Stable id, unique in the policy: such as `cap-lte/select/all[1]`.
    pub key: String,
    /// Index in the slice of modules.
    pub module: usize,
    /// Its parameters.
    pub params: Encoded,
}

/// Where a step leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// To a node of the graph.
    Node(usize),
    /// Out of emptcp: the packet goes on.
    Pass,
    /// The packet is dropped.
    Drop,
}

/// A step in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// Index in the slice of chains that was compiled.
    pub chain: usize,
    /// Where the module's name stands.
    pub at: Place,
    /// Stable id of the step, unique in the graph: such as `cap-lte/select/all[1]`.
    pub key: String,
    /// Place among the steps of all chains, as written.
    pub order: usize,
    /// Equal tests, of this chain and of later ones, that are left out because this one stands
    /// for them or has told what they would say; on all ways, or on some.
    pub also: Vec<Also>,
    /// Index in the slice of modules.
    pub module: usize,
    /// Selector or actor.
    pub kind: Kind,
    /// Its parameters.
    pub params: Encoded,
    /// Where a selector leads that matches, and an actor that is done.
    pub match_to: Target,
    /// Where a selector leads that does not match; that of an actor is `match_to`.
    pub miss_to: Target,
    /// Where a step leads that fails.
    pub error_to: Target,
    /// The first actor of its chain: whoever comes here has matched.
    pub first_actor: bool,
}

/// A test for which the node of another one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Also {
    /// Index in the slice of chains that was compiled.
    pub chain: usize,
    /// Stable id.
    pub key: String,
    /// Place among the steps of all chains, as written.
    pub order: usize,
}

impl Node {
    /// All ways on.
    pub fn targets(&self) -> [Target; 3] {
        [self.match_to, self.miss_to, self.error_to]
    }

    fn set_targets(&mut self, targets: [Target; 3]) {
        [self.match_to, self.miss_to, self.error_to] = targets;
    }

    fn name(&self) -> Also {
        Also {
            chain: self.chain,
            key: self.key.clone(),
            order: self.order,
        }
    }

    fn targets_mut(&mut self) -> [&mut Target; 3] {
        [&mut self.match_to, &mut self.miss_to, &mut self.error_to]
    }
}

/// The chains of one hook and interface.
///
/// `nodes` is in topological order, `start` (if it is a node) first: every
/// target has a larger index.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The hook.
    pub hook: Hook,
    /// The steps.
    pub nodes: Vec<Node>,
    /// Where a packet begins.
    pub start: Target,
}
