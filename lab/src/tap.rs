//! TAP devices: the ends of emulated links.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

use crate::{netns, sys};

/// A TAP device; it vanishes when this is dropped.
///
/// It has neither segmentation nor checksum offload: every frame is at most MTU plus header long
/// and has complete checksums.
#[derive(Debug)]
pub(crate) struct Tap {
    file: File,
}

impl Tap {
    /// Makes the device `name` in a namespace.
    pub(crate) fn create(namespace: &str, name: &str) -> Result<Self> {
        let file = netns::within(namespace, || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            sys::tun_set_iff(&file, name)?;
            io::Result::Ok(file)
        })?
        .with_context(|| format!("in {namespace}: cannot make the TAP device {name}"))?;
        Ok(Self { file })
    }

    /// Reads a frame; `None` when there is none at the moment.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a frame to the host.
    pub(crate) fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
