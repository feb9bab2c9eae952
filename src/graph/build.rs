//! Chains to a graph.

use super::BoundChain;
use super::BoundExpr;
use super::BoundStep;
use super::Graph;
use super::Node;
use super::Target;
use super::simplify::simplify;
use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::policy::OnError;

/// Joins the chains of one hook and interface into a graph, in the order given;
/// disabled chains must not be among them.
///
/// A packet meets the chains one after the other. In each, the expression is evaluated from
/// left to right, and no further than needed:
///
/// - `all` goes on with its next part where one matches, and misses where one does not;
/// - `any` goes on with its next part where one does not match, and matches where one does;
/// - `not` exchanges both;
/// - `all` without parts matches, `any` without parts does not, and neither costs a step.
///
/// Where it matches, the actors run in order, each leading to the next and the last one to the next
/// chain; where it does not, the next chain follows. A step that fails leads to the
/// next chain, or drops the packet where the chain says so. Nothing follows an
/// actor that ends; behind the last chain the packet passes.
///
/// There is at most one node for each step. A test is left out where the outcome of an equal one,
/// of this chain or of one before, is known on the way ([`Node::also`]); and equal tests of a chain
/// with the same targets are one node. Not so where their module is impure, or hands on what
/// it finds, or where the chains have different zones. Every actor that ran makes unknown
/// what was known, but for those that only observe. Which packets come to a target stays
/// the same, as does the order of what is evaluated first.
pub fn compile(hook: Hook, chains: &[&BoundChain<'_>], modules: &[Module]) -> Graph {
    let mut builder = Builder {
        modules,
        nodes: Vec::new(),
        chain: 0,
        error: Target::Pass,
    };
    let mut next = Target::Pass;
    for (index, chain) in chains.iter().enumerate().rev() {
        builder.chain = index;
        builder.error = match chain.chain.on_error {
            OnError::Pass => next,
            OnError::Drop => Target::Drop,
        };
        next = builder.chain(chain, next);
    }
    let start = builder.renumbered(next);
    simplify(
        Graph {
            hook,
            nodes: builder.nodes,
            start,
        },
        modules,
        &chains.iter().map(|c| c.chain.zone).collect::<Vec<_>>(),
    )
}

/// Nodes are made from the end: every target exists before the node that leads
/// there, so that the order of their making, reversed, is topological.
struct Builder<'a> {
    modules: &'a [Module],
    nodes: Vec<Node>,
    chain: usize,
    error: Target,
}

impl Builder<'_> {
    fn chain(&mut self, chain: &BoundChain<'_>, next: Target) -> Target {
        let mut target = next;
        for (i, step) in chain.act.iter().enumerate().rev() {
            if self
                .modules
                .get(step.module)
                .is_some_and(|module| module.flags.ends)
            {
                // The module itself gives the verdict.
                target = Target::Pass;
            }
            target = self.push(step, Kind::Actor, target, target, i == 0);
        }
        self.expr(&chain.select, target, next)
    }

    fn expr(&mut self, expr: &BoundExpr, matched: Target, missed: Target) -> Target {
        match expr {
            BoundExpr::All(parts) => parts
                .iter()
                .rev()
                .fold(matched, |matched, part| self.expr(part, matched, missed)),
            BoundExpr::Any(parts) => parts
                .iter()
                .rev()
                .fold(missed, |missed, part| self.expr(part, matched, missed)),
            BoundExpr::Not(part) => self.expr(part, missed, matched),
            BoundExpr::Step(step) => self.push(step, Kind::Selector, matched, missed, false),
        }
    }

    fn push(
        &mut self,
        step: &BoundStep,
        kind: Kind,
        match_to: Target,
        miss_to: Target,
        first_actor: bool,
    ) -> Target {
        self.nodes.push(Node {
            chain: self.chain,
            at: step.at.clone(),
            key: step.key.clone(),
            order: 0,
            also: Vec::new(),
            module: step.module,
            kind,
            params: step.params.clone(),
            match_to,
            miss_to,
            error_to: self.error,
            first_actor,
        });
        Target::Node(self.nodes.len() - 1)
    }

    /// Turns the nodes around, so that the last one made comes first.
    fn renumbered(&mut self, start: Target) -> Target {
        let last = self.nodes.len().saturating_sub(1);
        let renumber = |target: Target| match target {
            Target::Node(index) => Target::Node(last - index),
            out => out,
        };
        self.nodes.reverse();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.order = index;
            for target in node.targets_mut() {
                *target = renumber(*target);
            }
        }
        renumber(start)
    }
}
