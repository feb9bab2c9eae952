//! Folders with modules: which, and whether they can be trusted. Who can write to
//! a module that somebody privileged loads runs instructions in the kernel.

use std::fs;
use std::fs::Metadata;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use super::Family;

/// Folders that are looked into unasked: of packages, of the administrator.
pub(super) const FOLDERS: [&str; 2] = ["/usr/lib/emptcp/modules", "/etc/emptcp/modules"];

/// Largest file that can be a module; those here have 30 KiB.
const MOST_BYTES: u64 = 16 << 20;

/// A file that holds a module.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) family: Family,
    pub(super) bytes: Vec<u8>,
}

/// The modules of a folder, by name.
///
/// # Errors
///
/// The folder or a file in it cannot be read, or others than root and the caller can write to it.
pub(super) fn read(folder: &Path) -> Result<Vec<File>> {
    let what = || format!("cannot read the folder of modules {}", folder.display());
    let folder = fs::canonicalize(folder).with_context(what)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(what)? {
        let path = entry.with_context(what)?.path();
        if let Some(family) = family(&path) {
            names.push((path, family));
        }
    }
    names.sort();
    if may_load() {
        trust_path(&folder)?;
    }
    let mut files = Vec::new();
    for (path, family) in names {
        let bytes = read_file(&path)?;
        files.push(File {
            path,
            family,
            bytes,
        });
    }
    Ok(files)
}

/// By the name: `NAME.xdp.o`, `NAME.tc.o`; others are none of ours.
fn family(path: &Path) -> Option<Family> {
    let name = path.file_name()?.to_str()?.strip_suffix(".o")?;
    [Family::Xdp, Family::Tc]
        .into_iter()
        .find(|family| name.ends_with(&format!(".{}", family.section())))
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read the module {}", path.display());
    // A link leads to a file whose folders count too.
    let real = fs::canonicalize(path).with_context(what)?;
    if real != path && may_load() {
        trust_path(real.parent().unwrap_or(Path::new("/")))?;
    }
    // A pipe would let us wait for ever.
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(&real).with_context(what)?;
    // Of what was opened: the name may be another file's by now.
    let metadata = file.metadata().with_context(what)?;
    if !metadata.is_file() {
        bail!("{} is no file", path.display());
    }
    if may_load() {
        trust(path, &metadata, false)?;
    }
    if metadata.len() > MOST_BYTES {
        bail!("{} has {} bytes: no module", path.display(), metadata.len());
    }
    let mut bytes = Vec::new();
    let limit = MOST_BYTES;
    file.take(limit)
        .read_to_end(&mut bytes)
        .with_context(what)?;
    Ok(bytes)
}

/// Whether this process can load programs: root, or with CAP_BPF or CAP_SYS_ADMIN. Who only reads
/// need trust nobody.
fn may_load() -> bool {
    const SYS_ADMIN_AND_BPF: u64 = 1 << 21 | 1 << 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // Unknown is privileged.
    nix::unistd::geteuid().is_root() || effective.is_none_or(|e| e & SYS_ADMIN_AND_BPF != 0)
}

/// A folder and all above it.
fn trust_path(folder: &Path) -> Result<()> {
    for (depth, path) in folder.ancestors().enumerate() {
        let metadata = fs::metadata(path).with_context(|| path.display().to_string())?;
        trust(path, &metadata, depth > 0)
            .with_context(|| format!("modules of {} are not loaded", folder.display()))?;
    }
    Ok(())
}

/// Nobody but root and the caller can write. In a folder `above`, a sticky bit (as that of /tmp)
/// keeps others from exchanging what is not theirs.
fn trust(path: &Path, metadata: &Metadata, above: bool) -> Result<()> {
    let owner = metadata.uid();
    let caller = nix::unistd::geteuid();
    if owner != 0 && owner != caller.as_raw() {
        bail!(
            "{} belongs to user {owner}: a module must belong to root or to who loads it \
             (uid {caller}); chown it",
            path.display()
        );
    }
    let sticky = above && metadata.mode() & 0o1000 != 0;
    if metadata.mode() & 0o022 != 0 && !sticky {
        bail!(
            "{} can be written by others than its owner (mode {:04o}): chmod go-w it",
            path.display(),
            metadata.mode() & 0o7777
        );
    }
    Ok(())
}

/// Why a folder that nobody named gives no modules, and that is all right; `None`: it is not.
pub(super) fn excuse(error: &anyhow::Error) -> Option<io::ErrorKind> {
    let kind = error.downcast_ref::<io::Error>()?.kind();
    matches!(
        kind,
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
    .then_some(kind)
}
