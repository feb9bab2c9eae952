//! Paths through a graph.

use std::collections::BTreeSet;
use std::ops::Range;

use super::BoundChain;
use super::Graph;
use super::MOST_STEPS_PER_RUN;
use super::Target;
use super::compile;
use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::params::TableContents;
use crate::policy::Diagnostic;

/// The longest path from the start: how many steps it has, and which.
///
/// Errors count as ways on, and tests are taken to be independent of one another. Of
/// equally long paths the one that matches first.
pub fn longest_path(graph: &Graph) -> (usize, Vec<usize>) {
    let count = graph.nodes.len();
    // Steps from each node on, and where they go on; targets have larger indices.
    let mut longest: Vec<(usize, Option<usize>)> = vec![(0, None); count];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let mut best = (1, None);
        for target in [node.match_to, node.miss_to, node.error_to] {
            if let Target::Node(target) = target {
                let steps = longest[target].0 + 1;
                if steps > best.0 {
                    best = (steps, Some(target));
                }
            }
        }
        longest[index] = best;
    }
    let mut path = Vec::new();
    let mut at = match graph.start {
        Target::Node(start) => Some(start),
        _ => None,
    };
    while let Some(index) = at {
        path.push(index);
        at = longest[index].1;
    }
    (path.len(), path)
}

/// Checks that every path fits in one run of a program: [`MOST_STEPS_PER_RUN`].
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
) -> Result<(), Diagnostic> {
    let (steps, path) = longest_path(graph);
    let Some(excess) = path
        .get(MOST_STEPS_PER_RUN)
        .and_then(|index| graph.nodes.get(*index))
    else {
        return Ok(());
    };
    let mut names = String::new();
    let mut chain = None;
    for node in path.iter().map(|index| &graph.nodes[*index]) {
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
        "a packet at {} can meet {steps} steps, but the kernel runs {MOST_STEPS_PER_RUN} in a row: {names}",
        graph.hook
    );
    Err(Diagnostic::new(&excess.at, message))
}

/// Cuts a list of chains into the fewest runs of consecutive chains that each fit in one
/// run of a program ([`check_run`]).
///
/// # Errors
///
/// A chain that does not fit alone.
pub fn split(
    hook: Hook,
    chains: &[&BoundChain<'_>],
    modules: &[Module],
) -> Result<Vec<Range<usize>>, Diagnostic> {
    let fits = |range: Range<usize>| {
        let chains = &chains[range];
        check_run(&compile(hook, chains, modules), chains, modules)
    };
    let mut runs = Vec::new();
    let mut start = 0;
    while start < chains.len() {
        fits(start..start + 1)?;
        let mut end = start + 1;
        while end < chains.len() && fits(start..end + 1).is_ok() {
            end += 1;
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
        for (edge, target) in [node.match_to, node.miss_to, node.error_to]
            .into_iter()
            .enumerate()
        {
            let Target::Node(target) = target else {
                continue;
            };
            let mut there = Found::new();
            if graph.nodes[target].chain == node.chain {
                there = here.clone();
                if edge == 0 && node.kind == Kind::Selector {
                    there.extend(node.params.tables.iter().filter_map(|binding| {
                        match &binding.contents {
                            TableContents::Named(name) => Some(name.clone()),
                            TableContents::Anonymous { .. } => None,
                        }
                    }));
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
