//! A graph without what is known, equal or never reached.

use std::collections::HashMap;

use super::Also;
use super::Graph;
use super::Node;
use super::Target;
use crate::module::Kind;
use crate::module::Module;
use crate::params::Encoded;
use crate::params::TableContents;

/// Leaves out tests whose outcome is known, joins equal ones and removes what no packet reaches.
///
/// The nodes must be in topological order, and stay in it. `zones`: of the chains.
pub(super) fn simplify(mut graph: Graph, modules: &[Module], zones: &[u32]) -> Graph {
    let repeated = repeated(&graph, modules, zones);
    for (origin, also) in skip_known(&mut graph, &repeated, modules) {
        graph.nodes[origin].also.push(also);
    }
    join_equal(&mut graph, modules);
    prune(graph)
}

/// Zone, module and parameters: what two tests have in common that always agree on a packet.
type Test<'a> = (Option<&'a u32>, usize, &'a Encoded);

fn is_pure(node: &Node, modules: &[Module]) -> bool {
    let impure = modules
        .get(node.module)
        .is_none_or(|module| module.flags.impure);
    node.kind == Kind::Selector && !impure
}

/// For each node the number of its test, if it is one of several equal tests of which all but the
/// first can be left out.
fn repeated(graph: &Graph, modules: &[Module], zones: &[u32]) -> Vec<Option<usize>> {
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
                .entry((zones.get(node.chain), node.module, &node.params))
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

/// What a test has said: the way (match, miss, error), and the node that asked.
type Facts = HashMap<usize, (usize, usize)>;

/// Leads each way on past the tests whose outcome is the same on every path to that way: of this
/// chain or of one before. Returns what was left out, with the node that has told the outcome.
///
/// An outcome holds until an actor that may change what a test sees. Where paths join, only
/// what all of them know is known further on; so an outcome may be asked for again there.
fn skip_known(
    graph: &mut Graph,
    repeated: &[Option<usize>],
    modules: &[Module],
) -> Vec<(usize, Also)> {
    let count = graph.nodes.len();
    let mut known: Vec<Option<Facts>> = vec![None; count];
    let mut left_out = Vec::new();
    if let Target::Node(start) = graph.start {
        known[start] = Some(Facts::new());
    }
    for index in 0..count {
        // Whatever is not reached leads nowhere.
        let Some(mut here) = known[index].take() else {
            continue;
        };
        let node = &graph.nodes[index];
        let observes = |module: &Module| module.flags.observes;
        if node.kind == Kind::Actor && !modules.get(node.module).is_some_and(observes) {
            here.clear();
        }
        let mut ways = node.targets();
        for (way, target) in ways.iter_mut().enumerate() {
            let mut facts = here.clone();
            if let Some(test) = repeated[index] {
                facts.insert(test, (way, index));
            }
            while let Target::Node(next) = *target {
                let Some((way, origin)) = repeated[next].and_then(|test| facts.get(&test)) else {
                    meet(&mut known[next], facts);
                    break;
                };
                let node = &graph.nodes[next];
                left_out.push((*origin, node.name()));
                *target = node.targets()[*way];
            }
        }
        graph.nodes[index].set_targets(ways);
    }
    return left_out;

    fn meet(known: &mut Option<Facts>, facts: Facts) {
        match known {
            Some(known) => {
                known.retain(|test, (way, _)| facts.get(test).is_some_and(|fact| fact.0 == *way));
            }
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
            let (at, name) = (node.at.clone(), node.name());
            let also = std::mem::take(&mut graph.nodes[index].also);
            let kept = &mut graph.nodes[last];
            let later = kept.name();
            kept.also.push(later);
            kept.also.extend(also);
            (kept.key, kept.order) = (name.key, name.order);
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

/// Removes what no packet reaches.
fn prune(graph: Graph) -> Graph {
    let reached = reached(&graph);
    let mut number = vec![0; graph.nodes.len()];
    let mut nodes: Vec<Node> = Vec::new();
    for (index, node) in graph.nodes.into_iter().enumerate() {
        if reached[index] {
            number[index] = nodes.len();
            nodes.push(node);
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
        node.also.sort_by_key(|also| also.order);
        node.also.dedup();
    }
    Graph {
        hook: graph.hook,
        nodes,
        start: renumber(graph.start),
    }
}
