//! Puts a policy in force as one transaction. The order is what matters:
//!
//! 1. everything of the new generation is loaded, and pinned in a folder of its own;
//! 2. the entry programs are exchanged, interface by interface; the new ones know
//!    both generations and still run the old one;
//! 3. what is now in force is written down, in the new generation's folder;
//! 4. one store of the generation word: all hooks and interfaces change together;
//! 5. a grace period: nobody runs the old generation any more;
//! 6. what nobody needs goes away.
//!
//! An apply that ends anywhere before 4 leaves the old policy in force, after it
//! the new one; the next apply clears the rest.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use anyhow::Result;
use fail::fail_point;
use libbpf_rs::MapCore as _;
use sha2::Digest as _;
use sha2::Sha256;

use super::attach;
use super::attach::Undo;
use super::attach::Wanted;
use super::class::Class;
use super::counters::Counted;
use super::exchange::Change;
use super::inspect;
use super::loader::Loader;
use super::netlink::interfaces;
use super::numbers::bases;
use super::numbers::needed;
use super::numbers::number;
use super::numbers::step_name;
use super::pending;
use super::shared;
use super::shared::Shared;
use super::shared::generation_of;
use super::shared::next_number;
use super::shared::open_shared;
use super::state::KEPT;
use super::state::STATE;
use super::state::state_name;
use super::stored;
use super::stored::GENERATION;
use super::stored::Stored;
use super::stored::Via;
use super::stored::generation;
use super::stored::in_force;
use super::stored::open_map;
use super::stored::stored_at;
use super::tables;
use super::tables::TableChange;
use super::track::take_over;
use super::track::tracks;
use crate::abi::Framing;
use crate::graph::BoundChain;
use crate::interface::Interfaces;
use crate::module::Family;
use crate::module::KernelVersion;
use crate::module::Registry;
use crate::params::TableContents;
use crate::pin;
use crate::pin::Home;
use crate::plan::Plan;
use crate::sys;
use crate::table::Planned;

/// Where the policy of an apply comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file or folder: all that was changed at run time goes.
    File(String),
    /// The policy in force with one chain changed: what was applied from a file is remembered.
    InForce {
        /// The generation that was in force, 0 if none was.
        generation: u64,
    },
}

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The policy was in force already.
    Unchanged,
    /// It is now.
    Applied {
        /// Number of its generation.
        generation: u64,
    },
    /// Nothing: the policy in force is no longer the one that was to be changed.
    Overtaken,
}

/// All that an apply needs to know.
#[derive(Debug)]
pub struct Apply<'a> {
    /// The modules.
    pub registry: &'a Registry,
    /// Version of the running kernel.
    pub kernel: KernelVersion,
    /// The policy, as `show --json` prints it.
    pub policy: serde_json::Value,
    /// Where that comes from.
    pub origin: Origin,
    /// Its chains, checked.
    pub chains: &'a [BoundChain<'a>],
    /// Where they run.
    pub plan: &'a Plan,
    /// The interfaces of the plan.
    pub interfaces: &'a Interfaces,
    /// The cgroups that the policy names, by path: ids.
    pub cgroups: BTreeMap<String, u64>,
    /// The tables of the policy.
    pub tables: &'a [Planned],
    /// The limits that the policy sets, by name.
    pub limits: BTreeMap<String, u32>,
}

/// A policy that is in force, while that before is still there.
struct Staged {
    now: Stored,
    classes: Digested,
    /// What tables have lost.
    lost: Vec<String>,
}

/// Classes with their digests: see [`Apply::digest`].
pub(super) type Digested = Vec<(Class, String)>;

impl Apply<'_> {
    /// Puts the policy in force.
    ///
    /// # Errors
    ///
    /// No privilege, no memory, the verifier refuses a step, an interface is taken:
    /// the policy before stays in force.
    pub fn run(&self) -> Result<Outcome> {
        let locked = Home::current(true)?.lock()?;
        let result = self.publish(&locked.home);
        if result.is_err()
            && matches!(generation(&locked.home), Ok(g) if g.is_none_or(|g| g.current == 0))
        {
            // Nothing was in force: leave nothing.
            clear(&locked.home)?;
        }
        result
    }

    /// Whether an apply would change anything.
    ///
    /// # Errors
    ///
    /// As for [`Apply::run`], as far as can be seen without loading anything.
    pub fn would_change(&self) -> Result<bool> {
        let home = Home::current(false)?;
        let Some(_lock) = home.lock_shared()? else {
            return Ok(true);
        };
        let Some(stored) = in_force(&home)? else {
            return Ok(true);
        };
        let Some(mut shared) = open_shared(&home, &stored)? else {
            return Ok(true);
        };
        let known = (stored.generation, tables::stored(&home, stored.generation)?);
        let before = tables::Before::new(&home, Some(&known));
        let Some(tables) = tables::unchanged(before, self.tables)? else {
            return Ok(true);
        };
        shared.tables = tables;
        let classes = self.classes(&self.numbers(Some(&stored)), &shared)?;
        Ok(!self.is_in_force(&home, &stored, &classes, &shared))
    }

    /// What an apply would do to the tables.
    ///
    /// # Errors
    ///
    /// As for [`Apply::would_change`].
    pub fn table_changes(&self) -> Result<Vec<TableChange>> {
        let home = Home::current(false)?;
        let _lock = home.lock_shared()?;
        let known = match in_force(&home)? {
            Some(stored) => Some((stored.generation, tables::stored(&home, stored.generation)?)),
            None => None,
        };
        tables::preview(tables::Before::new(&home, known.as_ref()), self.tables)
    }

    fn publish(&self, home: &Home) -> Result<Outcome> {
        let stored = in_force(home)?;
        if stored.is_none() && stored_at(home)?.is_some() {
            // Of a namespace that is gone: nothing of it is ours.
            for name in pin::list(home.path())? {
                pin::remove(&home.join(name))?;
            }
        }
        if let Origin::InForce { generation } = self.origin
            && stored.as_ref().map_or(0, |s| s.generation) != generation
        {
            return Ok(Outcome::Overtaken);
        }
        sweep(home, stored.as_ref())?;
        let kept = pin::list(&home.join(STATE))?;
        let mut undo = Vec::new();
        let staged = match self.stage(home, stored.as_ref(), &mut undo) {
            Ok(Some(staged)) => staged,
            Ok(None) => return Ok(Outcome::Unchanged),
            Err(error) => {
                take_back(home, stored.as_ref(), undo, &kept);
                return Err(error);
            }
        };
        fail_point!("after-flip");
        self.clear_before(home, stored.as_ref(), &staged)
            .context("the new policy is in force, the next apply clears what is left of the old")?;
        let tracked = stored.as_ref().is_some_and(|s| tracks(s, self.registry));
        if !tracked && tracks(&staged.now, self.registry) {
            take_connections_over(home, &self.tracked_zones());
        }
        if let Err(error) = pending::applied(home, &staged.now, self.registry) {
            eprintln!("emptcp: what was suppressed or held waits for the next packet: {error:#}");
        }
        Ok(Outcome::Applied {
            generation: staged.now.generation,
        })
    }

    /// Makes all that the policy needs, and puts it in force; `None`: it is already. `undo`: what
    /// takes back an apply that fails here.
    fn stage(
        &self,
        home: &Home,
        stored: Option<&Stored>,
        undo: &mut Vec<Undo>,
    ) -> Result<Option<Staged>> {
        let ids = self.numbers(stored);
        let steps = needed(&ids);
        let mut shared = shared::open_or_create(home, steps)?;
        let known = match stored {
            Some(stored) => Some((stored.generation, tables::stored(home, stored.generation)?)),
            None => None,
        };
        let before = tables::Before::new(home, known.as_ref());
        let (tables, lost) = tables::prepare(before, self.tables)?;
        shared.tables = tables;
        let classes = self.classes(&ids, &shared)?;
        if let Some(stored) = stored
            && self.is_in_force(home, stored, &classes, &shared)
        {
            self.sweep_state(home, &classes)?;
            let (source, applied) = self.remembered(Some(stored));
            let cgroups = &self.cgroups;
            let now = (&source, &applied, cgroups);
            if now != (&stored.source, &stored.applied, &stored.cgroups) {
                let now = Stored {
                    source,
                    applied,
                    cgroups: cgroups.clone(),
                    ..stored.clone()
                };
                now.pin_again(home)?;
            }
            return Ok(None);
        }
        let bases = bases(&Counted::read(&shared.counters)?, stored, &ids);

        let number = next_number(&shared)?;
        let folder = home.join(stored::generation_folder(number));
        pin::create_folder(&folder)?;
        let change = Change {
            apply: self,
            home,
            stored,
            shared: &shared,
            classes: &classes,
            here: &interfaces()?,
            number,
        };
        let now = Stored {
            ids,
            bases,
            counters: shared.counters.len(),
            ..change.run(undo)?
        };
        now.pin(&folder.join(stored::POLICY))?;
        fail_point!("before-flip");
        sys::store_u64(&shared.generation, 0, number).context("cannot change the generation")?;
        Ok(Some(Staged { now, classes, lost }))
    }

    /// Clears what the policy before had, and the one in force has not.
    fn clear_before(&self, home: &Home, stored: Option<&Stored>, staged: &Staged) -> Result<()> {
        sys::grace_period().context("cannot wait for the programs that run")?;
        fail_point!("before-cleanup");
        for what in &staged.lost {
            eprintln!("emptcp: {what}");
        }
        if let Some(stored) = stored {
            detach_unused(home, stored, &staged.now)?;
        }
        sweep(home, Some(&staged.now))?;
        self.sweep_state(home, &staged.classes)
    }

    /// The file that was applied last, and its policy where that is not the one in force.
    pub(super) fn remembered(
        &self,
        stored: Option<&Stored>,
    ) -> (Option<String>, Option<serde_json::Value>) {
        match (&self.origin, stored) {
            (Origin::File(source), _) => (Some(source.clone()), None),
            (Origin::InForce { .. }, Some(stored)) if stored.source.is_some() => {
                let applied = stored.applied.as_ref().unwrap_or(&stored.policy);
                let differs = *applied != self.policy;
                (stored.source.clone(), differs.then(|| applied.clone()))
            }
            (Origin::InForce { .. }, _) => (None, None),
        }
    }

    /// Zones in which subflows are tracked, by interface.
    fn tracked_zones(&self) -> BTreeMap<u32, BTreeSet<u32>> {
        let modules = self.registry.modules();
        let mut all: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for attachment in &self.plan.attachments {
            let class = &self.plan.classes[attachment.class];
            let zones = class.graph.nodes.iter().zip(&class.zones);
            let zones = zones.filter(|(node, _)| modules[node.module].flags.tracks);
            let all = all.entry(attachment.ifindex).or_default();
            all.extend(zones.map(|(_, zone)| *zone));
        }
        all.retain(|_, zones| !zones.is_empty());
        all
    }

    /// The number of each step in the counters.
    fn numbers(&self, stored: Option<&Stored>) -> BTreeMap<String, u32> {
        let before = stored.map(|s| s.ids.clone()).unwrap_or_default();
        let modules = self.registry.modules();
        let mut keys: Vec<String> = Vec::new();
        for class in &self.plan.classes {
            for node in &class.graph.nodes {
                keys.push(step_name(class.hook, &node.key, &modules[node.module].name));
            }
        }
        number(&before, keys)
    }

    /// The classes of the plan, with their steps' numbers.
    fn classes(&self, ids: &BTreeMap<String, u32>, shared: &Shared) -> Result<Digested> {
        let modules = self.registry.modules();
        let mut objects = HashMap::new();
        let mut classes = Vec::new();
        for class in &self.plan.classes {
            let own = class
                .graph
                .nodes
                .iter()
                .map(|n| ids[&step_name(class.hook, &n.key, &modules[n.module].name)])
                .collect();
            let class = Class {
                hook: class.hook,
                framing: if class.raw_ip {
                    Framing::Ip
                } else {
                    Framing::Ether
                },
                frags: class.frags,
                graph: class.graph.clone(),
                ids: own,
                zones: class.zones.clone(),
                drop_undecidable: class.drop_undecidable,
                count: true,
                join: true,
                more: class.more,
            };
            let digest = self.digest(&class, shared, &mut objects)?;
            classes.push((class, digest));
        }
        Ok(classes)
    }

    /// A number for all that decides what the programs of a class do. `objects`: digests of the
    /// objects of modules, which many steps share.
    fn digest(
        &self,
        class: &Class,
        shared: &Shared,
        objects: &mut HashMap<(usize, Family), String>,
    ) -> Result<String> {
        let mut hash = Sha256::new();
        let mut add = |text: String| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        let counters = class
            .ids
            .iter()
            .filter_map(|id| shared.counters_of(*id).ok());
        let mut maps = vec![
            &shared.generation,
            &shared.reasons,
            &shared.chain_words,
            &shared.handover,
        ];
        maps.extend(counters);
        let mut known = Vec::new();
        for map in maps {
            let fd = map.as_fd().as_raw_fd();
            if !known.contains(&fd) {
                known.push(fd);
                add(map.info()?.info.id.to_string());
            }
        }
        add(format!(
            "{:?} {:?} {}",
            class.hook, class.framing, class.frags
        ));
        add(format!(
            "{:?} {:?} {} {}",
            class.start(),
            class.zones,
            class.count,
            class.more
        ));
        for (node, id) in class.graph.nodes.iter().zip(&class.ids) {
            let key = (node.module, class.family());
            let object = objects.entry(key).or_insert_with(|| {
                let object = self.registry.bytes(key.0, key.1).unwrap_or_default();
                format!("{:x?}", Sha256::digest(object))
            });
            add(object.clone());
            add(format!(
                "{id} {:?} {:?} {:?}",
                node.match_to, node.miss_to, node.error_to
            ));
            add(format!("{} {:?}", node.first_actor, node.params));
            for binding in &node.params.tables {
                if let TableContents::Named(name) = &binding.contents {
                    let id = shared.tables.get(name).map_or(0, |table| table.id);
                    add(format!("{id}"));
                }
            }
        }
        let digest = hash.finalize();
        Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
    }

    fn is_in_force(
        &self,
        home: &Home,
        stored: &Stored,
        classes: &[(Class, String)],
        shared: &Shared,
    ) -> bool {
        let same_classes = stored.classes.len() == classes.len()
            && stored
                .classes
                .iter()
                .zip(classes)
                .all(|(s, (_, digest))| s.digest == *digest);
        let same_places = stored.attachments.len() == self.plan.attachments.len()
            && self.plan.attachments.iter().all(|wanted| {
                let place = self.wanted(wanted);
                place.is_some_and(|place| {
                    stored.attachment(&place.id()).is_some_and(|s| {
                        s.class == wanted.class
                            && s.parts == wanted.parts
                            && s.options == place.options()
                    })
                })
            });
        let cookie = sys::netns_cookie();
        let number = generation_of(shared).current;
        stored.policy == self.policy
            && stored.generation == number
            && stored.netns_cookie == cookie
            && same_classes
            && same_places
            && inspect::drift(home, stored).is_empty()
    }

    pub(super) fn wanted<'b>(
        &'b self,
        attachment: &'b crate::plan::Attachment,
    ) -> Option<Wanted<'b>> {
        Some(Wanted {
            interface: self.interfaces.by_index(attachment.ifindex)?,
            hook: attachment.hook,
            part: attachment.part,
            xdp: attachment.xdp,
            position: &attachment.position,
            neighbour: None,
        })
    }

    /// Removes the state of steps that are no more.
    fn sweep_state(&self, home: &Home, classes: &[(Class, String)]) -> Result<()> {
        let loader = Loader::new(self.registry, self.kernel);
        let mut used = Vec::new();
        for (class, _) in classes {
            for (scope, step, map) in loader.state_maps(class) {
                used.push(state_name(scope, step, &map));
            }
        }
        let folder = home.join(STATE);
        for name in pin::list(&folder)? {
            let kept = name.starts_with(KEPT) || used.contains(&name);
            if !kept {
                pin::remove(&folder.join(name))?;
            }
        }
        pin::remove_if_empty(&folder);
        Ok(())
    }
}

/// Tells the tracker of connections that are older than it. The policy is in force, with them or
/// without.
fn take_connections_over(home: &Home, zones: &BTreeMap<u32, BTreeSet<u32>>) {
    match take_over(home, zones) {
        Ok(0) => {}
        Ok(left) => eprintln!(
            "emptcp: no room for {left} subflows that are older than the policy: raise \
             \"connections\" and \"subflows\" in its \"limits\""
        ),
        Err(e) => eprintln!("emptcp: connections older than the policy are not known: {e:#}"),
    }
}

/// Takes back what an apply did that failed before its policy was in force, as far as can be.
/// `kept`: the state that was there before.
fn take_back(home: &Home, stored: Option<&Stored>, undo: Vec<Undo>, kept: &[String]) {
    let tell = |result: Result<()>| {
        if let Err(e) = result {
            eprintln!("emptcp: while taking the change back: {e:#}");
        }
    };
    for step in undo.into_iter().rev() {
        tell(step.run());
    }
    tell(sweep(home, stored));
    let folder = home.join(STATE);
    for name in pin::list(&folder).unwrap_or_default() {
        if !kept.contains(&name) {
            tell(pin::remove(&folder.join(name)));
        }
    }
    pin::remove_if_empty(&folder);
}

/// Removes the policy of this network namespace with everything that belongs to it.
/// `false`: there was none.
///
/// # Errors
///
/// No privilege, or the kernel's.
pub fn delete() -> Result<bool> {
    let home = Home::current(false)?;
    if !home.exists()? {
        return Ok(false);
    }
    let locked = home.lock()?;
    let home = &locked.home;
    let stored = in_force(home)?;
    if let Some(map) = open_map(&home.join(GENERATION))? {
        // No entry program knows generation 0: all packets pass, everywhere at once.
        sys::store_u64(&map, 0, 0).context("cannot change the generation")?;
    }
    fail_point!("before-detach");
    if let Some(stored) = &stored {
        for attachment in &stored.attachments {
            attach::place(home, attachment)?.detach()?;
        }
    }
    sweep(home, None)?;
    clear(home)?;
    Ok(stored.is_some())
}

/// Attachments that the new policy does not have: their entry programs know
/// nothing of its generation, packets pass already.
fn detach_unused(home: &Home, before: &Stored, now: &Stored) -> Result<()> {
    for attachment in &before.attachments {
        if now.attachment(&attachment.id()).is_none() {
            attach::place(home, attachment)?.detach()?;
        }
    }
    Ok(())
}

/// Clears what an apply that was killed has left: all that the stored policy does not know.
fn sweep(home: &Home, stored: Option<&Stored>) -> Result<()> {
    for number in stored::generations(home.path())? {
        if stored.is_none_or(|s| s.generation != number) {
            pin::remove(&home.join(stored::generation_folder(number)))?;
        }
    }
    let blocks = stored.map_or(0, |s| s.counters);
    for name in shared::unused_counters(home, blocks)? {
        pin::remove(&home.join(name))?;
    }
    let links = home.join(attach::LINKS);
    for name in pin::list(&links)? {
        if stored.is_none_or(|s| s.attachment(&name).is_none()) {
            attach::At::Link(links.join(name)).detach()?;
        }
    }
    pin::remove_if_empty(&links);
    for interface in interfaces()?.0 {
        let all = stored.into_iter().flat_map(|s| &s.attachments);
        let known: Vec<_> = all.filter(|a| a.ifindex == interface.index).collect();
        attach::sweep_filters(interface.index, &known);
    }
    sweep_qdiscs(home, stored)
}

fn sweep_qdiscs(home: &Home, stored: Option<&Stored>) -> Result<()> {
    attach::sweep_qdiscs(home, |ifindex| {
        let mut attachments = stored.into_iter().flat_map(|s| &s.attachments);
        attachments.any(|a| a.ifindex == ifindex && a.via == Via::Clsact)
    })
}

/// Removes the folder with all pins.
fn clear(home: &Home) -> Result<()> {
    pin::remove(home.path())
}
