//! What lies about of policies: for people who look for the cause of something.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::Result;

use super::inspect;
use super::stored;
use super::stored::generation_folder;
use super::stored::in_force;
use crate::pin;
use crate::pin::Home;

/// State of the pins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leftovers {
    /// Number of the process that is changing the policy; then nothing else is known.
    pub(crate) locked_by: Option<String>,
    /// The generation in force, if one is.
    pub(crate) generation: Option<u64>,
    /// What the kernel has otherwise than it was published.
    pub(crate) drift: Vec<String>,
    /// Folders of generations that are not in force.
    pub(crate) generations: Vec<String>,
    /// Folders of network namespaces that are gone.
    pub(crate) gone: Vec<PathBuf>,
    /// Not only as far as could be seen.
    pub(crate) gone_for_sure: bool,
}

/// Looks at the pins; waits for nobody, and changes nothing.
///
/// # Errors
///
/// No privilege, or the kernel's.
pub(crate) fn leftovers() -> Result<Leftovers> {
    let home = Home::current(false)?;
    let mut found = Leftovers {
        locked_by: home.locked_by(),
        ..Leftovers::default()
    };
    if found.locked_by.is_some() {
        return Ok(found);
    }
    let (alive, all) = namespaces();
    let folders = home.all()?.into_iter();
    let gone = folders.filter(|(inode, _)| !alive.contains(inode));
    found.gone = gone.map(|(_, home)| home.path().to_owned()).collect();
    found.gone_for_sure = all;
    let Some(_lock) = home.lock_shared()? else {
        return Ok(found);
    };
    let stored = in_force(&home)?;
    found.generation = stored.as_ref().map(|s| s.generation);
    found.drift = stored
        .map(|s| inspect::drift(&home, &s))
        .unwrap_or_default();
    let numbers = stored::generations(home.path())?;
    let left = numbers.into_iter().filter(|n| Some(*n) != found.generation);
    found.generations = left.map(generation_folder).collect();
    Ok(found)
}

/// Inodes of the network namespaces that a process is in or that are mounted, and whether all
/// processes could be looked at.
fn namespaces() -> (BTreeSet<u64>, bool) {
    let mut found = BTreeSet::new();
    let mut all = true;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        match fs::metadata(process.path().join("ns/net")) {
            Ok(namespace) => drop(found.insert(namespace.ino())),
            Err(e) => all &= e.kind() != io::ErrorKind::PermissionDenied,
        }
        let is_first = process.file_name() == "1" || process.file_name() == "self";
        let mounts = is_first.then(|| fs::read_to_string(process.path().join("mountinfo")));
        // 413 25 0:4 net:[4026532386] /run/netns/blue rw shared:219 - nsfs nsfs rw
        for line in mounts.and_then(Result::ok).unwrap_or_default().lines() {
            let root = line.split(' ').nth(3).unwrap_or_default();
            let inode = root.strip_prefix("net:[").and_then(|r| r.strip_suffix(']'));
            found.extend(inode.and_then(|i| i.parse::<u64>().ok()));
        }
    }
    for name in pin::list("/run/netns".as_ref()).unwrap_or_default() {
        if let Ok(namespace) = fs::metadata(PathBuf::from("/run/netns").join(name)) {
            found.insert(namespace.ino());
        }
    }
    (found, all)
}
