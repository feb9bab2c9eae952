//! The socket of `--socket`.

use std::fs::File;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Gid;
use nix::unistd::Group;
use nix::unistd::geteuid;

use super::args::Args;
use super::program::unblocked;
use crate::sys;

/// The socket, at which clients come in.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// So that another one's is not removed.
    inode: u64,
    group: Option<Gid>,
}

impl Socket {
    /// `None`: none is asked for.
    ///
    /// # Errors
    ///
    /// There is no such group; something else is at the path, or another process listens there.
    pub(super) fn new(args: &Args) -> Result<Option<Self>> {
        let Some(path) = &args.socket else {
            return Ok(None);
        };
        let group = match &args.group {
            Some(name) => {
                let group = Group::from_name(name).context("cannot look up groups")?;
                let group =
                    group.with_context(|| format!("--group: there is no group {name:?}"))?;
                Some(group.gid)
            }
            None => None,
        };
        let what = || format!("cannot listen at {}", path.display());
        remove_dead(path).with_context(what)?;
        let listener = UnixListener::bind(path).with_context(what)?;
        listener.set_nonblocking(true)?;
        // Whoever comes in before is looked at like all others.
        std::os::unix::fs::chown(path, None, group.map(Gid::as_raw)).with_context(what)?;
        std::fs::set_permissions(path, Permissions::from_mode(args.mode)).with_context(what)?;
        Ok(Some(Self {
            listener,
            inode: std::fs::metadata(path).with_context(what)?.ino(),
            path: path.clone(),
            group,
        }))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next client that may come in: its name, where to write to it, and to read from it.
    pub(super) fn accept(&self) -> Option<(String, File, File)> {
        loop {
            // It comes again, or not: nothing else depends on it.
            let (stream, _) = self.listener.accept().ok()?;
            match self.admit(stream) {
                Ok(Some(client)) => return Some(client),
                Ok(None) => {}
                Err(error) => eprintln!("emptcp: a client of the socket: {error:#}"),
            }
        }
    }

    /// `None`: it may not.
    fn admit(&self, stream: UnixStream) -> Result<Option<(String, File, File)>> {
        let peer = getsockopt(&stream, PeerCredentials).context("cannot see who it is")?;
        let (uid, pid) = (peer.uid(), peer.pid());
        let in_group = |group: Gid| -> Result<bool> {
            let group = group.as_raw();
            Ok(peer.gid() == group || sys::peer_groups(&stream)?.contains(&group))
        };
        let may = uid == 0
            || uid == geteuid().as_raw()
            || self.group.map(in_group).transpose()?.unwrap_or(false);
        let output = unblocked(OwnedFd::from(stream))?;
        let input = output.try_clone()?;
        if !may {
            use std::io::Write as _;

            eprintln!("emptcp: the socket is not for user {uid} (process {pid})");
            let why = "{\"event\":\"error\",\"message\":\"the socket is not for this user\"}\n";
            // It sees at least that it is closed.
            let _ = (&input).write(why.as_bytes());
            return Ok(None);
        }
        Ok(Some((format!("client (process {pid})"), input, output)))
    }
}

/// Removes a socket at which nobody listens any more.
fn remove_dead(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
        Ok(meta) if !meta.file_type().is_socket() => bail!("it is there, and no socket"),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another process does"),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
        Err(e) => Err(e.into()),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // At the worst the next one does.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
