//! Which steps become one program.

use super::Graph;
use super::Node;
use super::Target;

/// Steps of a program at the most: the verifier walks through all of them at once.
const MOST_STEPS: usize = 12;

/// Puts the nodes of a graph into groups, each of which becomes one program: inside a group a
/// step leads to the next by a plain jump, from group to group by a tail call.
///
/// A group is entered at its first node only: every other one is reached from nodes of the group
/// alone. Nodes are in ascending order, so that jumps lead forward. A node that is not `joinable`
/// is a group of its own.
pub fn join(graph: &Graph, joinable: impl Fn(&Node) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of = vec![usize::MAX; graph.nodes.len()];
    let from = predecessors(graph);
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut sources = from[index].iter().map(|source| group_of[*source]);
        let only = sources.next().filter(|first| sources.all(|s| s == *first));
        let room = only.filter(|group| {
            let nodes = &groups[*group];
            joinable(node) && nodes.len() < MOST_STEPS && joinable(&graph.nodes[nodes[0]])
        });
        let group = room.unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(index);
        group_of[index] = group;
    }
    groups
}

/// Every node a group of its own.
pub fn apart(graph: &Graph) -> Vec<Vec<usize>> {
    (0..graph.nodes.len()).map(|node| vec![node]).collect()
}

/// For each node those that lead to it, each once.
pub(crate) fn predecessors(graph: &Graph) -> Vec<Vec<usize>> {
    let mut from = vec![Vec::new(); graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        for target in node.targets() {
            if let Target::Node(target) = target
                && from[target].last() != Some(&index)
            {
                from[target].push(index);
            }
        }
    }
    from
}
