//! From the old generation to the new: everything is loaded, and the entry
//! programs are exchanged.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use fail::fail_point;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapHandle;

use super::attach;
use super::attach::Attached;
use super::attach::Neighbour;
use super::attach::Present;
use super::attach::Undo;
use super::attach::Wanted;
use super::class::LoadedClass;
use super::class::Side;
use super::class::Start;
use super::inspect;
use super::loader::Loader;
use super::publish::Apply;
use super::publish::Digested;
use super::shared::Shared;
use super::state::state_map;
use super::stored;
use super::stored::Stored;
use super::stored::StoredAlso;
use super::stored::StoredAttachment;
use super::stored::StoredClass;
use super::stored::StoredStep;
use super::stored::array_pin;
use super::stored::entry_pin;
use super::stored::open_map;
use super::tables;
use crate::interface::Interfaces;
use crate::pin::Home;
use crate::plan::Attachment;
use crate::plan::paced;
use crate::sys;

/// One generation that is to follow another.
pub(super) struct Change<'a> {
    pub(super) apply: &'a Apply<'a>,
    pub(super) home: &'a Home,
    /// What is in force.
    pub(super) stored: Option<&'a Stored>,
    pub(super) shared: &'a Shared,
    pub(super) classes: &'a Digested,
    /// The interfaces of the network namespace, as they are now.
    pub(super) here: &'a Interfaces,
    /// Of the new generation.
    pub(super) number: u64,
}

/// An attachment that is ready.
struct Job<'a> {
    place: Wanted<'a>,
    present: Option<Present<'a>>,
    entry: Arc<OwnedFd>,
}

impl<'a> Change<'a> {
    /// Loads what is new, and exchanges the entry programs. `undo`: what takes that back.
    ///
    /// Attaching happens in a thread of its own: the kernel waits for a grace period where it
    /// attaches to a hook for the first time.
    pub(super) fn run(&self, undo: &mut Vec<Undo>) -> Result<Stored> {
        let (jobs, queue) = mpsc::channel::<Job<'_>>();
        let mut loaded: Vec<Option<LoadedClass>> = self.classes.iter().map(|_| None).collect();
        let (home, here) = (self.home, self.here);
        let (prepared, attached, failed) = thread::scope(|scope| {
            let attacher = scope.spawn(move || attach_all(home, here, queue));
            let prepared = self.prepare(&mut loaded, jobs);
            match attacher.join() {
                Ok((attached, failed)) => (prepared, attached, failed),
                Err(_) => (prepared, Vec::new(), Err(anyhow!("attaching has failed"))),
            }
        });
        let mut via = Vec::new();
        for attached in attached {
            undo.push(attached.undo);
            via.push(attached.via);
        }
        failed?;
        let mut attachments = prepared?;
        for (attachment, via) in attachments.iter_mut().zip(via) {
            attachment.via = via;
        }
        let (source, applied) = self.apply.remembered(self.stored);
        Ok(Stored {
            emptcp: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.number,
            netns_cookie: sys::netns_cookie(),
            policy: self.apply.policy.clone(),
            source,
            applied,
            cgroups: self.apply.cgroups.clone(),
            fq: paced(self.apply.plan, self.apply.registry.modules())
                .iter()
                .map(|(attachment, _)| attachment.ifindex)
                .collect(),
            counters: self.shared.counters.len(),
            ids: BTreeMap::new(),
            bases: BTreeMap::new(),
            classes: self.stored_classes(&loaded)?,
            attachments,
        })
    }

    /// Loads all that the attachments need, and hands one after the other over.
    fn prepare(
        &self,
        loaded: &mut [Option<LoadedClass>],
        jobs: mpsc::Sender<Job<'a>>,
    ) -> Result<Vec<StoredAttachment>> {
        tables::pin_all(self.home, self.number, &self.shared.tables)?;
        fail_point!("tables");
        let mut loader = Loader::new(self.apply.registry, self.apply.kernel);
        if self.stored.is_some() {
            // Nothing of a policy in force is exchanged before all of the new one is there.
            for (index, class) in loaded.iter_mut().enumerate() {
                *class = Some(self.load_class(&mut loader, index)?);
            }
            fail_point!("loaded");
        }
        let arrays = match self.stored {
            Some(stored) => old_arrays(self.home, stored)?,
            None => Vec::new(),
        };
        let mut entries: HashMap<_, Arc<OwnedFd>> = HashMap::new();
        let mut attachments: Vec<StoredAttachment> = Vec::new();
        for wanted in &self.apply.plan.attachments {
            let class = match &mut loaded[wanted.class] {
                Some(class) => class,
                none => none.insert(self.load_class(&mut loader, wanted.class)?),
            };
            let (place, present) = self.place(wanted, attachments.last())?;
            let before = self.before(present, wanted);
            let prev = before.zip(self.stored).map(|(present, stored)| Side {
                generation: stored.generation,
                array: &arrays[present.class],
                start: Start {
                    slot: stored.classes[present.class].start,
                    undecidable: stored.classes[present.class].undecidable,
                },
                later: present.parts.saturating_sub(1),
            });
            let (own, _) = &self.classes[wanted.class];
            let next = Side {
                generation: self.number,
                array: &class.array,
                start: own.start(),
                later: wanted.parts.saturating_sub(1),
            };
            let first = wanted.part == 0;
            let same = before.map(|p| (p.class, p.parts));
            let entry = match entries.entry((wanted.class, wanted.parts, same, first)) {
                std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::hash_map::Entry::Vacant(e) => e.insert(Arc::new(
                    loader.load_entry(own, self.shared, first, &next, prev.as_ref())?,
                )),
            };
            attachments.push(StoredAttachment {
                ifindex: wanted.ifindex,
                interface: wanted.interface.clone(),
                hook: wanted.hook.name().to_owned(),
                class: wanted.class,
                part: wanted.part,
                parts: wanted.parts,
                // Attaching will tell.
                via: stored::Via::Tcx,
                options: place.options(),
                program: sys::program_info(&**entry)?.0,
            });
            let pin = entry_pin(self.home, self.number, &place.id());
            sys::pin(&**entry, &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
            let present = present
                .zip(self.stored)
                .map(|(attachment, stored)| Present {
                    stored: attachment,
                    entry: entry_pin(self.home, stored.generation, &place.id()),
                });
            let job = Job {
                place,
                present,
                entry: Arc::clone(entry),
            };
            if jobs.send(job).is_err() {
                // Attaching has failed, and says why.
                break;
            }
        }
        if self.stored.is_none() {
            fail_point!("loaded");
        }
        Ok(attachments)
    }

    /// The program array of a class: that in force where it does the same.
    fn load_class(&self, loader: &mut Loader<'_>, index: usize) -> Result<LoadedClass> {
        let (class, digest) = &self.classes[index];
        let present = match self.stored {
            Some(stored) => present_class(self.home, stored, digest)?,
            None => None,
        };
        let class = match present {
            Some(class) => class,
            None => loader.load_class(class, self.shared, &mut |wanted| {
                state_map(self.home, &wanted, &self.apply.limits)
            })?,
        };
        let pin = array_pin(self.home, self.number, index);
        sys::pin(&class.array, &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(class)
    }

    /// Where an attachment belongs, and what is there. `last`: the one before it.
    fn place(
        &self,
        wanted: &'a Attachment,
        last: Option<&StoredAttachment>,
    ) -> Result<(Wanted<'a>, Option<&'a StoredAttachment>)> {
        let mut place = self.apply.wanted(wanted).context("an interface has gone")?;
        let present = self.stored.and_then(|s| s.attachment(&place.id()));
        place.neighbour = match (wanted.part, present, self.stored) {
            // The parts of an attachment follow each other in the plan.
            (1.., _, _) => last.map(|a| Neighbour::Behind(a.program)),
            // A first part that has been removed comes back before the others.
            (0, Some(p), Some(stored)) => (1..p.parts)
                .filter_map(|part| stored.attachment(&p.id_of_part(part)))
                .find_map(|later| attach::running(self.home, later, self.here).ok().flatten())
                .map(Neighbour::Before),
            _ => None,
        };
        Ok((place, present))
    }

    /// What an entry program can go on running until the change: arrays of another flavour cannot
    /// be called, packets pass so long.
    fn before(
        &self,
        present: Option<&'a StoredAttachment>,
        wanted: &Attachment,
    ) -> Option<&'a StoredAttachment> {
        let frags = self.classes[wanted.class].0.frags;
        present.filter(|p| {
            self.stored
                .is_some_and(|s| s.classes[p.class].frags == frags)
        })
    }

    fn stored_classes(&self, loaded: &[Option<LoadedClass>]) -> Result<Vec<StoredClass>> {
        let apply = self.apply;
        let modules = apply.registry.modules();
        let mut all = Vec::new();
        let planned = self.classes.iter().zip(&apply.plan.classes);
        for (((class, digest), plan), loaded) in planned.zip(loaded) {
            let loaded = loaded.as_ref().context("a class is attached nowhere")?;
            let start = class.start();
            let chain_name =
                |chain: usize| apply.chains[plan.chains[chain]].chain.name.value.clone();
            let steps = class
                .graph
                .nodes
                .iter()
                .enumerate()
                .map(|(number, node)| StoredStep {
                    chain: chain_name(node.chain),
                    key: node.key.clone(),
                    order: node.order,
                    also: node
                        .also
                        .iter()
                        .map(|also| StoredAlso {
                            chain: chain_name(also.chain),
                            key: also.key.clone(),
                            order: also.order,
                        })
                        .collect(),
                    module: modules[node.module].name.clone(),
                    first_actor: node.first_actor,
                    id: class.ids[number],
                    slot: loaded.programs[number].0,
                    program: loaded.programs[number].1,
                });
            all.push(StoredClass {
                digest: digest.clone(),
                hook: class.hook.name().to_owned(),
                frags: class.frags,
                start: start.slot,
                undecidable: start.undecidable,
                array: loaded.array.info()?.info.id,
                steps: steps.collect(),
            });
        }
        Ok(all)
    }
}

/// Attaches what comes, up to the first that fails.
fn attach_all(
    home: &Home,
    here: &Interfaces,
    queue: mpsc::Receiver<Job<'_>>,
) -> (Vec<Attached>, Result<()>) {
    let mut all = Vec::new();
    for job in queue {
        match attach::attach(home, &job.place, job.present.as_ref(), here, &*job.entry) {
            Ok(attached) => all.push(attached),
            Err(error) => return (all, Err(error)),
        }
        fail_point!("attached");
    }
    (all, Ok(()))
}

fn old_arrays(home: &Home, stored: &Stored) -> Result<Vec<MapHandle>> {
    let open = |class| {
        open_map(&array_pin(home, stored.generation, class))?
            .context("the steps in force are not pinned any more")
    };
    (0..stored.classes.len()).map(open).collect()
}

/// A class in force that does the same: it stays as it is.
fn present_class(home: &Home, stored: &Stored, digest: &str) -> Result<Option<LoadedClass>> {
    let Some(index) = stored.classes.iter().position(|c| c.digest == digest) else {
        return Ok(None);
    };
    let class = &stored.classes[index];
    let pin = array_pin(home, stored.generation, index);
    let Some(array) = open_map(&pin)? else {
        return Ok(None);
    };
    if !inspect::slots_match(&array, class) {
        return Ok(None);
    }
    let programs = class.steps.iter().map(|s| (s.slot, s.program)).collect();
    Ok(Some(LoadedClass { array, programs }))
}
