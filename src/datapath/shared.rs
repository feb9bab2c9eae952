//! The maps that all steps of a policy share, by their pins.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapHandle;

use super::loader;
use super::loader::Shared;
use super::stored::GENERATION;
use super::stored::Stored;
use super::stored::generation_folder;
use super::stored::read_generation;
use crate::abi;
use crate::pin::Home;
use crate::sys;

/// Names of the pins.
const COUNTERS: &str = "counters";
const REASONS: &str = "reasons";
const CHAIN_WORDS: &str = "chain_words";

/// The generation in force.
pub(super) fn generation_of(shared: &Shared) -> abi::Generation {
    read_generation(&shared.generation).unwrap_or_default()
}

/// A number that no generation of this policy ever had.
pub(super) fn next_number(shared: &Shared) -> Result<u64> {
    let generation = generation_of(shared);
    let number = generation.current.max(generation.latest) + 1;
    sys::store_u64(&shared.generation, 8, number).context("cannot number the generation")?;
    Ok(number)
}

/// The maps that all steps share; created where they are not.
pub(super) fn open_or_create(home: &Home, stored: Option<&Stored>) -> Result<Shared> {
    let new = Shared::create(stored.map_or(loader::COUNTERS, |s| s.counters))?;
    let existing = |path: &Path| {
        MapHandle::from_pinned_path(path).with_context(|| format!("cannot open {}", path.display()))
    };
    let open = |name: &str, new: MapHandle| -> Result<MapHandle> {
        let path = home.join(name);
        if path.exists() {
            return existing(&path);
        }
        sys::pin(&new, &path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(new)
    };
    Ok(Shared {
        generation: open(GENERATION, new.generation)?,
        counters: match stored.map(|s| counters_pin(home, s.generation)) {
            Some(path) if path.exists() => existing(&path)?,
            _ => new.counters,
        },
        reasons: open(REASONS, new.reasons)?,
        chain_words: open(CHAIN_WORDS, new.chain_words)?,
    })
}

/// The maps that all steps of a policy share, if they are all there.
pub(super) fn open_shared(home: &Home, stored: &Stored) -> Result<Option<Shared>> {
    let [generation, reasons, chain_words] =
        [GENERATION, REASONS, CHAIN_WORDS].map(|name| home.join(name));
    let counters = counters_pin(home, stored.generation);
    let all = [&generation, &counters, &reasons, &chain_words];
    if all.iter().any(|path| !path.exists()) {
        return Ok(None);
    }
    let open = |path: &Path| {
        MapHandle::from_pinned_path(path).with_context(|| format!("cannot open {}", path.display()))
    };
    Ok(Some(Shared {
        generation: open(&generation)?,
        counters: open(&counters)?,
        reasons: open(&reasons)?,
        chain_words: open(&chain_words)?,
    }))
}

pub(super) fn counters_pin(home: &Home, generation: u64) -> PathBuf {
    home.join(generation_folder(generation)).join(COUNTERS)
}
