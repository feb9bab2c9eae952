//! Reading of counters: the sum over all CPUs.

use std::collections::BTreeMap;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde::Deserialize;
use serde::Serialize;

use crate::abi;
use crate::module::Hook;

/// Counters of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets that reached the step.
    pub evaluated: u64,
    /// Selector: packets that matched. Actor: packets that it treated.
    pub matched: u64,
    /// Packets for which it failed.
    pub errors: u64,
    /// First actor of a chain: bytes that the chain selected.
    pub bytes: u64,
}

impl Counters {
    /// As a program counts.
    pub(super) fn of(counter: &abi::Counter) -> Self {
        Self {
            // Every packet that reaches a step is counted once.
            evaluated: counter.matched + counter.missed + counter.errors,
            matched: counter.matched,
            errors: counter.errors,
            bytes: counter.bytes,
        }
    }

    /// The sum with those of one CPU.
    fn plus(self, value: &[u8]) -> Result<Self> {
        let mut counter = abi::Counter::default();
        plain::copy_from_bytes(&mut counter, value)
            .map_err(|_| anyhow::anyhow!("counters have another size"))?;
        let counted = Self::of(&counter);
        Ok(Self {
            evaluated: self.evaluated + counted.evaluated,
            matched: self.matched + counted.matched,
            errors: self.errors + counted.errors,
            bytes: self.bytes + counted.bytes,
        })
    }

    /// What was counted since these.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            evaluated: self.evaluated.saturating_sub(before.evaluated),
            matched: self.matched.saturating_sub(before.matched),
            errors: self.errors.saturating_sub(before.errors),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

/// Reads the counters of so many steps that lie in one value.
pub(crate) fn read_row(map: &impl libbpf_rs::MapCore, steps: usize) -> Result<Vec<Counters>> {
    let per_cpu = map
        .lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)?
        .context("there are no counters")?;
    let size = size_of::<abi::Counter>();
    let mut sums = vec![Counters::default(); steps];
    for value in per_cpu {
        for (sum, value) in sums.iter_mut().zip(value.chunks_exact(size)) {
            *sum = sum.plus(value)?;
        }
    }
    Ok(sums)
}

/// The counters of all steps, as they were at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Vec<Counters>);

impl Counted {
    /// Reads them.
    pub(crate) fn read(blocks: &[MapHandle]) -> Result<Self> {
        let mut all = Vec::new();
        for block in blocks {
            all.extend(read_row(block, abi::COUNTER_BLOCK as usize)?);
        }
        Ok(Self(all))
    }

    /// Those of the step with this number, since it has it: `bases` holds what the counters showed
    /// when it got a number that another step had before.
    pub(crate) fn of(&self, step: u32, bases: &BTreeMap<u32, Counters>) -> Counters {
        let base = bases.get(&step).copied().unwrap_or_default();
        self.raw(step).since(base)
    }

    /// Those with this number, whoever had it.
    pub(crate) fn raw(&self, step: u32) -> Counters {
        self.0.get(step as usize).copied().unwrap_or_default()
    }
}

/// Packets of a hook by reason, those that are not zero.
pub(crate) fn reasons(map: &MapHandle, hook: Hook) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for (number, name) in abi::reason_names().iter().enumerate() {
        let key = u32::from(abi::hook_number(hook)) * abi::REASONS as u32 + number as u32;
        let per_cpu = map
            .lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY)?
            .unwrap_or_default();
        let sum: u64 = per_cpu
            .iter()
            .filter_map(|v| v.first_chunk::<8>())
            .map(|v| u64::from_ne_bytes(*v))
            .sum();
        if sum > 0 {
            found.push((name.clone(), sum));
        }
    }
    Ok(found)
}
