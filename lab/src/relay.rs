//! The relay: one real-time thread that moves frames between the TAP devices of all links.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ETHERNET_HEADER, MAX_MTU, ShapeQueue, default_queue};
use crate::lateness::{Lateness, LatenessReport};
use crate::link::{Bottleneck, Fate, Line, Nanos, is_lossy};
use crate::sys;
use crate::tap::Tap;

/// SCHED_FIFO priority of the relay, out of 1 to 99.
const PRIORITY: i32 = 20;
/// Frames read from one device before the others have their turn.
const BATCH: usize = 32;
/// The relay wakes at least this often, so that it notices when it could not run.
const HEARTBEAT: Nanos = 2_000_000;
/// Waking up is expected to take at most this long.
const LONGEST_WAKE: Nanos = 150_000;
/// Frame buffers kept for reuse.
const SPARE_FRAMES: usize = 1024;

/// What one direction of a link did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DirectionReport {
    /// Name of the link.
    pub link: String,
    /// Host that sends.
    pub from: String,
    /// Host that receives.
    pub to: String,
    /// Frames delivered.
    pub frames: u64,
    /// Bytes of the frames delivered, Ethernet header included.
    pub bytes: u64,
    /// Frames refused by the full queue.
    pub queue_full: u64,
    /// Frames lost on purpose.
    pub lost: u64,
    /// Frames that the receiving host's device did not take.
    pub refused: u64,
    /// Most bytes that waited in the queue at a time.
    pub max_waiting_bytes: u64,
}

/// What the relay did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How late frames were delivered.
    pub lateness: LatenessReport,
    /// Whether the relay ran with real-time priority.
    pub real_time: bool,
    /// Every direction of every emulated link.
    pub directions: Vec<DirectionReport>,
}

impl Report {
    /// Whether more than 0.1 % of the frames were over 5 ms late: figures measured meanwhile
    /// are not to be trusted.
    pub fn disturbed(&self) -> bool {
        self.lateness.disturbed
    }
}

/// The two devices of an emulated link.
pub(crate) struct Ends {
    /// Index in [`Config::links`].
    pub(crate) link: usize,
    pub(crate) taps: [Tap; 2],
}

/// Counters, shared with whoever wants a report while the relay runs.
struct Counters {
    lateness: Lateness,
    directions: Vec<DirectionReport>,
}

/// A running relay; ends when it is dropped.
pub(crate) struct Relay {
    counters: Arc<Mutex<Counters>>,
    real_time: bool,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Relay {
    /// Starts to relay between the devices of emulated links.
    pub(crate) fn start(config: &Config, ends: Vec<Ends>) -> Result<Self> {
        let (worker, directions) = Worker::new(config, ends)?;
        let counters = Arc::new(Mutex::new(Counters {
            lateness: Lateness::default(),
            directions,
        }));
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn({
                let (counters, stop) = (Arc::clone(&counters), Arc::clone(&stop));
                move || {
                    let real_time = sys::set_real_time(PRIORITY);
                    // Timers of threads without real-time priority are otherwise 50 µs late.
                    let _ = nix::sys::prctl::set_timerslack(1);
                    let _ = ready.send(real_time);
                    worker.run(&counters, &stop)
                }
            })
            .context("cannot start the relay")?;
        let real_time = match is_ready.recv() {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                eprintln!(
                    "emptcp-lab: warning: no real-time priority ({error}): delays will be less \
                     exact (needs CAP_SYS_NICE)"
                );
                false
            }
            Err(_) => return Err(anyhow!("the relay did not start")),
        };
        Ok(Self {
            counters,
            real_time,
            stop,
            thread: Some(thread),
        })
    }

    /// What the relay did so far.
    pub(crate) fn report(&self) -> Report {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            lateness: counters.lateness.report(),
            real_time: self.real_time,
            directions: counters.directions.clone(),
        }
    }

    /// Ends the relay and removes its devices.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.stop.write(1)?;
        match thread.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow!("the relay panicked")),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("emptcp-lab: {error:#}");
        }
    }
}

/// A frame under way.
struct Flight {
    due: Nanos,
    /// How late the frame was read, as far as the relay knows.
    read_late: Nanos,
    frame: Vec<u8>,
}

/// One direction of a link: frames from the device `from` to the device `to`.
struct Way {
    to: usize,
    bottleneck: Option<usize>,
    line: Line,
    flights: VecDeque<Flight>,
}

/// What ended a wait.
enum Woken {
    /// The relay is to end.
    Stopped,
    /// The alarm.
    ByTime,
    /// Frames to read.
    ByFrames,
}

/// The state of the relay's thread. Way `n` takes what device `n` sends.
struct Worker {
    taps: Vec<Tap>,
    ways: Vec<Way>,
    bottlenecks: Vec<Bottleneck>,
    spare: Vec<Vec<u8>>,
    start: Instant,
}

impl Worker {
    fn new(config: &Config, ends: Vec<Ends>) -> Result<(Self, Vec<DirectionReport>)> {
        let mut worker = Self {
            taps: Vec::new(),
            ways: Vec::new(),
            bottlenecks: Vec::new(),
            spare: Vec::new(),
            start: Instant::now(),
        };
        let mut reports = Vec::new();
        let mut shared: BTreeMap<(String, usize), usize> = BTreeMap::new();
        for Ends { link: index, taps } in ends {
            let shapes = config.shapes(index)?;
            let link = config.links.get(index).context("there is no such link")?;
            let first = worker.taps.len();
            for (side, (shape, tap)) in shapes.iter().zip(taps).enumerate() {
                let bottleneck = match &shape.queue {
                    ShapeQueue::Unlimited => None,
                    ShapeQueue::Own(rate, limit) => {
                        worker.bottlenecks.push(Bottleneck::new(*rate, *limit));
                        Some(worker.bottlenecks.len() - 1)
                    }
                    ShapeQueue::Shared(name) => {
                        let known = shared.get(&(name.clone(), side)).copied();
                        Some(match known {
                            Some(known) => known,
                            None => {
                                let wanted = config
                                    .bottlenecks
                                    .get(name)
                                    .with_context(|| format!("there is no bottleneck {name}"))?;
                                let limit =
                                    wanted.queue.unwrap_or_else(|| default_queue(wanted.rate));
                                worker.bottlenecks.push(Bottleneck::new(wanted.rate, limit));
                                let index = worker.bottlenecks.len() - 1;
                                shared.insert((name.clone(), side), index);
                                index
                            }
                        })
                    }
                };
                worker.taps.push(tap);
                worker.ways.push(Way {
                    to: first + 1 - side,
                    bottleneck,
                    line: Line::new(shape),
                    flights: VecDeque::new(),
                });
                let (from, to) = if side == 0 {
                    (&link.a, &link.b)
                } else {
                    (&link.b, &link.a)
                };
                reports.push(DirectionReport {
                    link: link.name.clone(),
                    from: from.host.clone(),
                    to: to.host.clone(),
                    ..DirectionReport::default()
                });
            }
        }
        Ok((worker, reports))
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn run(mut self, counters: &Mutex<Counters>, stop: &EventFd) -> Result<()> {
        let mut buffer = vec![0; (MAX_MTU + ETHERNET_HEADER + 64) as usize];
        let mut readable = vec![true; self.taps.len()];
        let mut deadline = self.now();
        // How long it takes to wake up. Deadlines are set this much earlier, and what is left
        // until a frame is due is waited out awake.
        let mut wake: Nanos = 0;
        loop {
            // Frames read now may have waited since the relay should have woken.
            let read_late = self.now().saturating_sub(deadline);
            let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
            let mut more = false;
            for (tap, readable) in readable.iter().enumerate() {
                if *readable {
                    more |= self.take_in(tap, read_late, &mut buffer, &mut counters)?;
                }
            }
            let next = self.deliver(&mut counters);
            drop(counters);

            let now = self.now();
            deadline = next.unwrap_or(Nanos::MAX).min(now + HEARTBEAT);
            let alarm = if more {
                now
            } else {
                deadline.saturating_sub(wake).max(now)
            };
            match self.wait(Duration::from_nanos(alarm - now), stop, &mut readable)? {
                Woken::Stopped => return Ok(()),
                Woken::ByTime if alarm > now => {
                    let took = self.now().saturating_sub(alarm).min(LONGEST_WAKE);
                    wake = (7 * wake + took) / 8;
                }
                Woken::ByTime | Woken::ByFrames => {}
            }
            if more {
                deadline = now;
            }
        }
    }

    /// Waits for frames.
    fn wait(&self, time: Duration, stop: &EventFd, readable: &mut [bool]) -> Result<Woken> {
        let mut files: Vec<PollFd<'_>> = Vec::with_capacity(self.taps.len() + 1);
        files.push(PollFd::new(stop.as_fd(), PollFlags::POLLIN));
        files.extend(
            self.taps
                .iter()
                .map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)),
        );
        match ppoll(&mut files, Some(TimeSpec::from_duration(time)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("the relay cannot wait"),
        }
        let mut ready = files.iter().map(|file| file.any().unwrap_or(false));
        if ready.next().unwrap_or(false) {
            return Ok(Woken::Stopped);
        }
        let mut woken = Woken::ByTime;
        for (readable, ready) in readable.iter_mut().zip(ready) {
            *readable = ready;
            if ready {
                woken = Woken::ByFrames;
            }
        }
        Ok(woken)
    }

    /// Reads what a host sent; returns whether there may be more.
    fn take_in(
        &mut self,
        tap: usize,
        read_late: Nanos,
        buffer: &mut [u8],
        counters: &mut Counters,
    ) -> Result<bool> {
        for _ in 0..BATCH {
            let length = match self.taps[tap].read(buffer) {
                Ok(Some(length)) => length,
                Ok(None) => return Ok(false),
                // The device is down.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(false),
                Err(error) => return Err(error).context("cannot read from a TAP device"),
            };
            let now = self.now();
            let frame = &buffer[..length];
            let way = &mut self.ways[tap];
            let report = &mut counters.directions[tap];
            let mut bottleneck = way.bottleneck.map(|index| &mut self.bottlenecks[index]);
            let lossy = is_lossy(frame);
            match way
                .line
                .carry(bottleneck.as_deref_mut(), now, length as u32, lossy)
            {
                Fate::Deliver(due) => {
                    let mut copy = self.spare.pop().unwrap_or_default();
                    copy.clear();
                    copy.extend_from_slice(frame);
                    way.flights.push_back(Flight {
                        due,
                        read_late,
                        frame: copy,
                    });
                }
                Fate::Lost => report.lost += 1,
                Fate::QueueFull => report.queue_full += 1,
            }
            if let Some(bottleneck) = bottleneck {
                report.max_waiting_bytes = report.max_waiting_bytes.max(bottleneck.waiting_bytes());
            }
        }
        Ok(true)
    }

    /// Delivers what is due, in order of time; returns when the next frame is.
    fn deliver(&mut self, counters: &mut Counters) -> Option<Nanos> {
        loop {
            let (index, due) = self
                .ways
                .iter()
                .enumerate()
                .filter_map(|(index, way)| Some((index, way.flights.front()?.due)))
                .min_by_key(|(_, due)| *due)?;
            let now = self.now();
            if due > now {
                return Some(due);
            }
            let way = &mut self.ways[index];
            let Some(flight) = way.flights.pop_front() else {
                continue;
            };
            let report = &mut counters.directions[index];
            match self.taps[way.to].write(&flight.frame) {
                Ok(()) => {
                    report.frames += 1;
                    report.bytes += flight.frame.len() as u64;
                }
                Err(error) if is_refusal(&error) => report.refused += 1,
                Err(error) => {
                    eprintln!("emptcp-lab: cannot write to a TAP device: {error}");
                    report.refused += 1;
                }
            }
            counters.lateness.record(now - due + flight.read_late);
            if self.spare.len() < SPARE_FRAMES {
                self.spare.push(flight.frame);
            }
        }
    }
}

/// The device is down, or its host is short of memory.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN | libc::EINVAL)
    )
}
