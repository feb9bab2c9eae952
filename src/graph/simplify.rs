//! A graph without what is known, equal or never reached.

use std::collections::HashMap;

use super::Graph;
use super::Node;
use super::Target;
use crate::module::Kind;
use crate::module::Module;
use crate::params::Encoded;
use crate::params::TableContents;

/// Leaves out tests whose outcome is known, joins equal ones and removes what no packet reaches.
///
/// The nodes must be in topological order, and stay in it.
pub(super) fn simplify(mut graph: Graph, modules: &[Module]) -> Graph {
    let repeated = repeated(&graph, modules);
    skip_known(&mut graph, &repeated);
    join_equal(&mut graph, modules);
    prune(graph, &repeated)
}

/// Chain, module and parameters: what two tests have in common that always agree.
type Test<'a> = (usize, usize, &'a Encoded);

fn is_pure(node: &Node, modules: &[Module]) -> bool {
    let impure = modules
        .get(node.module)
        .is_none_or(|module| module.flags.impure);
    node.kind == Kind::Selector && !impure
}

/// For each node the number of its test, if it is one of several equal tests of which all but the
/// first can be left out.
fn repeated(graph: &Graph, modules: &[Module]) -> Vec<Option<usize>> {
    let mut tests: HashMap<Test<'_>, (usize, usize)> = HashMap::new();
    let mut numbers = vec![None; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        // What it finds would be overwritten by other lookups in between.
        let hands_on = modules
            .get(node.module)
            .is_none_or(|module| module.flags.context)
            || (node.params.tables.iter())
                .any(|binding| matches!(binding.contents, TableContents::Named(_)));
        if is_pure(node, modules) && !hands_on {
            let next = tests.len();
            let (number, count) = tests
                .entry((node.chain, node.module, &node.params))
                .or_insert((next, 0));
            *count += 1;
            numbers[index] = Some(*number);
        }
    }
    let mut several = vec![false; tests.len()];
    for (number, count) in tests.into_values() {
        several[number] = count > 1;
    }
    numbers
        .into_iter()
        .map(|number| number.filter(|number| several[*number]))
        .collect()
}

/// Leads each way on past the tests whose outcome is the same on every path to that way.
///
/// An outcome holds until the first actor of the chain, which may edit the packet: no test follows
/// it. Where paths join, only what all of them know is known further on; so an outcome
/// may be asked for again there.
fn skip_known(graph: &mut Graph, repeated: &[Option<usize>]) {
    type Facts = HashMap<usize, bool>;
    let count = graph.nodes.len();
    let mut known: Vec<Option<Facts>> = vec![None; count];
    if let Target::Node(start) = graph.start {
        known[start] = Some(Facts::new());
    }
    for index in 0..count {
        // Whatever is not reached leads nowhere.
        let Some(here) = known[index].take() else {
            continue;
        };
        let chain = graph.nodes[index].chain;
        let error_to = graph.nodes[index].error_to;
        let mut ways = graph.nodes[index].targets();
        for (way, outcome) in [(0, true), (1, false)] {
            let mut facts = here.clone();
            if let Some(test) = repeated[index] {
                facts.insert(test, outcome);
            }
            while let Target::Node(next) = ways[way] {
                let node = &graph.nodes[next];
                let fact = repeated[next].and_then(|test| facts.get(&test));
                match fact.filter(|_| node.chain == chain) {
                    Some(true) => ways[way] = node.match_to,
                    Some(false) => ways[way] = node.miss_to,
                    None => break,
                }
            }
            if let Target::Node(next) = ways[way] {
                // The numbers of tests are those of one chain.
                meet(&mut known[next], facts);
            }
        }
        if let Target::Node(next) = error_to {
            meet(&mut known[next], Facts::new());
        }
        graph.nodes[index].match_to = ways[0];
        graph.nodes[index].miss_to = ways[1];
    }

    fn meet(known: &mut Option<Facts>, facts: Facts) {
        match known {
            Some(known) => known.retain(|test, outcome| facts.get(test) == Some(outcome)),
            None => *known = Some(facts),
        }
    }
}

/// Leads to one node where several of a chain make the same test and lead on to the same targets.
fn join_equal(graph: &mut Graph, modules: &[Module]) {
    let mut first: HashMap<(usize, usize, Encoded, [Target; 3]), usize> = HashMap::new();
    let mut stands_for: Vec<usize> = (0..graph.nodes.len()).collect();
    let renamed = |target: Target, stands_for: &[usize]| match target {
        Target::Node(index) => Target::Node(stands_for[index]),
        out => out,
    };
    // From the end, so that the targets of a node are final; the last of equal ones stays,
    // because whatever leads to one of them is before it.
    let reached = reached(graph);
    for index in (0..graph.nodes.len()).rev().filter(|index| reached[*index]) {
        for target in graph.nodes[index].targets_mut() {
            *target = renamed(*target, &stands_for);
        }
        let node = &graph.nodes[index];
        if !is_pure(node, modules) {
            continue;
        }
        let key = (node.chain, node.module, node.params.clone(), node.targets());
        let last = *first.entry(key).or_insert(index);
        if last != index {
            stands_for[index] = last;
            // It is called after the first place where the test stands.
            let at = node.at.clone();
            let key = std::mem::take(&mut graph.nodes[index].key);
            let kept = &mut graph.nodes[last];
            let later = std::mem::replace(&mut kept.key, key);
            kept.also.insert(0, later);
            kept.at = at;
        }
    }
    graph.start = renamed(graph.start, &stands_for);
}

/// Which nodes a packet can reach.
fn reached(graph: &Graph) -> Vec<bool> {
    let mut reached = vec![false; graph.nodes.len()];
    if let Target::Node(start) = graph.start {
        reached[start] = true;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        if reached[index] {
            for target in node.targets() {
                if let Target::Node(target) = target {
                    reached[target] = true;
                }
            }
        }
    }
    reached
}

/// Removes what no packet reaches; the first of equal tests keeps the names of those
/// that it made superfluous.
fn prune(graph: Graph, repeated: &[Option<usize>]) -> Graph {
    let reached = reached(&graph);
    let mut number = vec![0; graph.nodes.len()];
    let mut nodes: Vec<Node> = Vec::new();
    let mut keeper: HashMap<usize, usize> = HashMap::new();
    let mut gone: Vec<(usize, String)> = Vec::new();
    for (index, node) in graph.nodes.into_iter().enumerate() {
        if reached[index] {
            number[index] = nodes.len();
            if let Some(test) = repeated[index] {
                keeper.entry(test).or_insert(nodes.len());
            }
            nodes.push(node);
        } else if let Some(test) = repeated[index]
            // One that was joined with another has given its name away.
            && !node.key.is_empty()
        {
            gone.push((test, node.key));
        }
    }
    let renumber = |target: Target| match target {
        Target::Node(index) => Target::Node(number[index]),
        out => out,
    };
    for node in &mut nodes {
        for target in node.targets_mut() {
            *target = renumber(*target);
        }
    }
    for (test, key) in gone {
        if let Some(node) = keeper.get(&test).and_then(|index| nodes.get_mut(*index)) {
            node.also.push(key);
        }
    }
    Graph {
        hook: graph.hook,
        nodes,
        start: renumber(graph.start),
    }
}
