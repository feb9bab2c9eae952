//! Somebody who listens to steps that copy packets, outside of a policy in force: without one they
//! do nothing, and what they cost could not be measured.

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::RingBuffer;
use libbpf_rs::RingBufferBuilder;

use super::Instance;
use super::capture::KIND;
use crate::abi;
use crate::sys;

/// A reader that throws away what it reads.
pub struct Listener(RingBuffer<'static>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// Listens to the steps of an instance; `None` where none of them copies packets.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(instance: &Instance) -> Result<Option<Self>> {
        let (Some(reader), Some(ring)) = (
            instance.state_map(KIND.reader),
            instance.state_map(KIND.ring),
        ) else {
            return Ok(None);
        };
        // The time of a capture that never ends.
        sys::store_u64(reader, abi::RING_UNTIL, u64::MAX)?;
        let mut builder = RingBufferBuilder::new();
        builder.add(ring, |_| 0)?;
        let ring = builder.build().context("cannot map the ring")?;
        Ok(Some(Self(ring)))
    }

    /// Takes out what is there.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn empty(&self) -> Result<()> {
        self.0.consume().context("cannot read the ring")
    }
}
