//! The reader of events (`include/emptcp/event.h`).

use anyhow::Result;

use super::ring::Kind;
use super::ring::Known;
use super::ring::Lost;
use super::ring::Ring;
use crate::capture::Source;
use crate::event::Event;

const KIND: Kind = Kind {
    ring: "events",
    reader: "event_reader",
    lost: "events_lost",
    absent: "no step of the policy in force tells of events: give it \"track\", or a step that \
             goes by connections",
    other: "another monitor",
};

/// What is done with an event; whether more are wanted.
type Each<'e> = dyn FnMut(&Event, Option<&Source>) -> Result<bool> + 'e;

/// Reads the events that the steps of the policy in force tell of.
#[derive(Debug)]
pub struct Monitor(Ring);

impl Monitor {
    /// Begins to read.
    ///
    /// # Errors
    ///
    /// There is no policy, none of its steps tells of events, somebody else reads already, or no
    /// privilege.
    pub fn open() -> Result<Self> {
        Ring::open(&KIND, 0).map(Self)
    }

    /// Takes out what is there and hands it over, until `each` wants no more (`false`). Whether
    /// the reading goes on: not then, nor where the policy that was read is gone.
    ///
    /// # Errors
    ///
    /// The kernel's, and those of `each`.
    pub fn read(&mut self, each: &mut Each<'_>) -> Result<bool> {
        self.0.read(&mut |record, known| event(record, known, each))
    }

    /// Ends the telling, and hands over what is still in the ring.
    ///
    /// # Errors
    ///
    /// As for [`Monitor::read`].
    pub fn end(&mut self, each: &mut Each<'_>) -> Result<()> {
        let event = &mut |record: &[u8], known: &Known| event(record, known, each);
        self.0.end(event).map(drop)
    }

    /// Events that the ring had no room for, since the reader began.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn lost(&self) -> Result<u64> {
        let lost: Vec<Lost> = self.0.lost()?;
        Ok(lost.iter().map(|lost| lost.records).sum())
    }

    /// The time, in nanoseconds since 1970.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn now(&self) -> Result<u64> {
        self.0.now()
    }
}

fn event(record: &[u8], known: &Known, each: &mut Each<'_>) -> Result<bool> {
    match Event::parse(record, known.epoch) {
        Some(event) => each(&event, known.sources.get(&event.step)),
        None => Ok(true),
    }
}
