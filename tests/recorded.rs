//! What `record` makes of sequences of packets: payload that was sent again, and round trips.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::ops::RangeInclusive;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use emptcp::datapath::Beside;
use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;

/// Offset of the port of the source in `struct record_key`.
const SPORT: usize = 32;

/// A value of the map, as far as it is looked at here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    packets: u64,
    bytes: u64,
    retransmitted: u64,
    srtt: u32,
    min_rtt: u32,
}

struct Subject {
    loaded: Loaded,
    family: Family,
}

impl Subject {
    fn new(registry: &Registry, hook: Hook, family: Family, params: &Value) -> Self {
        let chain = json!({ "name": "tested", "act": [{ "record": params }] });
        let loaded = Loaded::new(registry, hook, &[chain], Options::default()).unwrap();
        Self { loaded, family }
    }

    /// From `a` to `b`, or back.
    fn send(&mut self, back: bool, tcp: &Value, payload: usize) {
        let ends = if back {
            ("b", 80, "a", 40000)
        } else {
            ("a", 40000, "b", 80)
        };
        let mut tcp = tcp.clone();
        tcp["sport"] = ends.1.into();
        tcp["dport"] = ends.3.into();
        let packet: Packet = serde_json::from_value(json!({
            "ip": { "src": ends.0, "dst": ends.2 }, "tcp": tcp, "payload": payload,
        }))
        .unwrap();
        let built = packet.build(self.family).unwrap();
        let done = self.loaded.run(&built.bytes, 0).unwrap();
        assert_eq!(done.reasons, [].into());
    }

    /// What is known of one way.
    fn recorded(&self, back: bool) -> Recorded {
        let port: u16 = if back { 80 } else { 40000 };
        let entries = self.loaded.instance.state("records").unwrap();
        let of_port = |key: &Vec<u8>| key[SPORT..SPORT + 2] == port.to_ne_bytes();
        let (_, value) = entries.iter().find(|(key, _)| of_port(key)).unwrap();
        let u64_at = |at: usize| u64::from_ne_bytes(*value[at..].first_chunk().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(*value[at..].first_chunk().unwrap());
        Recorded {
            packets: u64_at(0),
            bytes: u64_at(8),
            retransmitted: u64_at(16),
            srtt: u32_at(24),
            min_rtt: u32_at(28),
        }
    }
}

/// On each hook, in each family.
fn everywhere(params: &Value, test: impl Fn(&mut Subject, &str)) {
    let registry = Registry::builtin().unwrap();
    // Each takes programs of its own, which an emulated machine verifies for seconds.
    let families = match kernel::in_guest() {
        true => &Family::ALL[..1],
        false => &Family::ALL[..],
    };
    for hook in Hook::ALL {
        for family in families.iter().copied() {
            let mut subject = Subject::new(&registry, hook, family, params);
            test(&mut subject, &format!("{hook}, {family:?}"));
        }
    }
}

/// Packets and bytes on the wire of one that stands for three, also where a guest made it: then the
/// kernel does not say how many they are (SKB_GSO_DODGY).
#[test]
fn root_segments_of_a_guest() {
    everywhere(&json!({}), |subject, what| {
        if what.starts_with("xdp") {
            return;
        }
        let packet: Packet = serde_json::from_value(json!({ "payload": 2500 })).unwrap();
        let bytes = packet.build(subject.family).unwrap().bytes;
        let headers = bytes.len() as u64 - 2500;
        for (n, segments) in [0, 3].into_iter().enumerate() {
            let beside = Beside {
                segment_size: 1000,
                segments,
                ..Beside::default()
            };
            let ran = subject.loaded.instance.run_with(&bytes, Some(beside), 1);
            ran.unwrap();
            let n = n as u64 + 1;
            assert_eq!(subject.recorded(false).packets, 3 * n, "{what}");
            assert_eq!(
                subject.recorded(false).bytes,
                n * (2500 + 3 * headers),
                "{what}"
            );
        }
    });
}

#[test]
fn root_payload_that_was_sent_again() {
    // Packets of one way: sequence number, flags, payload; then bytes that came again, so far.
    type Row = (u32, &'static str, usize, u64);
    let rows: [(&str, &[Row]); 14] = [
        (
            "in order",
            &[
                (0, "S", 0, 0),
                (1, "A", 0, 0),
                (1, "PA", 100, 0),
                (101, "A", 50, 0),
            ],
        ),
        (
            "all of it",
            &[(1, "A", 100, 0), (1, "A", 100, 100), (1, "A", 100, 200)],
        ),
        (
            "a part",
            &[
                (1, "A", 100, 0),
                (51, "A", 100, 50),
                (1, "A", 40, 90),
                (151, "A", 9, 90),
            ],
        ),
        (
            "more than all",
            &[(11, "A", 100, 0), (1, "A", 120, 110), (121, "A", 5, 110)],
        ),
        (
            "a gap that is filled",
            &[(1, "A", 100, 0), (201, "A", 100, 0), (101, "A", 100, 100)],
        ),
        (
            "past zero",
            &[
                (0xffff_ffce, "A", 100, 0),
                (50, "A", 100, 0),
                (0xffff_ffce, "A", 100, 100),
                (0, "A", 10, 110),
                (150, "A", 1, 110),
            ],
        ),
        (
            "SYN again",
            &[(0, "S", 0, 0), (0, "S", 0, 0), (1, "A", 10, 0)],
        ),
        (
            "FIN again",
            &[
                (1, "A", 10, 0),
                (11, "FA", 10, 0),
                (11, "FA", 10, 10),
                (21, "FA", 0, 10),
                (22, "A", 0, 10),
            ],
        ),
        (
            "keepalive, none and one byte",
            &[
                (1, "A", 100, 0),
                (100, "A", 0, 0),
                (100, "A", 1, 0),
                (101, "A", 10, 0),
            ],
        ),
        (
            "one byte that is no keepalive",
            &[(1, "A", 100, 0), (99, "A", 1, 1)],
        ),
        (
            "pure ACKs",
            &[(1, "A", 100, 0), (101, "A", 0, 0), (50, "A", 0, 0)],
        ),
        (
            "RST of any number",
            &[
                (1, "A", 100, 0),
                (0x5000_0000, "R", 0, 0),
                (101, "A", 100, 0),
                (1, "RA", 0, 0),
            ],
        ),
        (
            "another connection of these ports",
            &[
                (0x1000_0000, "A", 100, 0),
                (5, "S", 0, 0),
                (6, "A", 100, 0),
                (6, "A", 100, 100),
            ],
        ),
        (
            "of which the SYN was not seen",
            &[
                (0x1000_0000, "A", 100, 0),
                (0x9000_0000, "A", 100, 0),
                (0x9000_0064, "A", 100, 0),
                (0x9000_0000, "A", 100, 100),
            ],
        ),
    ];
    for (name, packets) in rows {
        everywhere(&json!({}), |subject, place| {
            for (number, (seq, flags, payload, expected)) in packets.iter().enumerate() {
                subject.send(false, &json!({ "seq": seq, "flags": flags }), *payload);
                let found = subject.recorded(false);
                assert_eq!(
                    found.retransmitted, *expected,
                    "{name}, packet {number}, {place}"
                );
                assert_eq!(found.packets, number as u64 + 1);
            }
        });
    }
}

#[test]
fn root_each_way_has_numbers_of_its_own() {
    everywhere(&json!({}), |subject, place| {
        for back in [false, true, false] {
            subject.send(back, &json!({ "seq": 1, "flags": "A" }), 100);
        }
        assert_eq!(subject.recorded(false).retransmitted, 100, "{place}");
        assert_eq!(subject.recorded(true).retransmitted, 0, "{place}");
    });
}

const PAUSE: Duration = Duration::from_millis(20);

fn stamped(flags: &str, val: u32, ecr: u32) -> Value {
    json!({ "flags": flags, "options": [{ "timestamps": [val, ecr] }] })
}

/// What a round trip with so many pauses may be, in µs, whose packets were sent between `start` and
/// now: a machine may stall.
fn since(start: Instant, pauses: u32) -> RangeInclusive<u32> {
    pauses * PAUSE.as_micros() as u32..=start.elapsed().as_micros() as u32 + 1
}

#[track_caller]
fn about(found: u32, trip: &RangeInclusive<u32>, place: &str) {
    assert!(trip.contains(&found), "{found} of {trip:?} µs, {place}");
}

#[test]
fn root_round_trips() {
    everywhere(&json!({ "rtt": true }), |subject, place| {
        let start = Instant::now();
        subject.send(false, &json!({ "flags": "S", "options": [{ "mss": 1460 }, "sackok", { "timestamps": [10, 0] }] }), 0);
        assert_eq!(
            subject.recorded(false).min_rtt,
            0,
            "{place}: an answer to nothing"
        );
        sleep(PAUSE * 3);
        let answered = Instant::now();
        subject.send(true, &stamped("SA", 1000, 10), 0);
        let first = since(start, 3);
        sleep(PAUSE);
        subject.send(false, &stamped("A", 11, 1000), 0);
        let back = since(answered, 1);
        let there = subject.recorded(false);
        about(there.min_rtt, &first, place);
        assert_eq!(there.srtt, there.min_rtt, "{place}: the first one");

        // Data, acknowledged later; the pure ACK before asked for nothing.
        let start = Instant::now();
        subject.send(false, &stamped("PA", 12, 1000), 100);
        sleep(PAUSE);
        subject.send(true, &stamped("A", 1001, 12), 0);
        let second = since(start, 1);
        // The same echo again is no new answer.
        sleep(PAUSE * 2);
        subject.send(true, &stamped("A", 1001, 12), 0);
        subject.send(false, &stamped("A", 13, 1001), 0);
        let now = subject.recorded(false);
        let least = |trip: u32| trip.min(there.min_rtt);
        about(
            now.min_rtt,
            &(least(*second.start())..=least(*second.end())),
            place,
        );
        // An eighth of the way from the first one.
        let way = |trip: u32| (i64::from(trip) - i64::from(there.srtt)) / 8;
        let moved = i64::from(now.srtt) - i64::from(there.srtt);
        assert!(
            (way(*second.start()) - 2..=way(*second.end()) + 2).contains(&moved),
            "{} of {there:?} and {second:?}, {place}",
            now.srtt
        );
        // What came back asked once: the SYN/ACK.
        subject.send(true, &stamped("A", 1002, 13), 0);
        about(subject.recorded(true).min_rtt, &back, place);
    });
}

#[test]
fn root_what_measures_no_round_trip() {
    everywhere(&json!({ "rtt": true }), |subject, place| {
        // In the middle of a connection: packets before may have had the same timestamp.
        subject.send(false, &stamped("PA", 50, 7), 100);
        subject.send(true, &stamped("A", 900, 50), 0);
        // Of one value the first packet counts, and that was a pure ACK.
        subject.send(false, &stamped("A", 51, 7), 0);
        subject.send(false, &stamped("PA", 51, 7), 100);
        subject.send(true, &stamped("A", 901, 51), 0);
        // An older one.
        subject.send(false, &stamped("PA", 49, 7), 100);
        subject.send(true, &stamped("A", 902, 49), 0);
        // The echo was lost, a later one came.
        subject.send(false, &stamped("PA", 60, 7), 100);
        subject.send(true, &stamped("A", 903, 61), 0);
        subject.send(true, &stamped("A", 904, 60), 0);
        // Without the flag the field means nothing.
        subject.send(false, &stamped("PA", 70, 7), 100);
        subject.send(true, &stamped("P", 905, 70), 10);
        subject.send(true, &stamped("A", 906, 71), 0);
        subject.send(false, &json!({ "flags": "A" }), 0);
        subject.send(false, &stamped("A", 72, 7), 0);
        assert_eq!(subject.recorded(false).min_rtt, 0, "{place}");
        // Across the wrap of timestamps.
        subject.send(false, &stamped("A", 0x7fff_fff0, 7), 0);
        subject.send(false, &stamped("A", 0xefff_fff0, 7), 0);
        subject.send(false, &stamped("A", 0xffff_fff0, 7), 0);
        let start = Instant::now();
        subject.send(false, &stamped("PA", 5, 7), 100);
        sleep(PAUSE);
        subject.send(true, &stamped("A", 907, 5), 0);
        let trip = since(start, 1);
        subject.send(false, &stamped("A", 6, 7), 0);
        about(subject.recorded(false).min_rtt, &trip, place);
    });
    everywhere(&json!({}), |subject, place| {
        subject.send(false, &stamped("S", 1, 0), 0);
        subject.send(true, &stamped("SA", 1, 1), 0);
        subject.send(false, &stamped("A", 2, 1), 0);
        assert_eq!(subject.recorded(false).min_rtt, 0, "{place}: nobody asked");
    });
}
