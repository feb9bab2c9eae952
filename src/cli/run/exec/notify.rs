//! What programs are told of links, and of packets that could not be treated.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use super::peer::Peer;
use crate::cli::notices::NOTICES;
use crate::cli::notices::Notices;
use crate::datapath::time_now;
use crate::event::Type;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Looks, while a program wants to be told.
pub(super) struct Notifier {
    notices: Notices,
    due: Instant,
}

impl Notifier {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            notices: Notices::default(),
            due: now,
        }
    }

    /// When it is to be called.
    pub(super) fn due(&self, peers: &[Peer]) -> Option<Instant> {
        let is_wanted = NOTICES.iter().any(|r#type| wanted(peers, *r#type));
        is_wanted.then_some(self.due)
    }

    /// # Errors
    ///
    /// No privilege; the kernel's.
    pub(super) fn tell(&mut self, peers: &mut [Peer], now: Instant) -> Result<()> {
        self.notices.want(|r#type| wanted(peers, r#type))?;
        if now < self.due {
            return Ok(());
        }
        self.due = now + LOOK;
        for notice in self.notices.look(false)? {
            let line = format!("{}\n", notice.object(time_now()?));
            let wanting = |peer: &&mut Peer| peer.wants.events.contains(&notice.r#type());
            for peer in peers.iter_mut().filter(wanting) {
                peer.push(line.as_bytes());
            }
        }
        Ok(())
    }
}

/// Whether a program wants events of this type.
pub(super) fn wanted(peers: &[Peer], r#type: Type) -> bool {
    peers.iter().any(|peer| peer.wants.events.contains(&r#type))
}
