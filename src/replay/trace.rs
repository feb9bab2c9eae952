//! The way of one packet through a graph, from what its steps have counted.

use crate::graph::Graph;
use crate::graph::Target;

/// What became of a packet in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A selector that matches; an actor that has treated it.
    Match,
    /// A selector that does not match; an actor that has left it as it was.
    Miss,
    /// The step failed.
    Error,
}

/// Steps that a packet met, in the order in which it met them, by their places in the graph;
/// `counted`: what became of it in a step, if it came there.
///
/// An actor that ends the run (drop, accept, redirect) is the last one.
pub fn walk(graph: &Graph, counted: impl Fn(usize) -> Option<Outcome>) -> Vec<(usize, Outcome)> {
    let mut steps = Vec::new();
    let mut at = graph.start;
    // A graph has no circles: no way is longer than it has steps.
    while let Target::Node(node) = at {
        let Some(outcome) = counted(node).filter(|_| steps.len() < graph.nodes.len()) else {
            break;
        };
        steps.push((node, outcome));
        let node = &graph.nodes[node];
        at = match outcome {
            Outcome::Match => node.match_to,
            Outcome::Miss => node.miss_to,
            Outcome::Error => node.error_to,
        };
    }
    steps
}
