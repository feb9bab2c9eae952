//! Chains for interfaces that come, and what others have detached; expiry of the tracker.

use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use super::Service;
use super::Trouble;
use crate::cli::Context;
use crate::cli::Done;
use crate::cli::apply::put_in_force;
use crate::cli::print_invalid;
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

/// Keeps the policy in force at all interfaces that are there.
pub(super) struct Mend {
    context: Context,
    links: LinkEvents,
    /// When the policy is looked at again.
    due: Instant,
    /// When the first event was told that was not looked at yet.
    first: Option<Instant>,
    /// The policy does not fit to the interfaces that are there, which was told.
    refused: bool,
    trouble: Trouble,
}

impl Mend {
    /// Looks for the first time.
    ///
    /// # Errors
    ///
    /// Changes of interfaces cannot be listened to.
    pub(super) fn new(context: Context) -> Result<Self> {
        let mut mend = Self {
            context,
            links: LinkEvents::listen()?,
            due: Instant::now() + LOOK,
            first: None,
            refused: false,
            trouble: Trouble::default(),
        };
        mend.mend();
        Ok(mend)
    }

    /// Puts the policy in force at all interfaces that are there now, and forgets what the tracker
    /// has not seen for long. What is wrong ends nothing: the next event may mend it.
    fn mend(&mut self) {
        if self.refused {
            return;
        }
        let done = put_again(&self.context).and_then(|done| {
            if is_tracked()? {
                sweep_track(None)?;
            }
            Ok(done)
        });
        match done {
            Ok(done) => {
                self.refused = done == Done::Invalid;
                self.trouble.over();
            }
            Err(error) => self.trouble.tell(&error),
        }
    }
}

impl Service for Mend {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.links.as_fd()]
    }

    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn serve(&mut self) {
        let now = Instant::now();
        match self.links.clear() {
            Ok(true) => {
                self.refused = false;
                let first = *self.first.get_or_insert(now);
                self.due = (now + SETTLE).min(first + PATIENCE);
            }
            Ok(false) => {}
            Err(error) => self.trouble.tell(&error),
        }
        if now >= self.due {
            self.first = None;
            self.due = now + LOOK;
            self.mend();
        }
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
