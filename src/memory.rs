//! What a plan takes of the kernel's memory: an estimate, before anything is loaded.
//!
//! Maps by the kernel's own formulas (`*_map_mem_usage`, Linux 6.4), programs by their
//! instructions. Machine code and what the kernel keeps beside it come on top.

use std::collections::HashMap;
use std::collections::HashSet;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapType;
use libbpf_rs::ObjectBuilder;

use crate::abi;
use crate::graph::Budget;
use crate::module::Family;
use crate::module::Hook;
use crate::module::Registry;
use crate::module::Scope;
use crate::params::TableContents;
use crate::params::key_size;
use crate::plan::ClassPlan;
use crate::plan::Plan;
use crate::table::Planned;

const PAGE: u64 = 4096;
/// `struct bpf_prog` in front of the instructions.
const PROGRAM: u64 = 72;
/// `struct bpf_array`, `struct bpf_htab` without their elements.
const ARRAY: u64 = 320;
const HASH: u64 = 640;
/// `struct bpf_ringbuf` without its data: pages of its own and of both positions.
const RING: u64 = 4 * PAGE;
/// `struct htab_elem` without key and value.
const HASH_ELEMENT: u64 = 48;
/// `struct lpm_trie_node` without key and value; the length in the key is its own.
const TRIE_NODE: u64 = 24 - 4;
/// The entry program's instructions, roughly: two pages.
const ENTRY: u64 = 2 * PAGE;

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Programs: of steps, and one for each attachment.
    pub programs: u64,
    /// Maps: counters, constants, tables, what modules keep.
    pub maps: u64,
}

impl Memory {
    /// The sum.
    pub fn total(self) -> u64 {
        self.programs + self.maps
    }
}

/// Type and sizes of a map.
#[derive(Clone, Copy, Debug)]
struct Shape {
    ty: MapType,
    key: u64,
    value: u64,
    entries: u64,
}

/// What is known of a module's object without loading it.
#[derive(Debug)]
struct Template {
    instructions: u64,
    maps: HashMap<String, Shape>,
}

/// Estimates the memory of a plan on a machine with so many CPUs.
///
/// # Errors
///
/// An object that cannot be opened.
pub fn estimate(
    plan: &Plan,
    tables: &[Planned],
    registry: &Registry,
    budget: &Budget<'_>,
    cpus: u64,
) -> Result<Memory> {
    let mut estimator = Estimator {
        registry,
        cpus,
        templates: HashMap::new(),
        kept: HashSet::new(),
        memory: Memory::default(),
    };
    let mut steps = HashSet::new();
    for class in &plan.classes {
        estimator.class(class, budget)?;
        steps.extend(class.graph.nodes.iter().map(|n| (class.hook, &n.key)));
    }
    estimator.memory.programs += plan.attachments.len() as u64 * ENTRY;
    // Blocks of counters.
    let counters = (steps.len() as u64).div_ceil(abi::COUNTER_BLOCK.into());
    for (ty, value, entries) in [
        (
            MapType::PercpuArray,
            size_of::<abi::Counter>() as u64 * u64::from(abi::COUNTER_BLOCK),
            counters,
        ),
        (
            MapType::PercpuArray,
            8,
            (Hook::ALL.len() * abi::REASONS) as u64,
        ),
        (MapType::PercpuArray, size_of::<abi::ChainWords>() as u64, 1),
        // The generation, which is mapped into programs: its head has a page of its own.
        (MapType::Array, 2 * PAGE, 1),
    ] {
        let shape = Shape {
            ty,
            key: 4,
            value,
            entries,
        };
        estimator.memory.maps += shape.bytes(cpus);
    }
    // What a table takes that is full is for `check` to say.
    let empty = tables.iter().map(|table| table.definition.memory().0);
    estimator.memory.maps += empty.sum::<u64>();
    Ok(estimator.memory)
}

struct Estimator<'r> {
    registry: &'r Registry,
    cpus: u64,
    templates: HashMap<(usize, Family), Template>,
    /// Maps of modules that are counted already.
    kept: HashSet<String>,
    memory: Memory,
}

impl Estimator<'_> {
    fn class(&mut self, class: &ClassPlan, budget: &Budget<'_>) -> Result<()> {
        let nodes = &class.graph.nodes;
        let progs = Shape {
            ty: MapType::ProgArray,
            key: 4,
            value: 8,
            entries: nodes.len() as u64,
        };
        let constants = nodes
            .iter()
            .map(|n| n.params.bytes.len() as u64 + 64)
            .sum::<u64>();
        self.memory.maps += progs.bytes(self.cpus) + ARRAY + constants.next_multiple_of(PAGE);
        let mut instructions = Vec::new();
        for node in nodes {
            let key = (node.module, Family::from(class.hook));
            if !self.templates.contains_key(&key) {
                let template = template(self.registry, key)?;
                self.templates.insert(key, template);
            }
            let template = &self.templates[&key];
            instructions.push(template.instructions);
            for binding in &node.params.tables {
                if let TableContents::Anonymous { key, entries } = &binding.contents {
                    let ty = template
                        .maps
                        .get(&binding.map)
                        .map_or(MapType::Hash, |m| m.ty);
                    let (key, entries) = (key_size(*key) as u64, entries.len() as u64);
                    let table = Shape {
                        ty,
                        key,
                        value: 1,
                        entries,
                    };
                    self.memory.maps += table.bytes(self.cpus);
                }
            }
            for map in self.registry.object(node.module).own_maps() {
                let owner = match map.scope {
                    Scope::Step => format!("{} {}", class.hook, node.key),
                    Scope::Policy | Scope::Keep => String::new(),
                };
                if let Some(shape) = template.maps.get(&map.name)
                    && self.kept.insert(format!("{owner}:{}", map.name))
                {
                    self.memory.maps += shape.bytes(self.cpus);
                }
            }
        }
        for group in (budget.groups)(&class.graph, self.registry.modules()) {
            let own: u64 = group.into_iter().map(|node| instructions[node]).sum();
            self.memory.programs += (PROGRAM + 8 * own).next_multiple_of(PAGE);
        }
        Ok(())
    }
}

fn template(registry: &Registry, (module, family): (usize, Family)) -> Result<Template> {
    let name = &registry.modules()[module].name;
    let bytes = registry
        .bytes(module, family)
        .with_context(|| format!("module {name} has no object for this hook"))?;
    let object = ObjectBuilder::default()
        .open_memory(bytes)
        .with_context(|| format!("cannot open the object of {name}"))?;
    let maps = object.maps().map(|map| {
        let shape = Shape {
            ty: map.map_type(),
            key: map.key_size().into(),
            value: map.value_size().into(),
            entries: map.max_entries().into(),
        };
        (map.name().to_string_lossy().into_owned(), shape)
    });
    Ok(Template {
        instructions: object.progs().map(|p| p.insn_cnt() as u64).sum(),
        maps: maps.collect(),
    })
}

impl Shape {
    fn bytes(self, cpus: u64) -> u64 {
        let Self {
            ty,
            key,
            value,
            entries,
        } = self;
        if ty == MapType::LpmTrie {
            return entries * (TRIE_NODE + key + value);
        }
        let (key, value) = (key.next_multiple_of(8), value.next_multiple_of(8));
        match ty {
            MapType::RingBuf => RING + entries,
            MapType::PercpuArray => ARRAY + entries * (8 + value * cpus),
            MapType::Hash | MapType::PercpuHash | MapType::LruHash | MapType::LruPercpuHash => {
                let per_cpu = matches!(ty, MapType::PercpuHash | MapType::LruPercpuHash);
                let is_lru = matches!(ty, MapType::LruHash | MapType::LruPercpuHash);
                let value = if per_cpu { 8 + value * cpus } else { value };
                // One more for each CPU, which an update in place takes.
                let entries = entries + if is_lru || per_cpu { 0 } else { cpus };
                let buckets = entries.next_power_of_two() * 16;
                HASH + buckets + entries * (HASH_ELEMENT + key + value)
            }
            _ => ARRAY + entries * value,
        }
    }
}
