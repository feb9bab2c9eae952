//! `emptcp run`: what a policy needs a process for. When it dies, traffic and policy go on.

use std::os::fd::AsFd as _;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use super::Context;
use super::Done;
use super::apply::put_in_force;
use super::print_invalid;
use super::reader::end_signals;
use crate::datapath::LinkEvents;
use crate::datapath::Origin;
use crate::datapath::is_tracked;
use crate::datapath::policy as policy_in_force;
use crate::datapath::sweep_track;
use crate::policy::unchanged;

/// An interface that comes is told of several times: what follows so soon is one event.
const SETTLE: Duration = Duration::from_millis(50);
/// But no event waits for longer.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often the policy is looked at though nothing is told: somebody may have detached a chain.
const LOOK: Duration = Duration::from_secs(10);

pub(super) fn run(context: Context) -> Result<Done> {
    let context = Context {
        quiet: true,
        ..context
    };
    let signals = end_signals()?;
    let links = LinkEvents::listen()?;
    let mut state = State::default();
    state.mend(&context);
    eprintln!("emptcp: running, until a signal (Ctrl-C) ends it");
    loop {
        let mut first = None;
        loop {
            let wait = first.map_or(LOOK, |_| SETTLE);
            let readable = wait_for(&[signals.as_fd(), links.as_fd()], wait)?;
            if signals.read_signal()?.is_some() {
                return Ok(Done::Yes);
            }
            if !readable {
                break;
            }
            links.clear()?;
            state.refused = false;
            if first.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                break;
            }
        }
        state.mend(&context);
    }
}

/// Waits until one of them can be read; false: none could in this time.
fn wait_for(fds: &[std::os::fd::BorrowedFd<'_>], time: Duration) -> Result<bool> {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, time) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(error).context("cannot wait"),
    }
}

/// What was said before, so that it is said once.
#[derive(Debug, Default)]
struct State {
    /// The policy does not fit to the interfaces that are there, which was told.
    refused: bool,
    /// The last error.
    error: Option<String>,
}

impl State {
    /// Puts the policy in force at all interfaces that are there now, and forgets what the tracker
    /// has not seen for long. What is wrong ends nothing: the next event may mend it.
    fn mend(&mut self, context: &Context) {
        if self.refused {
            return;
        }
        let done = put_again(context).and_then(|done| {
            if is_tracked()? {
                sweep_track(None)?;
            }
            Ok(done)
        });
        let error = match done {
            Ok(done) => {
                self.refused = done == Done::Invalid;
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            eprintln!("emptcp: {error}");
        }
        self.error = error;
    }
}

fn put_again(context: &Context) -> Result<Done> {
    let Some(before) = policy_in_force()? else {
        return Ok(Done::Yes);
    };
    let origin = Origin::InForce {
        generation: before.generation,
    };
    match unchanged(&before.policy) {
        // Where others were faster, they have seen the interfaces as well.
        Ok(policy) => Ok(put_in_force(context, &policy, origin, false)?.unwrap_or(Done::Yes)),
        Err(errors) => print_invalid(context, &errors),
    }
}
