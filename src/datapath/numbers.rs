//! Numbers of steps in the counters: stable over generations.

use std::collections::BTreeMap;

use super::counters::Counted;
use super::counters::Counters;
use super::stored::Stored;
use crate::module::Hook;

/// Identity of a step in the counters: a chain counts apart at each of its hooks.
pub(super) fn step_name(hook: Hook, key: &str, module: &str) -> String {
    format!("{hook} {key} {module}")
}

/// Numbers for steps: those they had, else the lowest that are free.
pub(super) fn number(before: &BTreeMap<String, u32>, keys: Vec<String>) -> BTreeMap<String, u32> {
    let mut ids = BTreeMap::new();
    for key in &keys {
        if let Some(id) = before.get(key) {
            ids.insert(key.clone(), *id);
        }
    }
    let taken: std::collections::BTreeSet<u32> = before.values().copied().collect();
    let mut free = (0..).filter(|id| !taken.contains(id));
    for key in keys {
        if let std::collections::btree_map::Entry::Vacant(e) = ids.entry(key) {
            e.insert(free.next().unwrap_or_default());
        }
    }
    ids
}

/// How many numbers there must be counters for.
pub(super) fn needed(ids: &BTreeMap<String, u32>) -> u32 {
    ids.values().max().map_or(0, |id| id + 1)
}

/// What the counters of each step showed when it got its number. They are not set to zero: steps
/// beside it in their block go on counting.
pub(super) fn bases(
    counted: &Counted,
    stored: Option<&Stored>,
    ids: &BTreeMap<String, u32>,
) -> BTreeMap<u32, Counters> {
    let mut bases = BTreeMap::new();
    for (key, id) in ids {
        let base = match stored.filter(|s| s.ids.contains_key(key)) {
            Some(stored) => stored.bases.get(id).copied().unwrap_or_default(),
            None => counted.raw(*id),
        };
        if base != Counters::default() {
            bases.insert(*id, base);
        }
    }
    bases
}
