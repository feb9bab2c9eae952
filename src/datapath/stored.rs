//! What is in force, as it was published: kept in a pinned map of the same
//! transaction, and found again through the generation word.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use fail::fail_point;
use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::counters::Counters;
use super::maps::create_map;
use crate::abi;
use crate::module::Hook;
use crate::pin;
use crate::pin::Home;
use crate::sys;

/// A published generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Version of emptcp that published it.
    pub(crate) emptcp: String,
    /// Number of the generation.
    pub(crate) generation: u64,
    /// Cookie of the network namespace, where the kernel gives one: inodes are used again.
    pub(crate) netns_cookie: Option<u64>,
    /// The policy, as `show --json` prints it.
    pub(crate) policy: serde_json::Value,
    /// Where the policy came from that was applied last; none: from nowhere but `chain add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// That policy, where chains were changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) applied: Option<serde_json::Value>,
    /// Ids of the cgroups that the policy names, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cgroups: BTreeMap<String, u64>,
    /// Interfaces that need fq.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) fq: BTreeSet<u32>,
    /// Blocks of counters.
    pub(crate) counters: usize,
    /// Number of each step in the counters, by its id and module.
    pub(crate) ids: BTreeMap<String, u32>,
    /// What counters showed when steps got their numbers; where that was not zero.
    pub(crate) bases: BTreeMap<u32, Counters>,
    /// What is loaded.
    pub(crate) classes: Vec<StoredClass>,
    /// Where it runs.
    pub(crate) attachments: Vec<StoredAttachment>,
}

/// A class in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredClass {
    /// All that decides what its programs do.
    pub(crate) digest: String,
    pub(crate) hook: String,
    pub(crate) frags: bool,
    /// Slots where packets begin: those that can be parsed, and others.
    pub(crate) start: u32,
    pub(crate) undecidable: u32,
    /// Id of the program array.
    pub(crate) array: u32,
    pub(crate) steps: Vec<StoredStep>,
}

/// A step in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredStep {
    pub(crate) chain: String,
    pub(crate) key: String,
    /// Place among the steps of all chains of the class, as written.
    #[serde(default)]
    pub(crate) order: usize,
    /// Equal tests for which it stands too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) also: Vec<StoredAlso>,
    pub(crate) module: String,
    pub(crate) first_actor: bool,
    /// Number in the counters.
    pub(crate) id: u32,
    /// Slot of the program of which it is a part, and its id.
    pub(crate) slot: u32,
    pub(crate) program: u32,
}

/// A test for which the step of another one stands, on all ways or on some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredAlso {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) order: usize,
}

/// How a class is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    Tcx,
    Clsact,
    Xdp,
}

/// An attachment in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredAttachment {
    pub(crate) ifindex: u32,
    pub(crate) interface: String,
    pub(crate) hook: String,
    /// Index of the class.
    pub(crate) class: usize,
    /// Which of the programs that the policy is split over here, and how many these are.
    pub(crate) part: usize,
    pub(crate) parts: usize,
    pub(crate) via: Via,
    /// Mode and position that were asked for: others need another attachment.
    pub(crate) options: String,
    /// Id of the entry program.
    pub(crate) program: u32,
}

impl StoredAttachment {
    /// What tells it apart from others: interface, hook and, at tc, part and place among other
    /// programs. Another place is another attachment, so that both can be there during a change.
    pub(crate) fn id(&self) -> String {
        self.id_of_part(self.part)
    }

    /// The same for another part.
    pub(crate) fn id_of_part(&self, part: usize) -> String {
        attachment_id(self.ifindex, &self.hook, part, &self.options)
    }
}

/// See [`StoredAttachment::id`]; fit for the name of a pin.
pub(crate) fn attachment_id(ifindex: u32, hook: &str, part: usize, options: &str) -> String {
    let mut id = format!("{ifindex}-{hook}");
    if part > 0 {
        id.push_str(&format!("-{}", part + 1));
    }
    if hook != Hook::Xdp.name() && options != "Last" {
        id.push('-');
        // Names of programs hold no hyphen, names of pins no dot.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        id.extend(options.chars().map(|c| if plain(c) { c } else { '-' }));
    }
    id
}

impl Stored {
    /// The attachment with this id.
    pub(crate) fn attachment(&self, id: &str) -> Option<&StoredAttachment> {
        self.attachments.iter().find(|a| a.id() == id)
    }

    /// Takes the place of what is pinned in the folder of its generation, which is the one in force.
    pub(crate) fn pin_again(&self, home: &Home) -> Result<()> {
        let folder = home.join(generation_folder(self.generation));
        let (new, path) = (folder.join("policy-new"), folder.join(POLICY));
        pin::remove(&new)?;
        self.pin(&new)?;
        fs::rename(&new, &path).with_context(|| format!("cannot replace {}", path.display()))
    }

    /// Writes it into a map at a path.
    pub(crate) fn pin(&self, path: &Path) -> Result<()> {
        pin_json("policy", self, path)
    }

    /// Reads it back; `None` where nothing is pinned.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        open_json(path)
    }
}

/// Writes a value as JSON into a map that is pinned at a path.
pub(super) fn pin_json(name: &str, value: &impl Serialize, path: &Path) -> Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    let length = bytes.len() as u32;
    // Length first: a map's value has no other end.
    bytes.splice(0..0, length.to_ne_bytes());
    let map = create_map(name, MapType::Array, [4, bytes.len() as u32, 1], 0)?;
    map.update(&0u32.to_ne_bytes(), &bytes, MapFlags::ANY)?;
    map.freeze().context("cannot freeze the policy")?;
    sys::pin(&map, path).with_context(|| format!("cannot pin {}", path.display()))
}

/// Reads what [`pin_json`] wrote; `None` where nothing is pinned.
pub(super) fn open_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(map) = open_map(path)? else {
        return Ok(None);
    };
    let bytes = map
        .lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?
        .unwrap_or_default();
    let length = bytes
        .first_chunk::<4>()
        .map_or(0, |l| u32::from_ne_bytes(*l)) as usize;
    let text = bytes
        .get(4..4 + length)
        .context("the stored policy is cut short")?;
    let stored = serde_json::from_slice(text)
        .context("the stored policy is of another version of emptcp: delete and apply again")?;
    Ok(Some(stored))
}

/// Folder of a generation.
pub(crate) fn generation_folder(number: u64) -> String {
    format!("gen-{number}")
}

/// Numbers of the generations of which something is pinned.
pub(crate) fn generations(home: &Path) -> Result<Vec<u64>> {
    let names = pin::list(home)?;
    Ok(names
        .iter()
        .filter_map(|n| n.strip_prefix("gen-")?.parse().ok())
        .collect())
}

/// The policy in force in the current network namespace, if there is one.
pub(super) fn in_force(home: &Home) -> Result<Option<Stored>> {
    let cookie = sys::netns_cookie();
    // The inode of a namespace that is gone is given to new ones.
    let own = |s: &Stored| s.netns_cookie.is_none() || s.netns_cookie == cookie;
    Ok(stored_at(home)?.filter(own))
}

/// What was published in a folder, whatever namespace that is.
pub(super) fn stored_at(home: &Home) -> Result<Option<Stored>> {
    let Some(generation) = generation(home)?.filter(|g| g.current != 0) else {
        return Ok(None);
    };
    let folder = home.join(generation_folder(generation.current));
    Stored::open(&folder.join(POLICY))
}

/// Name of the pin of a generation as it was published.
pub(super) const POLICY: &str = "policy";

/// Name of the pin of the generation word.
pub(super) const GENERATION: &str = "generation";

/// The generation word of a policy; `None` where there is none.
///
/// # Errors
///
/// It cannot be read, which does not mean that no policy is in force.
pub(super) fn generation(home: &Home) -> Result<Option<abi::Generation>> {
    let map = open_map(&home.join(GENERATION))?;
    Ok(map.as_ref().and_then(read_generation))
}

/// The map that is pinned at a path; `None` where nothing is.
///
/// # Errors
///
/// Something is, but cannot be opened: no descriptor left, no memory, a file system that is
/// mounted read-only.
pub(super) fn open_map(path: &Path) -> Result<Option<MapHandle>> {
    fail_point!("open", |_| anyhow::bail!("cannot open {}", path.display()));
    match MapHandle::from_pinned_path(path) {
        Ok(map) => Ok(Some(map)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot open {}", path.display())),
    }
}

pub(super) fn read_generation(map: &MapHandle) -> Option<abi::Generation> {
    let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??;
    let mut generation = abi::Generation::default();
    plain::copy_from_bytes(&mut generation, &bytes).ok()?;
    Some(generation)
}

/// Path of the pin of a class's program array.
pub(super) fn array_pin(home: &Home, generation: u64, class: usize) -> PathBuf {
    home.join(generation_folder(generation))
        .join(format!("{class}-progs"))
}

/// Path of the pin of the entry program of an attachment.
pub(super) fn entry_pin(home: &Home, generation: u64, attachment: &str) -> PathBuf {
    home.join(generation_folder(generation))
        .join(format!("entry-{attachment}"))
}
