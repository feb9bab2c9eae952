//! The reader of the ring in which steps leave copies of packets (`include/emptcp/capture.h`).
//!
//! Steps copy while a word in a map says until when somebody reads. The reader puts
//! that off again and again, so that it ends with the reader, however that ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::RingBuffer;
use libbpf_rs::RingBufferBuilder;
use nix::fcntl::Flock;
use nix::time::ClockId;
use nix::time::clock_gettime;

use super::state::STATE;
use super::state::state_pin;
use super::stored::GENERATION;
use super::stored::in_force;
use super::stored::open_map;
use super::stored::read_generation;
use crate::abi;
use crate::capture::Packet;
pub use crate::capture::Source;
use crate::module::Scope;
use crate::pin;
use crate::pin::Home;
use crate::sys;

/// Maps of `include/emptcp/capture.h`.
pub(super) const RING: &str = "capture_ring";
pub(super) const READER: &str = "capture_reader";
const LOST: &str = "capture_lost";

/// How long steps go on copying behind a reader that was killed.
const LEASE: Duration = Duration::from_secs(2);
/// How often the reader puts that off.
const RENEWAL: Duration = Duration::from_millis(250);
/// Records that are taken out at once: the reader must come round to renew.
const AT_ONCE: usize = 4096;

/// Packets that the ring had no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Number of the step.
    pub step: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// Since the capture began.
    pub packets: u64,
}

/// Records that were taken out of the ring, one behind the other.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Reads the copies of packets that the steps of the policy in force make.
#[derive(Debug)]
pub struct Capture {
    home: Home,
    /// The word of the generation, and what it was.
    generation: (MapHandle, u64),
    ring: RingBuffer<'static>,
    queue: Rc<RefCell<Queue>>,
    reader: MapHandle,
    lost: MapHandle,
    /// What was lost before.
    before: BTreeMap<(u32, u32), u64>,
    sources: BTreeMap<u32, Source>,
    /// When `CLOCK_BOOTTIME` was 0, in nanoseconds since 1970.
    epoch: u64,
    renewed: Instant,
    /// One reader at a time.
    _lock: Flock<File>,
}

impl Capture {
    /// Begins to read. `keys`: also keys and HMACs, where the step gives them.
    ///
    /// # Errors
    ///
    /// There is no policy, none of its steps copies packets, somebody else reads already, or no
    /// privilege.
    pub fn open(keys: bool) -> Result<Self> {
        let home = Home::current(false)?;
        let no_policy =
            || anyhow!("no policy is in force in this network namespace: apply one first");
        let Some(stored) = in_force(&home)? else {
            return Err(no_policy());
        };
        let generation = open_map(&home.join(GENERATION))?.ok_or_else(no_policy)?;
        let open = |name: &str| {
            open_map(&pin_of(&home, name))?.context(
                "no step of the policy in force copies packets: give a chain an actor that does",
            )
        };
        let (ring, reader, lost) = (open(RING)?, open(READER)?, open(LOST)?);
        let lock = match pin::lock_folder(&home.join(STATE))? {
            Ok(lock) => lock,
            Err(holder) => bail!(
                "another capture of this network namespace runs{}: there is one ring, for one reader",
                holder
                    .map(|id| format!(" (process {id})"))
                    .unwrap_or_default()
            ),
        };
        // A reader that was killed may have left the word, and records.
        close(&reader)?;
        let queue = Rc::new(RefCell::new(Queue::default()));
        let mut capture = Self {
            generation: (generation, stored.generation),
            ring: ring_buffer(&ring, &queue)?,
            queue,
            reader,
            before: read_lost(&lost)?,
            lost,
            sources: BTreeMap::new(),
            epoch: epoch()?,
            renewed: Instant::now(),
            _lock: lock,
            home,
        };
        capture.learn_sources();
        while capture.take()? > 0 {
            capture.queue.take();
        }
        let flags = if keys { abi::RING_READS_KEYS } else { 0 };
        sys::store_u64(&capture.reader, abi::RING_FLAGS, flags)?;
        capture.renew()?;
        Ok(capture)
    }

    /// Takes out what is there and hands it over, until `each` wants no more (`false`). Whether
    /// the capture goes on: not then, nor where the policy that was read is gone.
    ///
    /// # Errors
    ///
    /// The kernel's, and those of `each`.
    pub fn read(
        &mut self,
        each: &mut dyn FnMut(&Packet<'_>, Option<&Source>) -> Result<bool>,
    ) -> Result<bool> {
        if self.renewed.elapsed() >= RENEWAL && !self.go_on()? {
            return Ok(false);
        }
        self.hand_over(each).map(|(_, wanted)| wanted)
    }

    /// Takes out what is there and hands it over: how many records, and whether `each` wants more.
    fn hand_over(
        &mut self,
        each: &mut dyn FnMut(&Packet<'_>, Option<&Source>) -> Result<bool>,
    ) -> Result<(usize, bool)> {
        let taken = self.take()?;
        let queue = self.queue.take();
        let mut start = 0;
        for end in queue.ends {
            let record = &queue.bytes[start..end];
            start = end;
            let Some(packet) = Packet::parse(record, self.epoch) else {
                continue;
            };
            if !each(&packet, self.sources.get(&packet.step))? {
                return Ok((taken, false));
            }
        }
        Ok((taken, true))
    }

    /// Ends the copying, hands over what is still in the ring, and says what was lost.
    ///
    /// # Errors
    ///
    /// As for [`Capture::read`].
    pub fn end(
        &mut self,
        each: &mut dyn FnMut(&Packet<'_>, Option<&Source>) -> Result<bool>,
    ) -> Result<Vec<Lost>> {
        close(&self.reader)?;
        while let (1.., true) = self.hand_over(each)? {}
        let now = read_lost(&self.lost)?;
        let lost = now.into_iter().map(|((step, ifindex), packets)| Lost {
            step,
            ifindex,
            packets: packets
                - self
                    .before
                    .get(&(step, ifindex))
                    .copied()
                    .unwrap_or(0)
                    .min(packets),
        });
        Ok(lost.filter(|lost| lost.packets > 0).collect())
    }

    /// Where a step is in the policy.
    pub fn source(&self, step: u32) -> Option<&Source> {
        self.sources.get(&step)
    }

    /// Names of the chains that copy or could: all of the policy.
    pub fn chains(&self) -> impl Iterator<Item = &str> {
        self.sources.values().map(|source| source.chain.as_str())
    }

    /// The time, in nanoseconds since 1970.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn now(&self) -> Result<u64> {
        Ok(self.epoch.wrapping_add(sys::boot_time()?))
    }

    /// Takes records out of the ring; how many.
    fn take(&mut self) -> Result<usize> {
        let taken = self.ring.consume_raw_n(AT_ONCE);
        if taken < 0 {
            return Err(std::io::Error::from_raw_os_error(-taken)).context("cannot read the ring");
        }
        Ok(taken as usize)
    }

    fn renew(&mut self) -> Result<()> {
        let until = sys::boot_time()? + LEASE.as_nanos() as u64;
        sys::store_u64(&self.reader, abi::RING_UNTIL, until)?;
        self.renewed = Instant::now();
        // The clock may have been set.
        self.epoch = epoch()?;
        Ok(())
    }

    /// Renews; `false`: the steps that were read are gone.
    fn go_on(&mut self) -> Result<bool> {
        let current = read_generation(&self.generation.0).map_or(0, |g| g.current);
        if current == 0 {
            return Ok(false);
        }
        if current != self.generation.1 {
            let there = open_map(&pin_of(&self.home, READER))?;
            let id = |map: &MapHandle| Ok::<_, anyhow::Error>(map.info()?.info.id);
            if there.as_ref().map(id).transpose()? != Some(id(&self.reader)?) {
                return Ok(false);
            }
            self.learn_sources();
        }
        self.renew()?;
        Ok(true)
    }

    /// Learns the names of steps anew. Without the lock of the policy, for which a reader cannot
    /// wait: while it changes, the names stay as they are.
    fn learn_sources(&mut self) {
        let Ok(Some(stored)) = in_force(&self.home) else {
            return;
        };
        self.generation.1 = stored.generation;
        let steps = stored.classes.into_iter().flat_map(|class| class.steps);
        self.sources = steps
            .map(|step| {
                let source = Source {
                    chain: step.chain,
                    step: step.key,
                };
                (step.id, source)
            })
            .collect();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // At the worst it ends by itself.
        let _ = sys::store_u64(&self.reader, abi::RING_UNTIL, 0);
    }
}

fn pin_of(home: &Home, map: &str) -> PathBuf {
    state_pin(home, Scope::Policy, 0, map)
}

/// No step copies any more.
fn close(reader: &MapHandle) -> Result<()> {
    sys::store_u64(reader, abi::RING_UNTIL, 0)?;
    sys::grace_period().context("cannot wait for the programs that run")
}

fn ring_buffer(ring: &MapHandle, queue: &Rc<RefCell<Queue>>) -> Result<RingBuffer<'static>> {
    let queue = Rc::clone(queue);
    let mut builder = RingBufferBuilder::new();
    builder.add(ring, move |record| {
        let mut queue = queue.borrow_mut();
        queue.bytes.extend_from_slice(record);
        let end = queue.bytes.len();
        queue.ends.push(end);
        0
    })?;
    builder.build().context("cannot map the ring")
}

/// Packets that were lost, by step and interface.
fn read_lost(lost: &MapHandle) -> Result<BTreeMap<(u32, u32), u64>> {
    let mut found = BTreeMap::new();
    for key in lost.keys() {
        let Some(value) = lost.lookup(&key, MapFlags::ANY)? else {
            continue;
        };
        let number = |at: usize| Some(u32::from_ne_bytes(*key.get(at..)?.first_chunk()?));
        let place = number(0)
            .zip(number(4))
            .context("the map of losses has another layout")?;
        let count = value.first_chunk().map_or(0, |v| u64::from_ne_bytes(*v));
        found.insert(place, count);
    }
    Ok(found)
}

/// When `CLOCK_BOOTTIME` was 0, in nanoseconds since 1970.
fn epoch() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    Ok(now.wrapping_sub(sys::boot_time()?))
}
