//! Where a policy lives: a folder of a BPF file system for each network
//! namespace, with a lock.
//!
//! `<bpffs>/emptcp/v1/<inode of the namespace>/…`; the layout below that is in
//! `docs/pinning.md`.

use std::env;
use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use fail::fail_point;
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sched::CloneFlags;
use nix::sched::setns;
use nix::sys::statfs::FsType;
use nix::sys::statfs::statfs;

/// Version of the layout of pins; another one is another policy.
const LAYOUT: &str = "v1";
/// Magic number of the BPF file system (`BPF_FS_MAGIC`).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Where systems mount the BPF file system.
const STANDARD: &str = "/sys/fs/bpf";
/// Overrides the place.
const OVERRIDE: &str = "EMPTCP_BPFFS";

/// The folder of the policy of one network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    path: PathBuf,
}

/// Nobody else changes the policy while this lives.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) home: Home,
    _lock: Flock<File>,
}

impl Home {
    /// The folder for the current network namespace, which need not exist.
    /// `mount`: mount a BPF file system where none is.
    ///
    /// # Errors
    ///
    /// There is no BPF file system that lasts, with the cure.
    pub(crate) fn current(mount: bool) -> Result<Self> {
        let netns = fs::metadata("/proc/self/ns/net").context("cannot read /proc/self/ns/net")?;
        let base = bpffs(mount)?.join("emptcp").join(LAYOUT);
        Ok(Self {
            path: base.join(netns.ino().to_string()),
        })
    }

    /// The folder for the current network namespace where a BPF file system is mounted, else the
    /// place where one belongs. Changes nothing, waits for nobody.
    pub(crate) fn look() -> Result<(PathBuf, bool)> {
        let path = bpffs(false)?;
        let mounted = is_bpffs(&path)?;
        Ok((path, mounted))
    }

    /// The process that is changing the policy, if one is.
    pub(crate) fn locked_by(&self) -> Option<String> {
        locked_by(&self.path)
    }

    /// All folders beside this one, with the inode of their namespace.
    pub(crate) fn all(&self) -> Result<Vec<(u64, Home)>> {
        let mut found = Vec::new();
        for name in self
            .path
            .parent()
            .map(list)
            .transpose()?
            .unwrap_or_default()
        {
            if let Ok(inode) = name.parse() {
                found.push((
                    inode,
                    Home {
                        path: self.path.with_file_name(name),
                    },
                ));
            }
        }
        Ok(found)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder is there.
    ///
    /// # Errors
    ///
    /// Nobody may look: no privilege.
    pub(crate) fn exists(&self) -> Result<bool> {
        let path = &self.path;
        path.try_exists()
            .with_context(|| format!("cannot look for {}", path.display()))
    }

    /// Waits for the lock; creates the folder.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn lock(self) -> Result<Locked> {
        loop {
            make_folder(&self.path).with_context(|| {
                format!(
                    "cannot create {}: the BPF file system is full or read-only",
                    self.path.display()
                )
            })?;
            let Some(lock) = self.flock(FlockArg::LockExclusive)? else {
                continue;
            };
            return Ok(Locked {
                home: self,
                _lock: lock,
            });
        }
    }

    /// Waits for the lock of a policy that is there; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn lock_present(&self) -> Result<Option<Flock<File>>> {
        while self.exists()? {
            if let Some(lock) = self.flock(FlockArg::LockExclusive)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    /// The lock of a policy that is there, without waiting: `Some(None)` where somebody else holds
    /// it, `None` where there is no policy.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn try_lock_present(&self) -> Result<Option<Option<Flock<File>>>> {
        while self.exists()? {
            match self.flock(FlockArg::LockExclusiveNonblock) {
                Ok(Some(lock)) => return Ok(Some(Some(lock))),
                Ok(None) => {}
                Err(e) if e.root_cause().downcast_ref() == Some(&Errno::EWOULDBLOCK) => {
                    return Ok(Some(None));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Waits until nobody changes the policy; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn lock_shared(&self) -> Result<Option<Flock<File>>> {
        while self.exists()? {
            if let Some(lock) = self.flock(FlockArg::LockShared)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    /// `None`: whoever held the lock has removed the folder.
    fn flock(&self, arg: FlockArg) -> Result<Option<Flock<File>>> {
        let dir = match File::open(&self.path) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(e).with_context(|| format!("cannot open {}", self.path.display()));
            }
        };
        let opened = dir.metadata()?.ino();
        let lock = Flock::lock(dir, arg)
            .map_err(|(_, e)| e)
            .with_context(|| format!("cannot lock {}", self.path.display()))?;
        let there = fs::metadata(&self.path).map(|m| m.ino());
        Ok((there.ok() == Some(opened)).then_some(lock))
    }

    /// Path of a pin or folder below.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

/// The process that holds an exclusive lock on a folder, if one does.
fn locked_by(folder: &Path) -> Option<String> {
    let inode = fs::metadata(folder).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 708 08:01:262 0 EOF
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", process, file, ..] = fields[..] else {
            return None;
        };
        let own = file.rsplit(':').next()? == inode.to_string();
        own.then(|| process.to_owned())
    })
}

/// An exclusive lock on a folder; else the process that holds it, if that is known.
///
/// # Errors
///
/// The kernel's: there is no such folder.
pub(crate) fn lock_folder(folder: &Path) -> Result<Result<Flock<File>, Option<String>>> {
    let dir = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Ok(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(Err(locked_by(folder))),
        Err((_, e)) => Err(e).with_context(|| format!("cannot lock {}", folder.display())),
    }
}

/// Names in a folder, sorted; empty where there is none.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Creates a folder if it is not there.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    make_folder(path).with_context(|| format!("cannot create {}", path.display()))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fail_point!("mkdir", |_| Err(io::ErrorKind::StorageFull.into()));
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a pin or a folder of pins; it is no error if it is not there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            for name in list(path)? {
                remove(&path.join(name))?;
            }
            fs::remove_dir(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder in which nothing is.
pub(crate) fn remove_if_empty(folder: &Path) {
    // ENOTEMPTY, ENOENT: as it shall be.
    let _ = fs::remove_dir(folder);
}

/// Whether a BPF file system is mounted there.
fn is_bpffs(path: &Path) -> Result<bool> {
    match statfs(path) {
        Ok(stat) => Ok(stat.filesystem_type() == BPF_FS),
        // Not that there is none.
        Err(nix::errno::Errno::EACCES) => Err(io::Error::from(io::ErrorKind::PermissionDenied))
            .with_context(|| format!("cannot look at {}", path.display())),
        Err(_) => Ok(false),
    }
}

/// The BPF file system to use: one that outlives the calling process.
///
/// `ip netns exec` gives its command a mount namespace with another /sys, so what
/// is mounted there ends with the command: then that of process 1 is taken.
fn bpffs(may_mount: bool) -> Result<PathBuf> {
    if let Some(path) = env::var_os(OVERRIDE) {
        let path = PathBuf::from(path);
        if !is_bpffs(&path)? {
            bail!(
                "{OVERRIDE}={} is no BPF file system: mount -t bpf bpf {}",
                path.display(),
                path.display()
            );
        }
        return Ok(path);
    }
    let standard = PathBuf::from(STANDARD);
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let first = fs::read_link("/proc/1/ns/mnt").ok();
    if first.is_some() && own != first {
        // Through process 1, in its mount namespace.
        let path = PathBuf::from(format!("/proc/1/root{STANDARD}"));
        if !is_bpffs(&path)? && may_mount {
            mount_in_first().context(
                "cannot mount a BPF file system at /sys/fs/bpf in the mount namespace of process 1: \
                 do so there (mount -t bpf bpf /sys/fs/bpf), or set EMPTCP_BPFFS",
            )?;
        }
        return Ok(path);
    }
    if is_bpffs(&standard)? || (!may_mount && first.is_some()) {
        return Ok(standard);
    }
    if first.is_none() {
        if !nix::unistd::geteuid().is_root() {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied))
                .context("cannot see whether process 1 has a BPF file system: set EMPTCP_BPFFS");
        }
        bail!(
            "{STANDARD} is no BPF file system, and process 1 cannot be looked into to see whether a \
             mount would last: mount -t bpf bpf {STANDARD} outside of ip netns exec, or set {OVERRIDE} \
             to a mounted one"
        );
    }
    mount_at(&standard)?;
    Ok(standard)
}

fn mount_at(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=700"))
        .with_context(|| format!("cannot mount a BPF file system at {}", path.display()))
}

/// Mounts in the mount namespace of process 1, and comes back.
fn mount_in_first() -> Result<()> {
    let own = File::open("/proc/self/ns/mnt")?;
    let folder = File::open(".")?;
    let first = File::open("/proc/1/ns/mnt")?;
    setns(&first, CloneFlags::CLONE_NEWNS)?;
    let mounted = mount_at(Path::new(STANDARD));
    setns(&own, CloneFlags::CLONE_NEWNS)?;
    nix::unistd::fchdir(&folder)?;
    mounted
}
