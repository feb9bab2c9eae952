//! What is in force, and whether the kernel still has it so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde::Serialize;
use serde_json::Value;

use super::attach;
use super::counters;
use super::counters::Counted;
use super::counters::Counters;
use super::fq::fq_drift;
use super::held::HeldJoins;
use super::held::held_joins;
use super::host::cgroup_drift;
use super::netlink::interfaces;
use super::pending;
use super::shared::open_shared;
use super::stored;
use super::stored::Stored;
use super::stored::StoredAlso;
use super::stored::StoredClass;
use super::stored::StoredStep;
use super::stored::in_force;
use super::stored::stored_at;
use super::tables;
use crate::module::Hook;
use crate::pin;
use crate::pin::Home;
use crate::policy::ChainChanges;

/// A policy in force.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Number of the generation.
    pub generation: u64,
    /// Folder of its pins.
    pub pins: String,
    /// Where it runs.
    pub attachments: Vec<AttachmentStatus>,
    /// What its chains did.
    pub chains: Vec<ChainStatus>,
    /// Packets that passed untreated, by hook and reason.
    pub reasons: BTreeMap<String, BTreeMap<String, u64>>,
    /// Directions of subflows in which something waits for a packet, which `run` sends.
    pub waiting: usize,
    /// SYNs of further subflows that are held.
    pub held_joins: HeldJoins,
    /// The file that was applied last; `None`: all is from `chain add`.
    pub applied: Option<Applied>,
    /// What the kernel has otherwise than it was published; `apply` mends it.
    pub drift: Vec<String>,
}

/// An attachment in force.
#[derive(Clone, Debug, Serialize)]
pub struct AttachmentStatus {
    /// Name of the interface at the time of the apply.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// The hook.
    pub hook: String,
    /// Which of the programs that the chains are split over there; from 1 on.
    pub part: usize,
    /// How many these are.
    pub parts: usize,
    /// `tcx`, `clsact` or `xdp`.
    pub via: String,
    /// Id of the entry program.
    pub program: u32,
    /// Chains that run there, in order.
    pub chains: Vec<String>,
    /// Steps that are loaded.
    pub steps: usize,
}

/// What a chain did at one of its hooks.
#[derive(Clone, Debug, Serialize)]
pub struct ChainStatus {
    /// Its name.
    pub name: String,
    /// The hook.
    pub hook: String,
    /// Packets that it selected.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Its steps, as loaded.
    pub steps: Vec<StepStatus>,
}

/// What a step did.
#[derive(Clone, Debug, Serialize)]
pub struct StepStatus {
    /// Where it stands, such as `cap-lte/select/all[1]`.
    pub step: String,
    /// Its module.
    pub module: String,
    /// Equal tests whose outcome it takes over, on all ways to it or on some: it is not
    /// evaluated again there, and does not count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<String>,
    /// Nowhere it is evaluated itself: the counters are those of the first of `shared_with`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_shared: bool,
    /// What it counted.
    #[serde(flatten)]
    pub counters: Counters,
}

/// The policy in force, as it was written.
#[derive(Clone, Debug)]
pub struct InForce {
    /// In the form of [`canonical`](crate::policy::canonical).
    pub policy: Value,
    /// Number of the generation.
    pub generation: u64,
    /// What is otherwise than in the file that was applied last, if one was.
    pub applied: Option<Applied>,
    /// What the kernel has otherwise than it was published.
    pub drift: Vec<String>,
}

/// The file that was applied last, and what is in force otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// The file or folder, `-` for standard input.
    pub from: String,
    /// Chains that were changed since.
    pub changes: ChainChanges,
}

impl Applied {
    fn of(stored: &Stored) -> Option<Self> {
        let applied = stored.applied.as_ref().unwrap_or(&stored.policy);
        Some(Self {
            from: stored.source.clone()?,
            changes: ChainChanges::between(applied, &stored.policy),
        })
    }

    /// The changes, as drift against the file.
    pub fn drift(&self) -> Vec<String> {
        let from = match self.from.as_str() {
            "-" => "standard input",
            from => from,
        };
        let line = |line| format!("{line} after {from} was applied");
        self.changes.lines().into_iter().map(line).collect()
    }
}

/// The policy of this network namespace; `None` where there is none.
///
/// # Errors
///
/// No privilege, or the kernel's.
pub fn policy() -> Result<Option<InForce>> {
    let home = Home::current(false)?;
    let Some(_lock) = home.lock_shared()? else {
        return Ok(None);
    };
    let Some(stored) = in_force(&home)? else {
        return Ok(None);
    };
    Ok(Some(InForce {
        drift: drift(&home, &stored),
        applied: Applied::of(&stored),
        generation: stored.generation,
        policy: stored.policy,
    }))
}

/// State and counters of the policy of this network namespace; `None` where there is none.
///
/// # Errors
///
/// No privilege, or the kernel's.
pub fn status() -> Result<Option<Status>> {
    let home = Home::current(false)?;
    let Some(_lock) = home.lock_shared()? else {
        return Ok(None);
    };
    let Some(stored) = in_force(&home)? else {
        return Ok(None);
    };
    let shared =
        open_shared(&home, &stored)?.context("pins of the policy are missing; apply it again")?;
    let mut attachments = Vec::new();
    for attachment in &stored.attachments {
        let class = &stored.classes[attachment.class];
        attachments.push(AttachmentStatus {
            interface: attachment.interface.clone(),
            ifindex: attachment.ifindex,
            hook: attachment.hook.clone(),
            part: attachment.part + 1,
            parts: attachment.parts,
            via: serde_json::to_value(attachment.via)?
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            program: attachment.program,
            chains: chains_of(class),
            steps: class.steps.len(),
        });
    }
    let mut reasons = BTreeMap::new();
    for hook in Hook::ALL {
        let found: BTreeMap<_, _> = counters::reasons(&shared.reasons, hook)?
            .into_iter()
            .collect();
        if !found.is_empty() {
            reasons.insert(hook.name().to_owned(), found);
        }
    }
    Ok(Some(Status {
        generation: stored.generation,
        pins: home.path().display().to_string(),
        attachments,
        chains: chains(&stored, &Counted::read(&shared.counters)?),
        reasons,
        waiting: pending::count(&home)?,
        held_joins: held_joins(&home)?,
        applied: Applied::of(&stored),
        drift: drift(&home, &stored),
    }))
}

/// The policy of one network namespace among all.
#[derive(Clone, Debug, Serialize)]
pub struct NamespaceStatus {
    /// Inode of the namespace, as `lsns -t net` prints it.
    pub netns: u64,
    /// Its names under /run/netns; empty where it has none, or is gone.
    pub names: Vec<String>,
    /// Number of the generation.
    pub generation: u64,
    /// Names of the chains that are loaded.
    pub chains: Vec<String>,
    /// Folder of its pins.
    pub pins: String,
}

/// The policies of all network namespaces whose pins are in this BPF file system.
///
/// # Errors
///
/// No privilege, or the kernel's.
pub fn status_all() -> Result<Vec<NamespaceStatus>> {
    let mut all = Vec::new();
    for (netns, home) in Home::current(false)?.all()? {
        let Some(_lock) = home.lock_shared()? else {
            continue;
        };
        let Some(stored) = stored_at(&home)? else {
            continue;
        };
        let mut chains: Vec<String> = stored.classes.iter().flat_map(chains_of).collect();
        chains.sort();
        chains.dedup();
        all.push(NamespaceStatus {
            netns,
            names: netns_names(netns),
            generation: stored.generation,
            chains,
            pins: home.path().display().to_string(),
        });
    }
    Ok(all)
}

/// Names that `ip netns` gave a namespace.
fn netns_names(inode: u64) -> Vec<String> {
    let folder = Path::new("/run/netns");
    let names = pin::list(folder).unwrap_or_default();
    let is_it = |name: &String| fs::metadata(folder.join(name)).is_ok_and(|m| m.ino() == inode);
    names.into_iter().filter(is_it).collect()
}

fn chains_of(class: &StoredClass) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, chain) in chains_in_order(class) {
        if !names.contains(chain) {
            names.push(chain.clone());
        }
    }
    names
}

/// Chains of steps and of tests for which others stand, by their place as written.
fn chains_in_order(class: &StoredClass) -> Vec<(usize, &String)> {
    let mut all: Vec<(usize, &String)> = Vec::new();
    for step in &class.steps {
        all.push((step.order, &step.chain));
        all.extend(step.also.iter().map(|also| (also.order, &also.chain)));
    }
    all.sort();
    all
}

/// Every step once, though several classes may hold it.
fn chains(stored: &Stored, counted: &Counted) -> Vec<ChainStatus> {
    let mut all: Vec<ChainStatus> = Vec::new();
    for class in &stored.classes {
        // In the order of the chains, and in each as its steps are written.
        let mut steps: Vec<(usize, &StoredStep, Option<&StoredAlso>)> = Vec::new();
        for step in &class.steps {
            steps.push((step.order, step, None));
            steps.extend(step.also.iter().map(|also| (also.order, step, Some(also))));
        }
        steps.sort_by_key(|(order, step, _)| (*order, step.order));
        for (_, step, also) in steps {
            let (name, key) = match also {
                Some(also) => (&also.chain, &also.key),
                None => (&step.chain, &step.key),
            };
            let is_it = |c: &ChainStatus| c.name == *name && c.hook == class.hook;
            let index = all.iter().position(is_it).unwrap_or_else(|| {
                all.push(ChainStatus {
                    name: name.clone(),
                    hook: class.hook.clone(),
                    packets: 0,
                    bytes: 0,
                    steps: Vec::new(),
                });
                all.len() - 1
            });
            let chain = &mut all[index];
            let counters = counted.of(step.id, &stored.bases);
            let row = match chain.steps.iter().position(|s| s.step == *key) {
                Some(row) => &mut chain.steps[row],
                None => {
                    chain.steps.push(StepStatus {
                        step: key.clone(),
                        module: step.module.clone(),
                        shared_with: Vec::new(),
                        only_shared: also.is_some(),
                        counters,
                    });
                    let last = chain.steps.len() - 1;
                    &mut chain.steps[last]
                }
            };
            if also.is_some() {
                if !row.shared_with.contains(&step.key) {
                    row.shared_with.push(step.key.clone());
                }
            } else {
                row.only_shared = false;
                row.counters = counters;
                if step.first_actor {
                    chain.packets = counters.evaluated;
                    chain.bytes = counters.bytes;
                }
            }
        }
    }
    all
}

/// What the kernel has otherwise than it was published.
pub(super) fn drift(home: &Home, stored: &Stored) -> Vec<String> {
    let mut drift = Vec::new();
    let here = match interfaces() {
        Ok(here) => here,
        Err(error) => return vec![format!("{error:#}")],
    };
    for a in &stored.attachments {
        let mut place = format!("{} of {}", a.hook, a.interface);
        if a.parts > 1 {
            place.push_str(&format!(", part {} of {}", a.part + 1, a.parts));
        }
        let name = here.by_index(a.ifindex).map(|i| &i.name);
        match attach::running(home, a, &here) {
            Ok(Some(program)) if program == a.program => {
                if let Some(name) = name.filter(|name| **name != a.interface) {
                    drift.push(format!("{place}: the interface is named {name} now"));
                }
            }
            Ok(Some(program)) => drift.push(format!(
                "{place}: program {program} runs in the place of {}",
                a.program
            )),
            Ok(None) if name.is_none() => drift.push(format!("{place}: the interface has gone")),
            Ok(None) => drift.push(format!("{place}: nothing of emptcp is attached")),
            Err(error) => drift.push(format!("{place}: {error:#}")),
        }
    }
    drift.extend(tables::drift(home, stored.generation));
    drift.extend(cgroup_drift(&stored.cgroups));
    drift.extend(fq_drift(&stored.fq, &here));
    for (index, class) in stored.classes.iter().enumerate() {
        let folder = home.join(stored::generation_folder(stored.generation));
        let matches = MapHandle::from_pinned_path(folder.join(format!("{index}-progs")))
            .is_ok_and(|array| slots_match(&array, class));
        if !matches {
            drift.push(format!(
                "{}: steps of {} are missing",
                class.hook,
                chains_of(class).join(", ")
            ));
        }
    }
    drift
}

/// Whether every slot holds the program that was put there.
pub(super) fn slots_match(array: &MapHandle, class: &StoredClass) -> bool {
    class.steps.iter().all(|step| {
        // A program array gives the id of the program.
        let id = array
            .lookup(&step.slot.to_ne_bytes(), MapFlags::ANY)
            .ok()
            .flatten();
        id.is_some_and(|id| id == step.program.to_ne_bytes())
    })
}
