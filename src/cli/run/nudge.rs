//! A packet for subflows in which something waits for one: a pure ACK, as their sender last sent it,
//! which meets the chains as any other.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use super::Service;
use super::Trouble;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::TrackSubflow;
use crate::cli::running_kernel;
use crate::datapath::Frames;
use crate::datapath::Wait;
use crate::datapath::Waiting;
use crate::datapath::boot_time;
use crate::frame::Opt;
use crate::module::KernelVersion;
use crate::track::Ends;
use crate::track::Track;
use crate::track::connection_of;

/// How often is looked at what waits.
const LOOK: Duration = Duration::from_millis(100);
/// The same, where nothing of the policy in force can wait.
const IDLE: Duration = Duration::from_secs(1);
/// How long a packet of the subflow itself is waited for, in nanoseconds.
const WAIT: u64 = 200_000_000;
/// A direction that waits again so soon after its packet was not served by it, in nanoseconds.
const AGAIN: u64 = 100_000_000;
/// It gets its next packet after twice the time, so often.
const DOUBLINGS: u32 = 6;
/// After so long it counts as a new one, in nanoseconds.
const FORGET: u64 = 60_000_000_000;
/// Packets sent at once; the others have to wait for the next look.
const MOST: usize = 256;

/// Sends what nobody else does.
pub(super) struct Nudge {
    kernel: KernelVersion,
    due: Instant,
    sent: HashMap<(Ends, usize), Sent>,
    trouble: Trouble,
}

/// What a direction of a subflow got.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The last packet, on the clock of the tracker.
    last: u64,
    /// Those before that did not serve.
    vain: u32,
}

impl Nudge {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            kernel: running_kernel()?,
            due: Instant::now(),
            sent: HashMap::new(),
            trouble: Trouble::default(),
        })
    }

    fn look(&mut self) -> Result<Duration> {
        let Some(waiting) = Waiting::in_force()? else {
            return Ok(IDLE);
        };
        let now = boot_time()?;
        self.sent
            .retain(|_, sent| now.saturating_sub(sent.last) < FORGET);
        let mut due = waiting.all()?;
        due.retain(|wait| wait.at.saturating_add(self.pause(wait)) <= now);
        due.truncate(MOST);
        if due.is_empty() {
            return Ok(LOOK);
        }
        let frames = Frames::open(self.kernel)?;
        let track = OnceCell::new();
        for wait in &due {
            // Before, so that what goes on waiting is noted anew.
            waiting.over(wait)?;
            match nudge(&frames, &track, wait) {
                Ok(true) => {
                    let vain = self.vain(wait);
                    let key = (wait.ends, wait.direction);
                    self.sent.insert(key, Sent { last: now, vain });
                }
                Ok(false) => {}
                Err(error) => self.trouble.tell(&error),
            }
        }
        Ok(LOOK)
    }

    /// How long a direction is to wait, in nanoseconds.
    fn pause(&self, wait: &Wait) -> u64 {
        WAIT << self.vain(wait)
    }

    /// How many packets before did not serve: chains let no ACK carry what waits.
    fn vain(&self, wait: &Wait) -> u32 {
        match self.sent.get(&(wait.ends, wait.direction)) {
            Some(sent) if !wait.changed && wait.at.saturating_sub(sent.last) < AGAIN => {
                (sent.vain + 1).min(DOUBLINGS)
            }
            _ => 0,
        }
    }
}

/// `false`: none is needed any more. `track`: read once, and only where one needs it.
fn nudge(frames: &Frames, track: &OnceCell<Track>, wait: &Wait) -> Result<bool> {
    let Some(sub) = frames.subflow(&wait.ends)? else {
        return Ok(false);
    };
    let way = &sub.way[wait.direction];
    if wait.changed && way.last > wait.at {
        return Ok(false);
    }
    let mut option = Opt::data_ack(way);
    if option.is_none() {
        let track = match track.get() {
            Some(track) => track,
            None => {
                let read = frames.track()?;
                track.get_or_init(|| read)
            }
        };
        option = data_ack_of_others(track, &sub, wait.direction);
    }
    // Of a direction that was never seen nothing can be sent, and its first packet is enough.
    let Some(option) = option else {
        return Ok(false);
    };
    let frame = frames.frame_of_data_ack(&wait.ends, wait.direction)?;
    frames.send(&frame, &option)?;
    Ok(true)
}

/// A data ACK that the same end has sent on another subflow of the connection: one that joined as
/// backup and carried nothing since has had none itself.
fn data_ack_of_others(track: &Track, sub: &TrackSubflow, direction: usize) -> Option<Opt> {
    let connection = connection_of(sub)?;
    // The other end has answered the third ACK: else a frame of this one would be too early.
    Opt::data_ack(&sub.way[1 - direction])?;
    let client_of = |sub: &TrackSubflow| match sub.client {
        DIRECTION_UNKNOWN => None,
        client => Some(usize::from(client)),
    };
    let is_client = client_of(sub)? == direction;
    let others = track.subflows.values();
    others
        .filter(|other| connection_of(other) == Some(connection))
        .find_map(|other| {
            let client = client_of(other)? & 1;
            Opt::data_ack(&other.way[if is_client { client } else { 1 - client }])
        })
}

impl Service for Nudge {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn serve(&mut self) {
        let pause = self.look().unwrap_or_else(|error| {
            self.trouble.tell(&error);
            IDLE
        });
        self.due = Instant::now() + pause;
    }
}
