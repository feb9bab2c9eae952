//! From a graph to programs in the kernel: every step is a copy of its module's
//! instructions with its own constants and maps, in one program array.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::thread;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;

use super::class::Class;
use super::class::LoadedClass;
use super::class::Side;
use super::code;
use super::code::Choices;
use super::maps::anonymous_table;
use super::maps::create_map;
use super::maps::frozen;
use super::shared::Shared;
use super::table_links::link_tables;
use super::table_links::named_table;
use super::tables::Tables;
use super::template::Template;
use super::verifier;
use crate::abi;
use crate::abi::Framing;
use crate::abi::Is;
use crate::graph;
use crate::graph::Budget;
use crate::graph::Target;
use crate::graph::value_tables;
use crate::insn::Insn;
use crate::module::Family;
use crate::module::KernelVersion;
use crate::module::Kind;
use crate::module::MapInfo;
use crate::module::Registry;
use crate::module::Scope;
use crate::params::TableContents;
use crate::sys;
use crate::sys::Load;
use crate::sys::PreparedMap;
use crate::sys::Records;

/// Maps of the engine that take the places of placeholders in a step.
struct Maps<'a> {
    shared: &'a Shared,
    array: &'a MapHandle,
    rodata: &'a MapHandle,
}

/// Programs that are loaded at the same time at most: they differ in size, so more than there are
/// CPUs.
const TOGETHER: usize = 4;
/// No more of them, where they have so many maps: files that are open meanwhile.
const TOGETHER_MAPS: usize = 64;

/// Of a group of steps: the instructions of each, and what is written into them.
type Steps = Vec<(Vec<Insn>, Choices)>;

/// Limits that a policy sets, by name.
pub(crate) type Limits = BTreeMap<String, u32>;

/// The map of a module that its steps keep: which, by scope and step number.
#[derive(Debug)]
pub(crate) struct StateMap<'a> {
    pub(crate) info: &'a MapInfo,
    pub(crate) step: u32,
    pub(crate) prepared: &'a PreparedMap,
}

/// Loads programs; keeps what is the same for all copies of a module.
#[derive(Debug)]
pub(crate) struct Loader<'r> {
    registry: &'r Registry,
    kernel: KernelVersion,
    modules: HashMap<(usize, Family), Template>,
    entries: HashMap<Family, Template>,
}

impl StateMap<'_> {
    /// How many entries it has, with the limits that a policy sets.
    pub(crate) fn entries(&self, limits: &Limits) -> u32 {
        let limit = self.info.limit.as_ref();
        let set = limit.and_then(|name| limits.get(name));
        set.copied().unwrap_or(self.prepared.max_entries)
    }
}

impl<'r> Loader<'r> {
    /// `kernel`: of this machine.
    pub(crate) fn new(registry: &'r Registry, kernel: KernelVersion) -> Self {
        Self {
            registry,
            kernel,
            modules: HashMap::new(),
            entries: HashMap::new(),
        }
    }

    fn template(&mut self, module: usize, family: Family) -> Result<&Template> {
        let described = &self.registry.modules()[module];
        if described.since > self.kernel {
            return Err(anyhow!(
                "module {} needs Linux {}, this is {}",
                described.name,
                described.since,
                self.kernel
            ));
        }
        let object = self
            .registry
            .bytes(module, family)
            .with_context(|| format!("module {} has no object for this hook", described.name))?;
        match self.modules.entry((module, family)) {
            std::collections::hash_map::Entry::Occupied(e) => Ok(e.into_mut()),
            std::collections::hash_map::Entry::Vacant(e) => {
                Ok(e.insert(Template::new(&described.name, object)?))
            }
        }
    }

    /// Loads the steps of a class into a new array. `state` gives the maps that
    /// modules keep.
    ///
    /// # Errors
    ///
    /// No memory, or a program that the verifier refuses.
    pub(crate) fn load_class(
        &mut self,
        class: &Class,
        shared: &Shared,
        state: &mut dyn FnMut(StateMap<'_>) -> Result<MapHandle>,
    ) -> Result<LoadedClass> {
        let modules = self.registry.modules();
        if class.join {
            let groups = (Budget::default().groups)(&class.graph, modules);
            if let Some(loaded) = self.load_groups(class, &groups, shared, state)? {
                return Ok(loaded);
            }
        }
        // Steps that are refused joined may be taken alone; else the verifier says which one it
        // refuses.
        let loaded = self
            .load_groups(class, &graph::apart(&class.graph), shared, state)?
            .context("steps cannot be loaded")?;
        let alone = Budget {
            groups: &|graph, _| graph::apart(graph),
            ..Budget::default()
        };
        let (calls, _) = graph::longest_path(&class.graph, modules, &alone);
        if class.join && calls > alone.calls {
            return Err(anyhow!(
                "the kernel takes the steps at {} one by one only, not joined, and a packet can \
                 meet {calls} of them, more than the {} tail calls of one run: use fewer steps",
                class.hook,
                alone.calls
            ));
        }
        Ok(loaded)
    }

    /// Loads each group of nodes as one program; `None`: one of several steps was refused.
    fn load_groups(
        &mut self,
        class: &Class,
        groups: &[Vec<usize>],
        shared: &Shared,
        state: &mut dyn FnMut(StateMap<'_>) -> Result<MapHandle>,
    ) -> Result<Option<LoadedClass>> {
        let graph = &class.graph;
        let (constants, offsets) = self.constants(class, &shared.tables)?;
        let entries = groups.len().max(1) as u32;
        let array = create_map("progs", MapType::ProgArray, [4, 4, entries], 0)?;
        let maps = Maps {
            shared,
            array: &array,
            rodata: &frozen(&constants)?,
        };
        let from = graph::predecessors(graph);
        let mut slots = vec![None; graph.nodes.len()];
        for (slot, group) in groups.iter().enumerate() {
            slots[group[0]] = Some(slot as u32);
        }
        let mut programs = vec![(0, 0); graph.nodes.len()];
        let (mut waiting, mut kept) = (Vec::new(), Vec::new());
        for (slot, group) in groups.iter().enumerate() {
            let mut steps = Vec::new();
            for node in group {
                let insns = self.step(class, *node, &maps, offsets[*node], state, &mut kept)?;
                steps.push((
                    insns,
                    self.choices(class, shared, *node, group, &slots, &from[*node])?,
                ));
            }
            waiting.push((group.as_slice(), steps));
            let is_last = slot + 1 == groups.len();
            if waiting.len() < TOGETHER && kept.len() < TOGETHER_MAPS && !is_last {
                continue;
            }
            let first = slot + 1 - waiting.len();
            let loaded = self.load_together(class, &waiting);
            for ((slot, (group, _)), program) in (first..).zip(&waiting).zip(loaded) {
                let Some(program) = program? else {
                    return Ok(None);
                };
                sys::set_slot(&array, slot as u32, &program)
                    .with_context(|| format!("cannot put a program into slot {slot}"))?;
                let id = sys::program_info(&program)?.0;
                for node in *group {
                    programs[*node] = (slot as u32, id);
                }
            }
            waiting.clear();
            kept.clear();
        }
        Ok(Some(LoadedClass { array, programs }))
    }

    /// Loads groups at the same time: the verifier takes one CPU for each program.
    fn load_together(
        &self,
        class: &Class,
        groups: &[(&[usize], Steps)],
    ) -> Vec<Result<Option<OwnedFd>>> {
        let load = |(group, steps): &(&[usize], Steps)| self.load_group(class, group, steps);
        let Some((first, others)) = groups.split_first() else {
            return Vec::new();
        };
        thread::scope(|scope| {
            let others: Vec<_> = others
                .iter()
                .map(|other| scope.spawn(|| load(other)))
                .collect();
            let mut loaded = vec![load(first)];
            loaded.extend(others.into_iter().map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow!("loading has failed")))
            }));
            loaded
        })
    }

    /// Loads steps as one program; `None`: they were several, and refused.
    fn load_group(&self, class: &Class, group: &[usize], steps: &Steps) -> Result<Option<OwnedFd>> {
        let nodes = &class.graph.nodes;
        let first = &nodes[group[0]];
        let (xdp, frags) = (class.family() == Family::Xdp, class.frags);
        let code = code::join(steps);
        if group.len() == 1 {
            let code = code.map_err(|e| anyhow!("{}: {e}", first.key))?;
            let template = self.modules.get(&(first.module, class.family()));
            return template
                .context("a step without its module")?
                .load(&code, xdp, frags)
                .map(Some)
                .map_err(|refused| verifier::explain(&first.key, &refused));
        }
        let Ok(code) = code else {
            return Ok(None);
        };
        // Hyphens are not for names of programs.
        let chain = first.key.split('/').next().unwrap_or_default();
        let joined = Load {
            name: &chain.replace('-', "_"),
            xdp,
            frags,
            insns: &code.insns,
            btf: None,
            func_info: &Records::default(),
            line_info: &Records::default(),
            explain: false,
        };
        Ok(sys::prog_load(&joined).ok())
    }

    /// The instructions of a step with their maps in place; `kept`: maps that must stay open until
    /// the program is loaded.
    fn step(
        &mut self,
        class: &Class,
        number: usize,
        maps: &Maps<'_>,
        rodata_at: usize,
        state: &mut dyn FnMut(StateMap<'_>) -> Result<MapHandle>,
        kept: &mut Vec<MapHandle>,
    ) -> Result<Vec<Insn>> {
        let node = &class.graph.nodes[number];
        let object = self.registry.object(node.module);
        let counters = maps.shared.counters_of(class.ids[number])?;
        let template = self.template(node.module, class.family())?;
        let mut numbers = Vec::new();
        for (index, map) in template.prepared.maps.iter().enumerate() {
            let engine = match map.name.as_str() {
                "progs" => Some(maps.array.as_fd()),
                "counters" => Some(counters.as_fd()),
                "reasons" => Some(maps.shared.reasons.as_fd()),
                "chain_words" => Some(maps.shared.chain_words.as_fd()),
                "handover" => Some(maps.shared.handover.as_fd()),
                // In force nobody reads it: the placeholder stays, in no instruction.
                "replay_clock" => Some(match &maps.shared.replay_clock {
                    Some(clock) => clock.as_fd(),
                    None => map.fd.as_fd(),
                }),
                _ if template.rodata.as_ref().is_some_and(|(i, _)| *i == index) => {
                    Some(maps.rodata.as_fd())
                }
                _ => None,
            };
            if let Some(fd) = engine {
                numbers.push(fd.as_raw_fd());
                continue;
            }
            let info = object.maps.iter().find(|m| m.name == map.name);
            let handle = match info {
                Some(info) if info.table_of.is_some() || info.is_param => {
                    let binding = node.params.tables.iter().find(|b| b.map == map.name);
                    match binding.map(|b| &b.contents) {
                        Some(TableContents::Anonymous { entries, .. }) => {
                            Some(anonymous_table(map, entries)?)
                        }
                        Some(TableContents::Named(name)) => {
                            let table = named_table(&maps.shared.tables, name)?;
                            Some(MapHandle::try_from(&table.map)?)
                        }
                        None => None,
                    }
                }
                Some(info) => Some(state(StateMap {
                    info,
                    step: class.ids[number],
                    prepared: map,
                })?),
                // A data section of the module: all its steps share it.
                None => None,
            };
            numbers.push(
                handle
                    .as_ref()
                    .map_or(map.fd.as_raw_fd(), |h| h.as_fd().as_raw_fd()),
            );
            kept.extend(handle);
        }
        Ok(template.instantiate(&numbers, rodata_at))
    }

    /// What is written into a step's instructions. `slots`: of the nodes that groups begin with;
    /// `from`: nodes that lead there.
    fn choices(
        &mut self,
        class: &Class,
        shared: &Shared,
        number: usize,
        group: &[usize],
        slots: &[Option<u32>],
        from: &[usize],
    ) -> Result<Choices> {
        let nodes = &class.graph.nodes;
        let node = &nodes[number];
        let mut choices = Choices::default();
        for (way, target) in node.targets().into_iter().enumerate() {
            match target {
                Target::Pass => choices.set_way(Is::EMPTCP_IS_PASS, way),
                Target::Drop => choices.set_way(Is::EMPTCP_IS_DROP, way),
                Target::Node(next) => match slots[next] {
                    Some(slot) => choices.numbers[abi::NUMBER_SLOT + way] = slot,
                    None => {
                        choices.set_way(Is::EMPTCP_IS_JUMP, way);
                        choices.jumps[way] = group.iter().position(|n| *n == next);
                    }
                },
            }
        }
        let id = class.ids[number];
        let counter = id % abi::COUNTER_BLOCK * size_of::<abi::Counter>() as u32;
        choices.numbers[abi::NUMBER_COUNTER] = counter;
        choices.numbers[abi::NUMBER_HOOK] = abi::hook_number(class.hook).into();

        let success = match node.kind {
            Kind::Selector => node.miss_to,
            Kind::Actor => node.match_to,
        };
        choices.set(Is::EMPTCP_IS_ERROR_SAME, node.error_to == success);
        choices.set(Is::EMPTCP_IS_FRAGS, class.frags);
        choices.set(Is::EMPTCP_IS_CHAIN_BYTES, node.first_actor);
        choices.set(Is::EMPTCP_IS_UNCOUNTED, !class.count);
        choices.set(Is::EMPTCP_IS_MORE, class.more);
        choices.set(Is::EMPTCP_IS_REPLAYED, shared.replay_clock.is_some());
        choices.set(Is::EMPTCP_IS_RAW_IP, class.framing == Framing::Ip);
        choices.set(
            Is::EMPTCP_IS_FOLLOWED,
            choices.jumps.iter().any(Option::is_some),
        );
        if group.first() == Some(&number) {
            return Ok(choices);
        }
        let mut same_block = true;
        let mut pointers = true;
        for before in from {
            same_block &= class.ids[*before] / abi::COUNTER_BLOCK == id / abi::COUNTER_BLOCK;
            let template = self.template(nodes[*before].module, class.family())?;
            pointers &= template.traits.keeps_pointers;
        }
        choices.set(Is::EMPTCP_IS_JOINED, true);
        choices.set(Is::EMPTCP_IS_COUNTERS, same_block);
        choices.set(Is::EMPTCP_IS_POINTERS, pointers);
        Ok(choices)
    }

    /// The constants of all steps, and the place of each step's.
    fn constants(&mut self, class: &Class, tables: &Tables) -> Result<(Vec<u8>, Vec<usize>)> {
        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        let values = value_tables(&class.graph);
        for (number, node) in class.graph.nodes.iter().enumerate() {
            let object = self.registry.object(node.module);
            let template = self.template(node.module, class.family())?;
            let (_, initial) = template
                .rodata
                .as_ref()
                .with_context(|| format!("module {} has no constants", object.module.name))?;
            let mut links = abi::Links {
                step: class.ids[number],
                zone: class.zones[number],
                hook: abi::hook_number(class.hook),
                framing: class.framing.number(),
                chain: u16::try_from(node.chain + 1).context("too many chains")?,
                ..Default::default()
            };
            let handed_on = values.get(&node.chain).map_or(&[][..], Vec::as_slice);
            link_tables(&mut links, node, handed_on, tables)?;
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let offset = bytes.len();
            bytes.extend_from_slice(initial);
            let links = abi::bytes_of(&links);
            let at = offset + object.step_offset;
            put(&mut bytes, at, links)?;
            put(&mut bytes, at + object.params_offset, &node.params.bytes)?;
            offsets.push(offset);
        }
        Ok((bytes, offsets))
    }

    /// Loads the program that the kernel calls first. `prev`: the generation
    /// before; without one, packets pass until `next` is in force. `first`: of those that the policy
    /// is split over at the hook.
    ///
    /// # Errors
    ///
    /// No memory, or the verifier refuses it.
    pub(crate) fn load_entry(
        &mut self,
        class: &Class,
        shared: &Shared,
        first: bool,
        next: &Side<'_>,
        prev: Option<&Side<'_>>,
    ) -> Result<OwnedFd> {
        let family = class.family();
        let side = |side: &Side<'_>| abi::EntrySide {
            later: side.later as u32,
            generation: side.generation,
            start: side.start.slot,
            undecidable: side.start.undecidable,
            ..Default::default()
        };
        let entry = abi::Entry {
            next: side(next),
            // Before the first generation the word is 0: packets pass.
            prev: prev.map(side).unwrap_or(abi::EntrySide {
                start: abi::SLOT_PASS,
                undecidable: abi::SLOT_PASS,
                ..Default::default()
            }),
            hook: abi::hook_number(class.hook),
            framing: class.framing.number(),
            context: self.uses_context(class).into(),
            later: (!first).into(),
            ..Default::default()
        };
        let (at, size) = abi::ENTRY_AT;
        let mut constants = vec![0; size];
        put(&mut constants, at, abi::bytes_of(&entry))?;
        let rodata = frozen(&constants)?;

        let template = match self.entries.entry(family) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => {
                e.insert(Template::new("entry", abi::entry_object(family))?)
            }
        };
        let mut numbers = Vec::new();
        for map in &template.prepared.maps {
            let fd = match map.name.as_str() {
                "progs" => next.array.as_fd(),
                "progs_prev" => prev.unwrap_or(next).array.as_fd(),
                "reasons" => shared.reasons.as_fd(),
                "chain_words" => shared.chain_words.as_fd(),
                "handover" => shared.handover.as_fd(),
                "generation" => shared.generation.as_fd(),
                _ => rodata.as_fd(),
            };
            numbers.push(fd.as_raw_fd());
        }
        let steps = [(template.instantiate(&numbers, 0), Choices::default())];
        let code = code::join(&steps).map_err(|e| anyhow!("entry program: {e}"))?;
        template
            .load(&code, family == Family::Xdp, class.frags)
            .map_err(|refused| verifier::explain("entry program", &refused))
    }

    fn uses_context(&self, class: &Class) -> bool {
        let modules = self.registry.modules();
        class
            .graph
            .nodes
            .iter()
            .any(|n| modules[n.module].flags.context || !n.params.from_table.is_empty())
    }

    /// State maps of a class, without loading it: for each its scope, the step's
    /// number and the map's name.
    pub(crate) fn state_maps(&self, class: &Class) -> Vec<(Scope, u32, String)> {
        let mut maps = Vec::new();
        for (node, id) in class.graph.nodes.iter().zip(&class.ids) {
            for map in self.registry.object(node.module).own_maps() {
                maps.push((map.scope, *id, map.name.clone()));
            }
        }
        maps
    }
}

/// Copies into place, or says that a description does not fit its object.
fn put(bytes: &mut [u8], at: usize, part: &[u8]) -> Result<()> {
    bytes
        .get_mut(at..at + part.len())
        .context("constants do not fit into the object")?
        .copy_from_slice(part);
    Ok(())
}
