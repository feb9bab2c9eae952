//! Paths through a graph.

use std::collections::BTreeSet;
use std::iter;
use std::ops::Range;

use super::BoundChain;
use super::Graph;
use super::MOST_CALLS_PER_RUN;
use super::Target;
use super::compile;
use super::join;
use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::policy::Diagnostic;

/// What the kernel grants one run of an attached program, and what a graph spends of it.
#[derive(Clone, Copy)]
pub struct Budget<'a> {
    /// Tail calls of one run, the one into the first step included.
    pub calls: usize,
    /// The groups of nodes that are one program each ([`join`]): a way inside a group costs nothing,
    /// any other a call.
    pub groups: &'a Groups,
}

/// Puts the nodes of a graph into groups.
pub type Groups = dyn Fn(&Graph, &[Module]) -> Vec<Vec<usize>>;

impl std::fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Default for Budget<'_> {
    /// What the kernel grants, and what is joined as it is loaded.
    fn default() -> Self {
        Self {
            calls: MOST_CALLS_PER_RUN,
            groups: &|graph, modules| {
                let joinable = |module: &Module| module.joinable;
                join(graph, |node| modules.get(node.module).is_some_and(joinable))
            },
        }
    }
}

/// The longest path from the start, by the calls that it costs: how many these are, and each node
/// with the calls up to it.
///
/// Errors count as ways on, and tests are taken to be independent of one another. Of
/// equally long paths the one that matches first.
pub fn longest_path(
    graph: &Graph,
    modules: &[Module],
    budget: &Budget<'_>,
) -> (usize, Vec<(usize, usize)>) {
    let mut group_of = vec![0; graph.nodes.len()];
    for (group, nodes) in (budget.groups)(graph, modules).into_iter().enumerate() {
        nodes.into_iter().for_each(|node| group_of[node] = group);
    }
    let cost = |from: usize, to: usize| usize::from(group_of[from] != group_of[to]);
    // Calls from each node on, and where they go on; targets have larger indices.
    let mut longest: Vec<(usize, Option<usize>)> = vec![(0, None); graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let mut best = (0, None);
        for target in node.targets() {
            if let Target::Node(target) = target {
                let calls = longest[target].0 + cost(index, target);
                if best.1.is_none() || calls > best.0 {
                    best = (calls, Some(target));
                }
            }
        }
        longest[index] = best;
    }
    let mut path = Vec::new();
    let mut calls = 0;
    let mut at = match graph.start {
        Target::Node(start) => Some(start),
        _ => None,
    };
    while let Some(index) = at {
        calls += path.last().map_or(1, |(before, _)| cost(*before, index));
        path.push((index, calls));
        at = longest[index].1;
    }
    (calls, path)
}

/// Checks that every path fits in one run of a program.
///
/// `chains` are those that were compiled.
///
/// # Errors
///
/// The longest path, by chains and steps; at the first step that does not fit.
pub fn check_run(
    graph: &Graph,
    chains: &[&BoundChain<'_>],
    modules: &[Module],
    budget: &Budget<'_>,
) -> Result<(), Diagnostic> {
    let (calls, path) = longest_path(graph, modules, budget);
    let excess = path.iter().find(|(_, calls)| *calls > budget.calls);
    let Some(excess) = excess.and_then(|(index, _)| graph.nodes.get(*index)) else {
        return Ok(());
    };
    let mut names = String::new();
    let mut chain = None;
    for node in path.iter().map(|(index, _)| &graph.nodes[*index]) {
        if chain == Some(node.chain) {
            names.push_str(" → ");
        } else {
            let name = chains
                .get(node.chain)
                .map_or("", |chain| chain.chain.name.as_str());
            let separator = if chain.is_some() { "; " } else { "" };
            names.push_str(&format!("{separator}chain {name}: "));
            chain = Some(node.chain);
        }
        names.push_str(
            modules
                .get(node.module)
                .map_or("", |module| module.name.as_str()),
        );
    }
    let message = format!(
        "the way of a packet at {} can take {calls} tail calls, but the kernel makes {} in one run; \
         {} is the first step that does not fit: {names}",
        graph.hook, budget.calls, excess.key
    );
    Err(Diagnostic::new(&excess.at, message))
}

/// Cuts a list of chains into the fewest runs of consecutive chains that each fit in one
/// run of a program ([`check_run`]). At XDP there is one run only.
///
/// # Errors
///
/// What does not fit: all chains at XDP, elsewhere a chain alone.
pub fn split(
    hook: Hook,
    chains: &[&BoundChain<'_>],
    modules: &[Module],
    budget: &Budget<'_>,
) -> Result<Vec<Range<usize>>, Diagnostic> {
    let fits = |range: Range<usize>| {
        let chains = &chains[range];
        check_run(&compile(hook, chains, modules), chains, modules, budget)
    };
    let whole = fits(0..chains.len());
    if hook == Hook::Xdp || whole.is_ok() {
        return whole.map(|()| iter::once(0..chains.len()).collect());
    }
    let mut runs = Vec::new();
    let mut start = 0;
    while start < chains.len() {
        fits(start..start + 1)?;
        // The more chains, the longer the path: the last that fits is found by halving.
        let (mut end, mut too_far) = (start + 1, chains.len() + 1);
        while too_far - end > 1 {
            let middle = end.midpoint(too_far);
            if fits(start..middle).is_ok() {
                end = middle;
            } else {
                too_far = middle;
            }
        }
        runs.push(start..end);
        start = end;
    }
    Ok(runs)
}

/// Checks that every value that an actor takes from a table was found there: on every path to the
/// actor a selector of the same chain over that table has matched, or there is a default.
///
/// # Errors
///
/// Each parameter that may have no value, with a step that leads there without the lookup.
pub fn proves_lookup(graph: &Graph) -> Result<(), Vec<Diagnostic>> {
    type Found = BTreeSet<String>;
    // Tables in which something was found on every path to the node; `None` before any path is
    // known. And, for messages, the nodes that lead there with what was found by way of each.
    let mut found: Vec<Option<Found>> = vec![None; graph.nodes.len()];
    let mut ways: Vec<Vec<(usize, Found)>> = vec![Vec::new(); graph.nodes.len()];
    if let Target::Node(start) = graph.start {
        found[start] = Some(Found::new());
    }
    let mut errors = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let here = found[index].clone().unwrap_or_default();
        for from in node
            .params
            .from_table
            .iter()
            .filter(|from| from.default.is_none())
        {
            if here.contains(&from.table) {
                continue;
            }
            let way = ways[index]
                .iter()
                .find(|(_, found)| !found.contains(&from.table));
            let by = match way {
                Some((way, _)) => format!(" by way of {}", graph.nodes[*way].key),
                None => String::new(),
            };
            let message = format!(
                "{} comes from the table {:?}, but a packet can get here{by} without a match in \
                 that table: give a \"default\" beside \"table\"",
                from.param, from.table
            );
            errors.push(Diagnostic::new(&node.at, message));
        }
        for (edge, target) in node.targets().into_iter().enumerate() {
            let Target::Node(target) = target else {
                continue;
            };
            let mut there = Found::new();
            if graph.nodes[target].chain == node.chain {
                there = here.clone();
                if edge == 0 && node.kind == Kind::Selector {
                    there.extend(node.params.looked_up().map(str::to_owned));
                }
            }
            found[target] = Some(match found[target].take() {
                Some(known) => known.intersection(&there).cloned().collect(),
                None => there.clone(),
            });
            ways[target].push((index, there));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        errors.sort();
        errors.dedup();
        Err(errors)
    }
}
