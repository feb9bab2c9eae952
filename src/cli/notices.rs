//! What is told beside the events of packets, for `monitor` and for programs that decide.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use crate::datapath::HeldChanges;
use crate::datapath::LinkEvents;
use crate::datapath::Reasons;
use crate::datapath::interfaces;
use crate::event::Notice;
use crate::event::Type;
use crate::event::link_changes;
use crate::interface::Interfaces;

/// How often the counters of reasons, and what was held, are read.
const LOOK: Duration = Duration::from_secs(1);

/// Types of what is looked for here.
pub(super) const NOTICES: [Type; 3] = [Type::Link, Type::Reason, Type::HeldJoin];

/// Whether events of this type come from packets, through the ring.
pub(super) fn is_of_packets(r#type: Type) -> bool {
    !NOTICES.contains(&r#type)
}

/// Looks for what has changed.
#[derive(Debug, Default)]
pub(super) struct Notices {
    links: Option<(LinkEvents, Interfaces)>,
    /// And when they are read again.
    reasons: Option<(Reasons, Instant)>,
    held: Option<(HeldChanges, Instant)>,
}

impl Notices {
    /// From now on, by [`NOTICES`]; what was looked at before goes on.
    ///
    /// # Errors
    ///
    /// No privilege; the kernel's.
    pub(super) fn want(&mut self, wanted: impl Fn(Type) -> bool) -> Result<()> {
        let [links, reasons, held] = NOTICES.map(wanted);
        match (links, &self.links) {
            // What happens between the two is told.
            (true, None) => self.links = Some((LinkEvents::listen()?, interfaces()?)),
            (false, _) => self.links = None,
            _ => {}
        }
        match (reasons, &self.reasons) {
            (true, None) => self.reasons = Some((Reasons::new()?, Instant::now() + LOOK)),
            (false, _) => self.reasons = None,
            _ => {}
        }
        match (held, &self.held) {
            (true, None) => self.held = Some((HeldChanges::new()?, Instant::now() + LOOK)),
            (false, _) => self.held = None,
            _ => {}
        }
        Ok(())
    }

    /// What has changed since the last look. `last`: the counters are read though it is not time.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn look(&mut self, last: bool) -> Result<Vec<Notice>> {
        let mut found = Vec::new();
        if let Some((events, before)) = &mut self.links
            && events.clear()?
        {
            let now = interfaces()?;
            let changes = link_changes(before, &now).into_iter();
            found.extend(changes.map(Notice::Link));
            *before = now;
        }
        if let Some((reasons, due)) = &mut self.reasons
            && (last || Instant::now() >= *due)
        {
            *due = Instant::now() + LOOK;
            let untreated = reasons.look()?.into_iter();
            found.extend(untreated.map(|u| Notice::Reason {
                hook: u.hook,
                reason: u.reason,
                packets: u.more,
                total: u.total,
            }));
        }
        if let Some((held, due)) = &mut self.held
            && (last || Instant::now() >= *due)
        {
            *due = Instant::now() + LOOK;
            found.extend(held.look()?.into_iter().map(Notice::Held));
        }
        Ok(found)
    }
}
