//! The reader of a ring in which steps leave records (`include/emptcp/ring.h`).
//!
//! Steps write while a word in a map says until when somebody reads. The reader puts
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

use super::state::state_pin;
use super::stored::GENERATION;
use super::stored::in_force;
use super::stored::open_map;
use super::stored::read_generation;
use crate::abi;
use crate::capture::Source;
use crate::module::Scope;
use crate::pin;
use crate::pin::Home;
use crate::sys;

/// Folder of the locks of readers, one folder for each ring.
const READERS: &str = "readers";
/// How long steps go on writing behind a reader that was killed.
const LEASE: Duration = Duration::from_secs(2);
/// How often the reader puts that off.
const RENEWAL: Duration = Duration::from_millis(250);
/// Records that are taken out at once: the reader must come round to renew.
const AT_ONCE: usize = 4096;

/// A ring, by its maps, and the words of its reader.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) ring: &'static str,
    pub(super) reader: &'static str,
    pub(super) lost: &'static str,
    /// Why the maps are not there.
    pub(super) absent: &'static str,
    /// What another reader is: "another capture".
    pub(super) other: &'static str,
}

/// Records that the ring had no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Number of the step.
    pub step: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// Since the reader began.
    pub records: u64,
}

/// What is known of records beside what they hold.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Where steps are in the policy.
    pub(super) sources: BTreeMap<u32, Source>,
    /// When `CLOCK_BOOTTIME` was 0, in nanoseconds since 1970.
    pub(super) epoch: u64,
}

/// What is done with a record; whether more are wanted.
pub(super) type Each<'e> = dyn FnMut(&[u8], &Known) -> Result<bool> + 'e;

/// Records that were taken out of the ring, one behind the other.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Reads a ring of the policy in force.
#[derive(Debug)]
pub(super) struct Ring {
    kind: &'static Kind,
    home: Home,
    /// The word of the generation, and what it was.
    generation: (MapHandle, u64),
    ring: RingBuffer<'static>,
    queue: Rc<RefCell<Queue>>,
    reader: MapHandle,
    lost: MapHandle,
    /// What was lost before.
    before: BTreeMap<(u32, u32), u64>,
    known: Known,
    renewed: Instant,
    /// One reader at a time.
    _lock: Flock<File>,
}

impl Ring {
    /// Begins to read. `flags`: what the reader asks for (`enum emptcp_ring_reader_flags`).
    ///
    /// # Errors
    ///
    /// There is no policy, none of its steps writes to this ring, somebody else reads already, or
    /// no privilege.
    pub(super) fn open(kind: &'static Kind, flags: u64) -> Result<Self> {
        let home = Home::current(false)?;
        let no_policy =
            || anyhow!("no policy is in force in this network namespace: apply one first");
        // Nobody takes the folder away while one is made in it.
        let policy = home.lock_shared()?.ok_or_else(no_policy)?;
        let Some(stored) = in_force(&home)? else {
            return Err(no_policy());
        };
        let generation = open_map(&home.join(GENERATION))?.ok_or_else(no_policy)?;
        let open = |name: &str| open_map(&pin_of(&home, name))?.context(kind.absent);
        let (ring, reader, lost) = (open(kind.ring)?, open(kind.reader)?, open(kind.lost)?);
        let folder = home.join(READERS).join(kind.ring);
        pin::create_folder(&folder)?;
        drop(policy);
        let lock = match pin::lock_folder(&folder)? {
            Ok(lock) => lock,
            Err(holder) => bail!(
                "{} of this network namespace runs{}: there is one ring, for one reader",
                kind.other,
                holder
                    .map(|id| format!(" (process {id})"))
                    .unwrap_or_default()
            ),
        };
        // A reader that was killed may have left the word, and records.
        close(&reader)?;
        let queue = Rc::new(RefCell::new(Queue::default()));
        let mut ring = Self {
            kind,
            generation: (generation, stored.generation),
            ring: ring_buffer(&ring, &queue)?,
            queue,
            reader,
            before: read_lost(&lost)?,
            lost,
            known: Known {
                epoch: epoch()?,
                ..Known::default()
            },
            renewed: Instant::now(),
            _lock: lock,
            home,
        };
        ring.learn_sources();
        while ring.take()? > 0 {
            ring.queue.take();
        }
        sys::store_u64(&ring.reader, abi::RING_FLAGS, flags)?;
        ring.renew()?;
        Ok(ring)
    }

    /// Takes out what is there and hands it over, until `each` wants no more (`false`). Whether
    /// the reading goes on: not then, nor where the policy that was read is gone.
    ///
    /// # Errors
    ///
    /// The kernel's, and those of `each`.
    pub(super) fn read(&mut self, each: &mut Each<'_>) -> Result<bool> {
        if self.renewed.elapsed() >= RENEWAL && !self.go_on()? {
            return Ok(false);
        }
        self.hand_over(each).map(|(_, wanted)| wanted)
    }

    /// Takes out what is there and hands it over: how many records, and whether `each` wants more.
    fn hand_over(&mut self, each: &mut Each<'_>) -> Result<(usize, bool)> {
        let taken = self.take()?;
        let queue = self.queue.take();
        let mut start = 0;
        for end in queue.ends {
            let record = &queue.bytes[start..end];
            start = end;
            if !each(record, &self.known)? {
                return Ok((taken, false));
            }
        }
        Ok((taken, true))
    }

    /// Ends the writing, hands over what is still in the ring, and says what was lost.
    ///
    /// # Errors
    ///
    /// As for [`Ring::read`].
    pub(super) fn end(&mut self, each: &mut Each<'_>) -> Result<Vec<Lost>> {
        close(&self.reader)?;
        while let (1.., true) = self.hand_over(each)? {}
        self.lost()
    }

    /// What was lost since the reader began.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn lost(&self) -> Result<Vec<Lost>> {
        let now = read_lost(&self.lost)?;
        let lost = now.into_iter().map(|((step, ifindex), records)| {
            let before = self.before.get(&(step, ifindex)).copied().unwrap_or(0);
            Lost {
                step,
                ifindex,
                records: records - before.min(records),
            }
        });
        Ok(lost.filter(|lost| lost.records > 0).collect())
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// The time, in nanoseconds since 1970.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn now(&self) -> Result<u64> {
        Ok(self.known.epoch.wrapping_add(sys::boot_time()?))
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
        self.known.epoch = epoch()?;
        Ok(())
    }

    /// Renews; `false`: the steps that were read are gone.
    fn go_on(&mut self) -> Result<bool> {
        let current = read_generation(&self.generation.0).map_or(0, |g| g.current);
        if current == 0 {
            return Ok(false);
        }
        if current != self.generation.1 {
            let there = open_map(&pin_of(&self.home, self.kind.reader))?;
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
        self.known.sources = steps
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

impl Drop for Ring {
    fn drop(&mut self) {
        // At the worst it ends by itself.
        let _ = sys::store_u64(&self.reader, abi::RING_UNTIL, 0);
    }
}

fn pin_of(home: &Home, map: &str) -> PathBuf {
    state_pin(home, Scope::Policy, 0, map)
}

/// No step writes any more.
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

/// Records that were lost, by step and interface.
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
pub(super) fn epoch() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    Ok(now.wrapping_sub(sys::boot_time()?))
}

/// The time, in nanoseconds since 1970.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn time_now() -> Result<u64> {
    Ok(epoch()?.wrapping_add(sys::boot_time()?))
}
