//! Chains to a graph.

use std::collections::HashMap;

use super::BoundChain;
use super::BoundExpr;
use super::BoundStep;
use super::Graph;
use super::Node;
use super::Target;
use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::params::Encoded;
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
/// There is at most one node for each step. Equal tests of one chain that lead on to the same
/// targets are one node, unless their module is impure: which packets come to
/// a target, and what is evaluated on the way, stays the same. Steps of two chains
/// are never shared, so that counters belong to one chain.
pub fn compile(hook: Hook, chains: &[&BoundChain<'_>], modules: &[Module]) -> Graph {
    let mut builder = Builder {
        modules,
        nodes: Vec::new(),
        shared: HashMap::new(),
        chain: 0,
        error: Target::Pass,
    };
    let mut next = Target::Pass;
    for (index, chain) in chains.iter().enumerate().rev() {
        builder.shared.clear();
        builder.chain = index;
        builder.error = match chain.chain.on_error {
            OnError::Pass => next,
            OnError::Drop => Target::Drop,
        };
        next = builder.chain(chain, next);
    }
    builder.finish(hook, next)
}

/// Nodes are made from the end: every target exists before the node that leads
/// there, so that the order of their making, reversed, is topological.
struct Builder<'a> {
    modules: &'a [Module],
    nodes: Vec<Node>,
    /// Nodes of this chain that may be shared.
    shared: HashMap<(usize, Encoded, Target, Target), usize>,
    chain: usize,
    error: Target,
}

impl Builder<'_> {
    fn chain(&mut self, chain: &BoundChain<'_>, next: Target) -> Target {
        let mut target = next;
        if outcomes(&chain.select).matches {
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
        }
        self.expr(&chain.select, target, next)
    }

    fn expr(&mut self, expr: &BoundExpr, matched: Target, missed: Target) -> Target {
        match expr {
            BoundExpr::All(parts) => {
                let last = parts.iter().position(|part| !outcomes(part).matches);
                let reached = &parts[..last.map_or(parts.len(), |last| last + 1)];
                reached
                    .iter()
                    .rev()
                    .fold(matched, |matched, part| self.expr(part, matched, missed))
            }
            BoundExpr::Any(parts) => {
                let last = parts.iter().position(|part| !outcomes(part).misses);
                let reached = &parts[..last.map_or(parts.len(), |last| last + 1)];
                reached
                    .iter()
                    .rev()
                    .fold(missed, |missed, part| self.expr(part, matched, missed))
            }
            BoundExpr::Not(part) => self.expr(part, missed, matched),
            BoundExpr::Step(step) => self.test(step, matched, missed),
        }
    }

    fn test(&mut self, step: &BoundStep, matched: Target, missed: Target) -> Target {
        if self
            .modules
            .get(step.module)
            .is_none_or(|module| module.flags.impure)
        {
            return self.push(step, Kind::Selector, matched, missed, false);
        }
        let key = (step.module, step.params.clone(), matched, missed);
        if let Some(index) = self.shared.get(&key).copied() {
            let node = &mut self.nodes[index];
            // This step stands before the one for which the node was made.
            let later = std::mem::replace(&mut node.key, step.key.clone());
            node.also.insert(0, later);
            node.at = step.at.clone();
            return Target::Node(index);
        }
        let target = self.push(step, Kind::Selector, matched, missed, false);
        self.shared.insert(key, self.nodes.len() - 1);
        target
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

    /// Leaves out what no packet reaches, and numbers the rest from the start.
    fn finish(self, hook: Hook, start: Target) -> Graph {
        let mut reached = vec![false; self.nodes.len()];
        if let Target::Node(start) = start {
            reached[start] = true;
        }
        for index in (0..self.nodes.len()).rev() {
            if reached[index] {
                let node = &self.nodes[index];
                for target in [node.match_to, node.miss_to, node.error_to] {
                    if let Target::Node(target) = target {
                        reached[target] = true;
                    }
                }
            }
        }
        let mut number = vec![0; self.nodes.len()];
        let kept = (0..self.nodes.len()).rev().filter(|index| reached[*index]);
        for (new, old) in kept.enumerate() {
            number[old] = new;
        }
        let renumber = |target: Target| match target {
            Target::Node(index) => Target::Node(number[index]),
            out => out,
        };
        let kept = self
            .nodes
            .into_iter()
            .enumerate()
            .rev()
            .filter(|(index, _)| reached[*index]);
        let nodes = kept.map(|(_, node)| Node {
            match_to: renumber(node.match_to),
            miss_to: renumber(node.miss_to),
            error_to: renumber(node.error_to),
            ..node
        });
        Graph {
            hook,
            nodes: nodes.collect(),
            start: renumber(start),
        }
    }
}

/// Which outcomes an expression can have, whatever its steps say.
#[derive(Clone, Copy)]
struct Outcomes {
    matches: bool,
    misses: bool,
}

fn outcomes(expr: &BoundExpr) -> Outcomes {
    match expr {
        BoundExpr::Step(_) => Outcomes {
            matches: true,
            misses: true,
        },
        BoundExpr::Not(part) => {
            let part = outcomes(part);
            Outcomes {
                matches: part.misses,
                misses: part.matches,
            }
        }
        BoundExpr::All(parts) => {
            let mut all = Outcomes {
                matches: true,
                misses: false,
            };
            for part in parts.iter().map(outcomes) {
                all.misses |= part.misses;
                if !part.matches {
                    all.matches = false;
                    break;
                }
            }
            all
        }
        BoundExpr::Any(parts) => {
            let mut any = Outcomes {
                matches: false,
                misses: true,
            };
            for part in parts.iter().map(outcomes) {
                any.matches |= part.matches;
                if !part.misses {
                    any.misses = false;
                    break;
                }
            }
            any
        }
    }
}
