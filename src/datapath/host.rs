//! What a policy can name of this machine: interfaces and cgroups.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::statfs::FsType;
use nix::sys::statfs::statfs;

use crate::interface::Interfaces;
use crate::params::Cgroup;
use crate::params::InterfaceResolver;
use crate::sys;

/// Magic number of the file system of cgroups (`CGROUP2_SUPER_MAGIC`).
const CGROUP2: FsType = FsType(0x6367_7270);
/// Inode of the cgroup of the whole machine: the first node of the file system
/// (`kernfs_create_root()`).
const ROOT: u64 = 1;

/// Where systems mount it, alone or beside version 1.
const USUAL: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Whether what a policy names must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// All of it: the policy is put in force.
    InForce,
    /// Interfaces; cgroups come and go with what runs in them.
    Checked,
    /// Nothing: the policy is for another machine.
    Elsewhere,
}

/// Interfaces and cgroups as this process sees them. Remembers the cgroups that it was asked for.
#[derive(Debug)]
pub struct Host {
    /// The interfaces.
    pub interfaces: Interfaces,
    judge: Judge,
    hierarchy: OnceCell<Result<Hierarchy, String>>,
    known: RefCell<BTreeMap<String, Cgroup>>,
    missing: RefCell<Vec<String>>,
}

impl Host {
    /// With these interfaces; looks for the cgroups when the first is asked for.
    pub fn new(interfaces: Interfaces, judge: Judge) -> Self {
        Self {
            interfaces,
            judge,
            hierarchy: OnceCell::new(),
            known: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// The ids of the cgroups that were asked for and found, by path.
    pub fn cgroups(&self) -> BTreeMap<String, u64> {
        let known = self.known.borrow();
        known.iter().map(|(p, c)| (p.clone(), c.id)).collect()
    }

    /// Why cgroups that were asked for could not be found; one line for each.
    pub fn missing(&self) -> Vec<String> {
        self.missing.borrow().clone()
    }

    fn find(&self, path: &str) -> Result<Cgroup, String> {
        let hierarchy = self.hierarchy.get_or_init(Hierarchy::find);
        hierarchy.as_ref().map_err(Clone::clone)?.cgroup(path)
    }
}

impl InterfaceResolver for Host {
    fn index(&self, name: &str) -> Option<u32> {
        match self.judge {
            Judge::Elsewhere => Some(1),
            Judge::InForce | Judge::Checked => self.interfaces.index(name),
        }
    }

    fn name(&self, index: u32) -> Option<String> {
        match self.judge {
            Judge::Elsewhere => None,
            Judge::InForce | Judge::Checked => self.interfaces.name(index),
        }
    }

    fn names(&self) -> Vec<String> {
        self.interfaces.names()
    }

    fn cgroup(&self, path: &str) -> Result<Cgroup, String> {
        let cgroup = match self.judge {
            Judge::Elsewhere => Cgroup::elsewhere(path),
            Judge::InForce => self.find(path)?,
            Judge::Checked => self.find(path).unwrap_or_else(|why| {
                let mut missing = self.missing.borrow_mut();
                if !missing.contains(&why) {
                    missing.push(why);
                }
                Cgroup::elsewhere(path)
            }),
        };
        self.known.borrow_mut().insert(path.to_owned(), cgroup);
        Ok(cgroup)
    }

    fn cgroup_path(&self, id: u64) -> Option<String> {
        let known = self.known.borrow();
        let found = known.iter().find(|(_, cgroup)| cgroup.id == id);
        found.map(|(path, _)| path.clone())
    }
}

/// What has become of cgroups since a policy was put in force: `wanted` are their ids by path.
pub(super) fn cgroup_drift(wanted: &BTreeMap<String, u64>) -> Vec<String> {
    let host = Host::new(Interfaces::default(), Judge::InForce);
    let drifted = |(path, id): (&String, &u64)| match host.cgroup(path) {
        Ok(now) if now.id == *id => None,
        Ok(_) => Some(format!(
            "the cgroup {path:?} was made anew: nothing that runs in it now is matched"
        )),
        Err(why) => Some(why),
    };
    wanted.iter().filter_map(drifted).collect()
}

/// The hierarchy of cgroups (version 2).
#[derive(Debug)]
struct Hierarchy {
    /// Where it is mounted, as people write it.
    mounted: Vec<PathBuf>,
    /// Its root, as this process gets there.
    reached: PathBuf,
    device: u64,
    /// Keeps that place, where it is a mount of our own.
    _own: Option<OwnedFd>,
}

impl Hierarchy {
    /// The one that is mounted for this process, else a mount of our own at no place: `ip netns
    /// exec` hides from its command what is mounted below /sys.
    fn find() -> Result<Self, String> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut mounted = mount_points(&mountinfo);
        // Something else may be mounted above it.
        mounted.retain(|place| statfs(place).is_ok_and(|fs| fs.filesystem_type() == CGROUP2));
        let is_root = |place: &PathBuf| fs::metadata(place).is_ok_and(|m| m.ino() == ROOT);
        let (own, reached) = match mounted.iter().find(|place| is_root(place)) {
            Some(place) => (None, place.clone()),
            None => {
                let own = sys::mount_nowhere(c"cgroup2")
                    .map_err(|e| format!("cannot look at the cgroups of this machine: {e}"))?;
                let place = PathBuf::from(format!("/proc/self/fd/{}", own.as_raw_fd()));
                mounted = USUAL.map(PathBuf::from).to_vec();
                (Some(own), place)
            }
        };
        mounted.retain(|place| own.is_some() || is_root(place));
        match fs::metadata(&reached) {
            Ok(folder) if folder.ino() == ROOT => Ok(Self {
                mounted,
                reached,
                device: folder.dev(),
                _own: own,
            }),
            Ok(_) => Err(
                "only a part of the cgroups is seen here: run emptcp outside of the \
                          container (cgroup namespace)"
                    .to_owned(),
            ),
            Err(error) => Err(format!("{}: {error}", reached.display())),
        }
    }

    /// The cgroup of a path, which begins at the root of the hierarchy or with a mount point.
    fn cgroup(&self, path: &str) -> Result<Cgroup, String> {
        let given = Path::new(path);
        let mut mounts = self.mounted.iter().map(PathBuf::as_path);
        let below = mounts
            .find_map(|mounted| given.strip_prefix(mounted).ok())
            .or_else(|| given.strip_prefix("/").ok())
            .unwrap_or(given);
        let place = self.reached.join(below);
        match fs::metadata(&place) {
            Ok(folder) if folder.is_dir() && folder.dev() == self.device => Ok(Cgroup {
                id: folder.ino(),
                level: below.components().count() as u32,
            }),
            Ok(_) => Err(format!("{path:?} is no cgroup")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("there is no cgroup {path:?}"))
            }
            Err(error) => Err(format!("the cgroup {path:?} cannot be looked at: {error}")),
        }
    }
}

/// Mount points of the file system of cgroups in the text of a mountinfo (proc_pid_mountinfo(5)).
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let is_cgroup2 = kind.split(' ').next() == Some("cgroup2");
        // Blanks stand as \040: such a place is not found, which the error tells.
        let point = mount.split(' ').nth(4).filter(|_| is_cgroup2)?;
        Some(PathBuf::from(point))
    };
    mountinfo.lines().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_mounted_where_mountinfo_says() {
        let text = "\
30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /mnt/cgroup2 rw,relatime shared:3 master:1 - tmpfs cgroup2 rw
";
        assert_eq!(mount_points(text), [Path::new("/sys/fs/cgroup/unified")]);
    }
}
