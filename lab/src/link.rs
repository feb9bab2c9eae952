//! What a link does to a frame, in virtual time. Pure: time goes in as nanoseconds of any clock.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::Shape;
use crate::units::{QueueLimit, Rate};

/// Nanoseconds of the relay's clock.
pub type Nanos = u64;

/// A transmitter with a rate, and the frames that wait for it.
///
/// The limit holds for frames whose transmission has not begun, so a frame that finds the
/// transmitter idle is never refused.
#[derive(Debug)]
pub struct Bottleneck {
    rate: Rate,
    limit: QueueLimit,
    free_at: Nanos,
    /// Start of transmission and length of the frames that wait.
    waiting: VecDeque<(Nanos, u32)>,
    waiting_bytes: u64,
}

impl Bottleneck {
    /// A transmitter of `rate` in front of which frames up to `limit` may wait.
    pub fn new(rate: Rate, limit: QueueLimit) -> Self {
        Self {
            rate,
            limit,
            free_at: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Takes a frame of `length` bytes at `now`; returns when its transmission ends, or `None`
    /// when the queue is full. Calls must not go back in time.
    pub fn offer(&mut self, now: Nanos, length: u32) -> Option<Nanos> {
        while let Some(&(start, bytes)) = self.waiting.front() {
            if start > now {
                break;
            }
            self.waiting.pop_front();
            self.waiting_bytes -= u64::from(bytes);
        }
        let start = self.free_at.max(now);
        if start > now {
            let fits = match self.limit {
                QueueLimit::Bytes(limit) => self.waiting_bytes + u64::from(length) <= limit,
                QueueLimit::Packets(limit) => (self.waiting.len() as u64) < limit,
            };
            if !fits {
                return None;
            }
            self.waiting.push_back((start, length));
            self.waiting_bytes += u64::from(length);
        }
        let nanos = u128::from(length) * 8 * 1_000_000_000 / u128::from(self.rate.0);
        self.free_at = start.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(self.free_at)
    }

    /// Bytes that waited after the last frame was offered.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Delivered at this time.
    Deliver(Nanos),
    /// Lost on the way, after it took its share of the rate.
    Lost,
    /// Refused by the queue.
    QueueFull,
}

/// Delay, jitter and loss of one direction of a link.
#[derive(Debug)]
pub struct Line {
    delay: Nanos,
    jitter: Nanos,
    loss: f64,
    loss_draws: ChaCha8Rng,
    jitter_draws: ChaCha8Rng,
    last: Nanos,
}

impl Line {
    /// A line of this shape; its queue is the caller's.
    pub fn new(shape: &Shape) -> Self {
        // Separate streams: changing the jitter does not change which packets are lost.
        let stream = |number| {
            let mut draws = ChaCha8Rng::seed_from_u64(shape.seed);
            draws.set_stream(number);
            draws
        };
        Self {
            delay: nanos(shape.delay),
            jitter: nanos(shape.jitter),
            loss: shape.loss,
            loss_draws: stream(0),
            jitter_draws: stream(1),
            last: 0,
        }
    }

    /// What becomes of a frame of `length` bytes that arrives at `now`. `may_lose` is false for
    /// frames that loss spares (see [`is_lossy`]); they take no draw, so that the n-th packet of
    /// a flow meets the same fate in every run.
    pub fn carry(
        &mut self,
        bottleneck: Option<&mut Bottleneck>,
        now: Nanos,
        length: u32,
        may_lose: bool,
    ) -> Fate {
        let sent = match bottleneck {
            Some(bottleneck) => match bottleneck.offer(now, length) {
                Some(sent) => sent,
                None => return Fate::QueueFull,
            },
            None => now,
        };
        if may_lose && self.loss > 0.0 && unit(&mut self.loss_draws) < self.loss {
            return Fate::Lost;
        }
        let mut due = sent + self.delay;
        if self.jitter > 0 {
            due += (unit(&mut self.jitter_draws) * self.jitter as f64) as Nanos;
        }
        // Jitter never reorders.
        self.last = self.last.max(due);
        Fate::Deliver(self.last)
    }
}

/// Whether loss applies to a frame: IP packets to one receiver. ARP, neighbour discovery by
/// multicast and group reports are spared.
pub fn is_lossy(frame: &[u8]) -> bool {
    let unicast = frame.first().is_some_and(|byte| byte & 1 == 0);
    unicast && matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// A number from 0 (included) to 1 (excluded).
fn unit(draws: &mut ChaCha8Rng) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn nanos(time: std::time::Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ShapeQueue;

    const MS: Nanos = 1_000_000;

    fn shape(loss: f64, jitter: Duration, seed: u64) -> Shape {
        let delay = Duration::from_millis(10);
        Shape {
            queue: ShapeQueue::Unlimited,
            delay,
            jitter,
            loss,
            seed,
        }
    }

    #[test]
    fn frames_follow_each_other_at_the_rate() {
        // 1 000 bytes at 8 Mbit/s take 1 ms.
        let mut queue = Bottleneck::new(Rate(8_000_000), QueueLimit::Bytes(10_000));
        assert_eq!(queue.offer(0, 1000), Some(MS));
        assert_eq!(queue.offer(0, 1000), Some(2 * MS));
        assert_eq!(queue.offer(MS / 2, 500), Some(5 * MS / 2));
        // Idle time is not saved up.
        assert_eq!(queue.offer(10 * MS, 1000), Some(11 * MS));
    }

    #[test]
    fn a_full_queue_refuses() {
        let mut bytes = Bottleneck::new(Rate(8_000_000), QueueLimit::Bytes(2_000));
        assert!(bytes.offer(0, 1000).is_some(), "in transmission");
        assert!(bytes.offer(0, 1000).is_some(), "waits");
        assert!(bytes.offer(0, 1000).is_some(), "waits");
        assert_eq!(bytes.offer(0, 100), None);
        assert_eq!(bytes.waiting_bytes(), 2000);
        // One begins after 1 ms, so there is room for one more.
        assert_eq!(bytes.offer(MS, 1000), Some(4 * MS));
        assert_eq!(bytes.offer(MS, 1000), None);

        let mut packets = Bottleneck::new(Rate(8_000_000), QueueLimit::Packets(1));
        assert!(packets.offer(0, 1000).is_some());
        assert!(packets.offer(0, 1000).is_some());
        assert_eq!(packets.offer(0, 1000), None);
    }

    #[test]
    fn an_idle_transmitter_takes_a_frame_larger_than_its_queue() {
        let mut queue = Bottleneck::new(Rate(8_000_000), QueueLimit::Bytes(100));
        assert_eq!(queue.offer(0, 1000), Some(MS));
        assert_eq!(queue.offer(0, 1000), None);
    }

    #[test]
    fn a_saturated_queue_keeps_its_rate_over_a_second() {
        let mut queue = Bottleneck::new(Rate(50_000_000), QueueLimit::Bytes(100_000));
        let (mut bytes, mut now) = (0, 0);
        while now < 1000 * MS {
            if let Some(end) = queue.offer(now, 1514)
                && end <= 1000 * MS
            {
                bytes += 1514;
            }
            now += 50_000;
        }
        let rate = f64::from(bytes) * 8.0;
        assert!((rate / 50e6 - 1.0).abs() < 0.001, "{rate}");
    }

    #[test]
    fn loss_is_near_its_ratio_and_the_same_for_the_same_seed() {
        let fates = |seed| -> Vec<bool> {
            let mut line = Line::new(&shape(0.05, Duration::ZERO, seed));
            (0..20_000)
                .map(|n| line.carry(None, n, 100, true) == Fate::Lost)
                .collect()
        };
        let lost = fates(1).iter().filter(|lost| **lost).count();
        assert!((900..1100).contains(&lost), "{lost}");
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }

    #[test]
    fn frames_that_loss_spares_take_no_draw() {
        let fates = |spared: bool| -> Vec<Fate> {
            let mut line = Line::new(&shape(0.5, Duration::ZERO, 7));
            (0..100)
                .map(|_| {
                    if spared {
                        assert_ne!(line.carry(None, 0, 60, false), Fate::Lost);
                    }
                    line.carry(None, 0, 100, true)
                })
                .collect()
        };
        assert_eq!(fates(true), fates(false));
    }

    #[test]
    fn lost_frames_take_their_share_of_the_rate() {
        let mut queue = Bottleneck::new(Rate(8_000_000), QueueLimit::Bytes(10_000));
        let mut line = Line::new(&shape(1.0, Duration::ZERO, 0));
        assert_eq!(line.carry(Some(&mut queue), 0, 1000, true), Fate::Lost);
        let due = line.carry(Some(&mut queue), 0, 1000, false);
        assert_eq!(due, Fate::Deliver(2 * MS + 10 * MS));
    }

    #[test]
    fn jitter_delays_up_to_its_bound_and_never_reorders() {
        let mut line = Line::new(&shape(0.0, Duration::from_millis(5), 3));
        let (mut last, mut spread) = (0, 0);
        for n in 0..1000 {
            let now = n * 10 * MS;
            let Fate::Deliver(due) = line.carry(None, now, 100, true) else {
                panic!()
            };
            assert!(due >= last && (10 * MS..15 * MS).contains(&(due - now)));
            spread = spread.max(due - now - 10 * MS);
            last = due;
        }
        assert!(spread > 4 * MS, "{spread}");
        for _ in 0..1000 {
            let Fate::Deliver(due) = line.carry(None, last, 100, true) else {
                panic!()
            };
            assert!(due >= last);
            last = due;
        }
    }

    #[test]
    fn loss_applies_to_unicast_ip_only() {
        let frame = |first, kind: [u8; 2]| {
            let mut frame = [0u8; 60];
            frame[0] = first;
            frame[12..14].copy_from_slice(&kind);
            frame
        };
        assert!(is_lossy(&frame(2, [0x08, 0x00])));
        assert!(is_lossy(&frame(2, [0x86, 0xdd])));
        assert!(!is_lossy(&frame(2, [0x08, 0x06])));
        assert!(!is_lossy(&frame(0x33, [0x86, 0xdd])));
        assert!(!is_lossy(&[]));
    }
}
