//! A process that takes back what programs have put into tables when `emptcp run` ends, however
//! that ends. It is told of each entry before it is written, and acts when its input ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::BufRead as _;
use std::io::ErrorKind;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use serde::Deserialize;
use serde::Serialize;

use super::program::unblocked;
use crate::cli::Done;
use crate::cli::reader::end_signals;
use crate::datapath::Lock;
use crate::datapath::Tables;
use crate::exec::Held;
use crate::exec::Place;

/// How long the guard may be busy, in milliseconds.
const BUSY: u8 = 200;

/// A line for the guard: an entry that it is to take back, or no more.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    place: Place,
    held: Option<Held>,
}

/// The guard, as the process has it that it guards.
pub(super) struct Guard {
    child: Child,
    input: Option<File>,
}

impl Guard {
    /// # Errors
    ///
    /// The process cannot be started.
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["run", "--guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is not for it.
            .process_group(0);
        let mut child = command
            .spawn()
            .context("cannot start the guard of tables")?;
        let input = child.stdin.take().context("the guard has no input")?;
        Ok(Self {
            child,
            input: Some(unblocked(input.into())?),
        })
    }

    /// Tells it of an entry; `None`: nobody holds it any more.
    ///
    /// # Errors
    ///
    /// It has gone, or is stuck: start another one.
    pub(super) fn tell(&mut self, place: &Place, held: Option<&Held>) -> Result<()> {
        let note = Note {
            place: place.clone(),
            held: held.cloned(),
        };
        let mut line = serde_json::to_vec(&note)?;
        line.push(b'\n');
        let input = self.input.as_mut().context("the guard has gone")?;
        let mut rest = &line[..];
        while !rest.is_empty() {
            match input.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLOUT)];
                    if poll(&mut fds, PollTimeout::from(BUSY))? == 0 {
                        anyhow::bail!("the guard of tables is stuck");
                    }
                }
                Err(e) => return Err(e).context("the guard of tables has gone"),
            }
        }
        Ok(())
    }

    /// Ends it without its doing anything.
    pub(super) fn kill(&mut self) {
        // It may have gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// What the guard does: `emptcp run --guard`.
///
/// # Errors
///
/// Its input cannot be read, or an entry not be taken back.
pub(in crate::cli) fn run() -> Result<Done> {
    // What ends the other one does not end this one: its input does.
    let _signals = end_signals()?;
    let mut kept = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let Note { place, held } = serde_json::from_str(&line?).context("no note of run")?;
        match held {
            Some(held) => kept.insert(place, held),
            None => kept.remove(&place),
        };
    }
    if kept.is_empty() {
        return Ok(Done::Yes);
    }
    // Without a policy there is nothing to take back.
    if let Ok(tables) = Tables::lock(Lock::Exclusive) {
        give_back(&tables, &kept)?;
    }
    Ok(Done::Yes)
}

/// Makes entries what they were before they were written.
///
/// # Errors
///
/// The kernel's, the first one; the others are done.
fn give_back(tables: &Tables, kept: &BTreeMap<Place, Held>) -> Result<()> {
    let mut open = None;
    let mut done = Ok(());
    for (place, held) in kept {
        if !tables.has(&place.table) {
            continue;
        }
        // They are in the order of tables.
        let table = match &open {
            Some((name, table)) if *name == place.table => table,
            _ => {
                let table = tables.open(&place.table)?;
                &open.insert((place.table.clone(), table)).1
            }
        };
        let before = held.before.as_ref();
        let before = before.map(|(value, until)| (&value[..], *until));
        let given = table.give_back(&place.key, &held.written, before);
        done = done.and(given);
    }
    done
}
