//! Reading of counters: the sum over all CPUs.

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde::Serialize;

use crate::abi;
use crate::module::Hook;

/// Counters of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// The sum with those of one CPU.
    fn plus(self, value: &[u8]) -> Result<Self> {
        let mut counter = abi::Counter::default();
        plain::copy_from_bytes(&mut counter, value)
            .map_err(|_| anyhow::anyhow!("counters have another size"))?;
        Ok(Self {
            evaluated: self.evaluated + counter.evaluated,
            matched: self.matched + counter.matched,
            errors: self.errors + counter.errors,
            bytes: self.bytes + counter.bytes,
        })
    }
}

/// Reads the counters of a step.
pub(crate) fn read(map: &MapHandle, step: u32) -> Result<Counters> {
    let per_cpu = map
        .lookup_percpu(&step.to_ne_bytes(), MapFlags::ANY)?
        .with_context(|| format!("there are no counters of step {step}"))?;
    let mut sum = Counters::default();
    for value in per_cpu {
        sum = sum.plus(&value)?;
    }
    Ok(sum)
}

/// Reads the counters of so many steps that lie in one value.
pub(crate) fn read_row(map: &impl libbpf_rs::MapCore, steps: usize) -> Result<Vec<Counters>> {
    let per_cpu = map
        .lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)?
        .context("there are no counters")?;
    let size = size_of::<abi::Counter>();
    let mut sums = vec![Counters::default(); steps];
    for value in per_cpu {
        for (sum, value) in sums.iter_mut().zip(value.chunks(size)) {
            *sum = sum.plus(value)?;
        }
    }
    Ok(sums)
}

/// Adds to the counters of a step (on one CPU), for a step that moves to another map.
pub(crate) fn add(map: &MapHandle, step: u32, more: Counters) -> Result<()> {
    let key = step.to_ne_bytes();
    let mut per_cpu = map
        .lookup_percpu(&key, MapFlags::ANY)?
        .context("there are no counters of the step")?;
    let Some(first) = per_cpu.first_mut() else {
        return Ok(());
    };
    let mut counter = abi::Counter::default();
    plain::copy_from_bytes(&mut counter, first)
        .map_err(|_| anyhow::anyhow!("counters have another size"))?;
    counter.evaluated += more.evaluated;
    counter.matched += more.matched;
    counter.errors += more.errors;
    counter.bytes += more.bytes;
    first[..size_of::<abi::Counter>()].copy_from_slice(abi::bytes_of(&counter));
    map.update_percpu(&key, &per_cpu, MapFlags::ANY)?;
    Ok(())
}

/// Sets the counters of a step to zero.
pub(crate) fn clear(map: &MapHandle, step: u32) -> Result<()> {
    let cpus = libbpf_rs::num_possible_cpus()?;
    let zero = vec![vec![0u8; size_of::<abi::Counter>()]; cpus];
    map.update_percpu(&step.to_ne_bytes(), &zero, MapFlags::ANY)?;
    Ok(())
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
