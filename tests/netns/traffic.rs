//! TCP packets as frames, and a sender of many of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;

use super::raw::Frames;
use super::rig::Netns;

/// A port that tests/bpf/judge.bpf.c knows.
pub(crate) const SPORT: u16 = 7000;

/// An ACK with the window 65535, from a port of the judge's.
pub(crate) fn ack(family: Family, dport: u16) -> Vec<u8> {
    frame(family, serde_json::json!({ "tcp": { "dport": dport } }))
}

/// A frame from its description (tests/README.md); what is not said is as in [`ack`].
pub(crate) fn frame(family: Family, description: serde_json::Value) -> Vec<u8> {
    let mut whole = serde_json::json!({
        "eth": { "src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02" },
        "tcp": { "sport": SPORT, "dport": 80, "flags": "A", "window": 65535 },
    });
    merge(&mut whole, description);
    let packet: Packet = serde_json::from_value(whole).unwrap();
    packet.build(family).unwrap().bytes
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Sends these frames in turn, in small bursts, until it is stopped.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Frames of a burst: fewer than a queue of veth holds.
const BURST: u64 = 32;

impl Traffic {
    /// `rate`: frames a second.
    pub(crate) fn start(netns: &Netns, interface: &str, frames: Vec<Vec<u8>>, rate: u64) -> Self {
        let socket = netns.within(|| Frames::open(netns.ifindex(interface)));
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let pause = Duration::from_nanos(1_000_000_000 * BURST / rate);
        let thread = std::thread::spawn({
            let (stop, sent) = (stop.clone(), sent.clone());
            move || {
                let mut frames = frames.iter().cycle();
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    for frame in frames.by_ref().take(BURST as usize) {
                        if socket.send(frame) {
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    // No catching up: a burst after a stall would overrun the queue.
                    next = Instant::now().max(next + pause);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Frames that were sent, when no more are under way.
    pub(crate) fn finish(mut self) -> u64 {
        self.end();
        std::thread::sleep(Duration::from_millis(100));
        self.sent()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends so many frames of either family, and waits until they arrived.
pub(crate) fn probe(netns: &Netns, interface: &str, count: usize) {
    let socket = netns.within(|| Frames::open(netns.ifindex(interface)));
    for _ in 0..count {
        for family in Family::ALL {
            assert!(socket.send(&ack(family, 80)));
        }
    }
    std::thread::sleep(Duration::from_millis(5));
}

/// Sends one frame.
pub(crate) fn send(netns: &Netns, interface: &str, frame: &[u8]) {
    let socket = netns.within(|| Frames::open(netns.ifindex(interface)));
    assert!(socket.send(frame));
    std::thread::sleep(Duration::from_millis(5));
}
