//! The maps that all steps of a policy share, by their pins.

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;

use super::maps::create_map;
use super::stored::GENERATION;
use super::stored::Stored;
use super::stored::open_map;
use super::stored::read_generation;
use super::tables::Tables;
use crate::abi;
use crate::module::Hook;
use crate::pin;
use crate::pin::Home;
use crate::sys;

/// Names of the pins.
const COUNTERS: &str = "counters-";
const REASONS: &str = "reasons";
const CHAIN_WORDS: &str = "chain_words";
const HANDOVER: &str = "handover";

/// What all programs of a policy share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The generation in force.
    pub(crate) generation: MapHandle,
    /// Counters of steps, in blocks of [`abi::COUNTER_BLOCK`].
    pub(crate) counters: Vec<MapHandle>,
    /// Counters by hook and reason.
    pub(crate) reasons: MapHandle,
    /// Chain context, as far as packets do not hold it.
    pub(crate) chain_words: MapHandle,
    /// What parts of a split policy hand on, by hook.
    pub(crate) handover: MapHandle,
    /// Tables of the policy.
    pub(crate) tables: Tables,
    /// The time of packets that are replayed; a policy in force has the kernel's.
    pub(crate) replay_clock: Option<MapHandle>,
}

impl Shared {
    /// Creates the maps but for the counters.
    pub(crate) fn create() -> Result<Self> {
        let words = size_of::<abi::ChainWords>() as u32;
        Ok(Self {
            generation: create_map(
                "generation",
                MapType::Array,
                [4, size_of::<abi::Generation>() as u32, 1],
                libbpf_sys::BPF_F_MMAPABLE,
            )?,
            counters: Vec::new(),
            reasons: create_map(
                "reasons",
                MapType::PercpuArray,
                [4, 8, (Hook::ALL.len() * abi::REASONS) as u32],
                0,
            )?,
            chain_words: create_map("chain_words", MapType::PercpuArray, [4, words, 1], 0)?,
            handover: create_map(
                "handover",
                MapType::PercpuArray,
                [4, size_of::<abi::Handover>() as u32, Hook::ALL.len() as u32],
                0,
            )?,
            tables: Tables::new(),
            replay_clock: None,
        })
    }

    /// The same for a replay, with a clock that stands at 0, and counters for so many steps. It runs
    /// on one CPU, so what is counted can lie in arrays that are read without a system call.
    pub(super) fn for_replay(steps: u32) -> Result<Self> {
        let array = |name, value, entries| {
            let sizes = [4, value, entries];
            create_map(name, MapType::Array, sizes, libbpf_sys::BPF_F_MMAPABLE)
        };
        let block = size_of::<abi::Counter>() as u32 * abi::COUNTER_BLOCK;
        let counters = (0..blocks(steps)).map(|_| array("counters", block, 1));
        Ok(Self {
            counters: counters.collect::<Result<_>>()?,
            reasons: array("reasons", 8, (Hook::ALL.len() * abi::REASONS) as u32)?,
            replay_clock: Some(create_map("replay_clock", MapType::Array, [4, 8, 1], 0)?),
            ..Self::create()?
        })
    }

    /// The counters in which a step counts.
    pub(super) fn counters_of(&self, step: u32) -> Result<&MapHandle> {
        let block = step / abi::COUNTER_BLOCK;
        let counters = self.counters.get(block as usize);
        counters.with_context(|| format!("step {step} has no counters"))
    }
}

/// Blocks of counters for so many steps.
pub(crate) fn blocks(steps: u32) -> usize {
    steps.div_ceil(abi::COUNTER_BLOCK) as usize
}

/// A block of counters.
pub(crate) fn create_counters() -> Result<MapHandle> {
    let value = size_of::<abi::Counter>() as u32 * abi::COUNTER_BLOCK;
    create_map("counters", MapType::PercpuArray, [4, value, 1], 0)
}

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

/// The maps that all steps share, with counters for so many; created where they are not.
pub(super) fn open_or_create(home: &Home, steps: u32) -> Result<Shared> {
    let new = Shared::create()?;
    let open = |name: &str, new: MapHandle| -> Result<MapHandle> {
        let path = home.join(name);
        if let Some(map) = open_map(&path)? {
            return Ok(map);
        }
        sys::pin(&new, &path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(new)
    };
    let block = |number: usize| open(&format!("{COUNTERS}{number}"), create_counters()?);
    Ok(Shared {
        generation: open(GENERATION, new.generation)?,
        counters: (0..blocks(steps)).map(block).collect::<Result<_>>()?,
        reasons: open(REASONS, new.reasons)?,
        chain_words: open(CHAIN_WORDS, new.chain_words)?,
        handover: open(HANDOVER, new.handover)?,
        tables: new.tables,
        replay_clock: None,
    })
}

/// The counters of reasons of a policy, if there is one.
pub(super) fn open_reasons(home: &Home) -> Result<Option<MapHandle>> {
    open_map(&home.join(REASONS))
}

/// The maps that all steps of a policy share, if they are all there.
pub(super) fn open_shared(home: &Home, stored: &Stored) -> Result<Option<Shared>> {
    let open = |name: &str| open_map(&home.join(name));
    let counters: Option<Vec<MapHandle>> = (0..stored.counters)
        .map(|number| open(&format!("{COUNTERS}{number}")).transpose())
        .collect::<Option<Result<_>>>()
        .transpose()?;
    let all = (
        open(GENERATION)?,
        counters,
        open(REASONS)?,
        open(CHAIN_WORDS)?,
        open(HANDOVER)?,
    );
    let (Some(generation), Some(counters), Some(reasons), Some(chain_words), Some(handover)) = all
    else {
        return Ok(None);
    };
    Ok(Some(Shared {
        generation,
        counters,
        reasons,
        chain_words,
        handover,
        tables: Tables::new(),
        replay_clock: None,
    }))
}

/// Pins of blocks of counters that a policy with so many of them does not have.
pub(super) fn unused_counters(home: &Home, blocks: usize) -> Result<Vec<String>> {
    let mut names = pin::list(home.path())?;
    names.retain(|name| {
        let number = name.strip_prefix(COUNTERS).and_then(|n| n.parse().ok());
        number.is_some_and(|number: usize| number >= blocks)
    });
    Ok(names)
}
