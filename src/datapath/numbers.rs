//! Numbers of steps in the counters: stable over generations.

use std::collections::BTreeMap;

use anyhow::Result;
use libbpf_rs::MapHandle;

use super::counters;
use super::loader::Shared;
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

pub(super) fn capacity(ids: &BTreeMap<String, u32>, known: u32) -> u32 {
    let needed = ids.values().max().map_or(0, |id| id + 1);
    if needed <= known {
        known
    } else {
        needed.next_power_of_two()
    }
}

/// Numbers that were free may have been another step's once.
pub(super) fn clear_new_counters(
    shared: &Shared,
    stored: Option<&Stored>,
    ids: &BTreeMap<String, u32>,
) -> Result<()> {
    for (key, id) in ids {
        if !stored.is_some_and(|s| s.ids.contains_key(key)) {
            counters::clear(&shared.counters, *id)?;
        }
    }
    Ok(())
}

/// Adds what the steps counted before the change to what they count since.
pub(super) fn carry_over(
    old: &MapHandle,
    new: &MapHandle,
    stored: Option<&Stored>,
    now: &Stored,
) -> Result<()> {
    for (key, id) in stored.map(|s| &s.ids).into_iter().flatten() {
        if now.ids.get(key) == Some(id) {
            counters::add(new, *id, counters::read(old, *id)?)?;
        }
    }
    Ok(())
}
