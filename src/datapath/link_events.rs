//! When interfaces of the current network namespace come, go or change.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use anyhow::Context as _;
use anyhow::Result;
use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;

/// `RTMGRP_LINK` of `linux/rtnetlink.h`.
const LINKS: u32 = 1;
/// Enough for one message.
const MESSAGE: usize = 1 << 16;

/// What rtnetlink tells of interfaces. What it says of them is asked elsewhere, so that events that
/// were lost do no harm.
#[derive(Debug)]
pub struct LinkEvents(Socket);

impl LinkEvents {
    /// From now on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn listen() -> Result<Self> {
        let listen = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, LINKS))?;
            socket.set_non_blocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = listen().context("cannot listen to changes of network interfaces")?;
        Ok(Self(socket))
    }

    /// Takes note of all that happened: it can be read again when more does. Whether there was any.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn clear(&self) -> Result<bool> {
        let mut happened = false;
        let mut buffer = Vec::with_capacity(MESSAGE);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => happened = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(happened),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Some did not fit into the socket.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => happened = true,
                Err(error) => return Err(error).context("changes of network interfaces"),
            }
        }
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
