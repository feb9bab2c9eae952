//! The reader of copies of packets (`include/emptcp/capture.h`).

use anyhow::Result;

use super::ring::Kind;
use super::ring::Known;
use super::ring::Lost;
use super::ring::Ring;
use crate::abi;
use crate::capture::Packet;
pub use crate::capture::Source;

/// The maps of `include/emptcp/capture.h`.
pub(super) const KIND: Kind = Kind {
    ring: "capture_ring",
    reader: "capture_reader",
    lost: "capture_lost",
    absent: "no step of the policy in force copies packets: give a chain an actor that does",
    other: "another capture",
};

/// What is done with a packet; whether more are wanted.
type Each<'e> = dyn FnMut(&Packet<'_>, Option<&Source>) -> Result<bool> + 'e;

/// Reads the copies of packets that the steps of the policy in force make.
#[derive(Debug)]
pub struct Capture(Ring);

impl Capture {
    /// Begins to read. `keys`: also keys and HMACs, where the step gives them.
    ///
    /// # Errors
    ///
    /// There is no policy, none of its steps copies packets, somebody else reads already, or no
    /// privilege.
    pub fn open(keys: bool) -> Result<Self> {
        Ring::open(&KIND, if keys { abi::RING_READS_KEYS } else { 0 }).map(Self)
    }

    /// Takes out what is there and hands it over, until `each` wants no more (`false`). Whether
    /// the capture goes on: not then, nor where the policy that was read is gone.
    ///
    /// # Errors
    ///
    /// The kernel's, and those of `each`.
    pub fn read(&mut self, each: &mut Each<'_>) -> Result<bool> {
        self.0
            .read(&mut |record, known| packet(record, known, each))
    }

    /// Ends the copying, hands over what is still in the ring, and says what was lost.
    ///
    /// # Errors
    ///
    /// As for [`Capture::read`].
    pub fn end(&mut self, each: &mut Each<'_>) -> Result<Vec<Lost>> {
        self.0.end(&mut |record, known| packet(record, known, each))
    }

    /// Where a step is in the policy.
    pub fn source(&self, step: u32) -> Option<&Source> {
        self.0.known().sources.get(&step)
    }

    /// Names of the chains that copy or could: all of the policy.
    pub fn chains(&self) -> impl Iterator<Item = &str> {
        let sources = self.0.known().sources.values();
        sources.map(|source| source.chain.as_str())
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

fn packet(record: &[u8], known: &Known, each: &mut Each<'_>) -> Result<bool> {
    match Packet::parse(record, known.epoch) {
        Some(packet) => each(&packet, known.sources.get(&packet.step)),
        None => Ok(true),
    }
}
