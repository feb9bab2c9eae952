//! What all verbs do that read a ring until a signal ends them.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;

use crate::datapath::interfaces;
use crate::interface::Interfaces;

/// How often a ring is looked at: it holds thousands of records, and waking the reader for one
/// would cost the kernel more than all else.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// Signals that end a reader, held back so that it ends as a whole.
pub(super) fn end_signals() -> Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&signals, flags).context("cannot wait for signals")
}

/// Names of interfaces, also of those that come.
#[derive(Debug)]
pub(super) struct Names(Interfaces);

impl Names {
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn learn() -> Result<Self> {
        interfaces().map(Self)
    }

    /// Name of an interface, or its number where it has gone.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn name_of(&mut self, index: u32) -> Result<String> {
        if self.0.by_index(index).is_none() {
            self.0 = interfaces()?;
        }
        Ok(name_of(&self.0, index))
    }
}

/// Name of an interface, or its number where it has gone.
pub(super) fn name_of(interfaces: &Interfaces, index: u32) -> String {
    match interfaces.by_index(index) {
        Some(interface) => interface.name.clone(),
        None => format!("if{index}"),
    }
}
