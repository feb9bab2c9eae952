//! When paced packets leave: the departure times that the actor writes, one run after the other.
//! What fq makes of them is in `paced.rs`.

#![allow(clippy::unwrap_used)]

mod kernel;

use emptcp::datapath::Beside;
use emptcp::datapath::Options;
use emptcp::datapath::Verdict;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use nix::time::ClockId;
use nix::time::clock_gettime;
use serde_json::Value;
use serde_json::json;

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;
/// Slow: runs follow each other long before the next packet may leave.
const RATE: u64 = 100_000;

/// CLOCK_MONOTONIC in nanoseconds, as fq has it.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * S + now.tv_nsec() as u64
}

/// How long so many bytes take at a rate in bits per second.
fn takes(bytes: u32, rate: u64) -> u64 {
    u64::from(bytes) * 8 * S / rate
}

struct Paced(Loaded);

impl Paced {
    fn new(params: &Value) -> Self {
        Self::with(&json!({}), &json!({}), params)
    }

    fn with(tables: &Value, select: &Value, params: &Value) -> Self {
        let mut params = params.clone();
        let given = params.as_object_mut().unwrap();
        given.entry("rate").or_insert(json!(RATE));
        let chain = json!({ "name": "p", "select": select, "act": [{ "pace": params }] });
        let registry = Registry::builtin().unwrap();
        let options = Options::default();
        let loaded = Loaded::with_tables(&registry, Hook::TcEgress, &[chain], tables, options);
        Self(loaded.unwrap())
    }

    /// The packet goes through; when it leaves, or none if it is dropped.
    fn sends(&self, packet: &Value, departure: u64, wire_len: u32) -> Option<u64> {
        let packet: Packet = serde_json::from_value(packet.clone()).unwrap();
        let packet = packet.build(Family::Ip4).unwrap().bytes;
        let beside = Beside {
            departure,
            wire_len,
            ..Beside::default()
        };
        let (verdict, run) = self.0.instance.run_with(&packet, Some(beside), 1).unwrap();
        assert_eq!(run.packet, packet);
        match verdict {
            Verdict::Pass => Some(run.departure),
            Verdict::Drop => None,
            Verdict::Other(other) => panic!("{other}"),
        }
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.0.instance.reasons().unwrap()
    }
}

fn to_port(dport: u16) -> Value {
    json!({ "tcp": { "dport": dport } })
}

#[test]
fn root_packets_leave_at_the_rate() {
    let paced = Paced::new(&json!({}));
    let before = now();
    // Long enough for the others to come meanwhile, in a guest too.
    let first = paced.sends(&to_port(80), 0, 8000).unwrap();
    assert!(before <= first && first <= now(), "an idle subflow waits");
    // Each waits for those before it; of GSO packets all segments count.
    let second = paced.sends(&to_port(80), 0, 4000).unwrap();
    let third = paced.sends(&to_port(80), 0, 100).unwrap();
    let fourth = paced.sends(&to_port(80), 0, 100).unwrap();
    assert_eq!(second - first, takes(8000, RATE));
    assert_eq!(third - second, takes(4000, RATE));
    assert_eq!(fourth - third, takes(100, RATE));
    assert_eq!(paced.reasons(), []);
}

/// Subflows of one entry share its rate, those of another one have their own.
#[test]
fn root_packets_leave_at_the_rate_of_their_entry() {
    let tables = json!({ "rates": { "type": "port", "value": "rate",
        "elements": { "80": RATE, "81": RATE } } });
    let select = json!({ "dport": { "table": "rates" } });
    let params = json!({ "rate": { "table": "rates" }, "per": "entry" });
    let paced = Paced::with(&tables, &select, &params);
    let from = |sport: u16, dport: u16| json!({ "tcp": { "sport": sport, "dport": dport } });
    let first = paced.sends(&from(1, 80), 0, 8000).unwrap();
    let second = paced.sends(&from(2, 80), 0, 8000).unwrap();
    let other = paced.sends(&from(1, 81), 0, 8000).unwrap();
    assert_eq!(second - first, takes(8000, RATE));
    assert!(other < second, "{other} {second}");
}

#[test]
fn root_no_packet_leaves_earlier_than_tcp_wants() {
    let paced = Paced::new(&json!({}));
    let wanted = now() + S;
    assert_eq!(paced.sends(&to_port(80), wanted, 100), Some(wanted));
    // The next one goes behind it.
    let next = paced.sends(&to_port(80), wanted - 1, 100).unwrap();
    assert_eq!(next - wanted, takes(100, RATE));
    // What is past, and what is no departure time (a time of arrival, CLOCK_REALTIME), is now.
    for (port, given) in [(81, 1), (82, 1_700_000_000 * S)] {
        let before = now();
        let left = paced.sends(&to_port(port), given, 100).unwrap();
        assert!(before <= left && left <= now(), "{given}: {before} {left}");
    }
}

#[test]
fn root_nothing_waits_for_longer_than_the_horizon() {
    // A packet of 100 bytes takes 8 ms.
    let drops = Paced::new(&json!({ "horizon": "5s" }));
    let first = drops.sends(&to_port(80), 0, 60_000).unwrap();
    let second = drops.sends(&to_port(80), 0, 60_000).unwrap();
    assert_eq!(second - first, takes(60_000, RATE));
    assert!(drops.sends(&to_port(80), 0, 100).is_none());
    assert!(drops.sends(&to_port(80), 0, 100).is_none());
    assert_eq!(drops.reasons(), [("horizon".to_owned(), 2)]);
    // Dropped packets take no time, and do not hold up others.
    assert!(drops.sends(&to_port(81), 0, 100).unwrap() <= now());

    let caps = Paced::new(&json!({ "horizon": "5s", "beyond": "cap" }));
    let first = caps.sends(&to_port(80), 0, 60_000).unwrap();
    let second = caps.sends(&to_port(80), 0, 60_000).unwrap();
    assert_eq!(second - first, takes(60_000, RATE));
    let before = now();
    let third = caps.sends(&to_port(80), 0, 100).unwrap();
    assert!(before + 5 * S <= third && third <= now() + 5 * S);
    assert_eq!(caps.reasons(), [("horizon".to_owned(), 1)]);
}

/// Another packet behind one to port 80 of host b: whether it waits.
#[test]
fn root_a_rate_is_for_a_subflow_a_destination_or_the_chain() {
    let others = [
        to_port(80),
        to_port(81),
        json!({ "ip": { "src": "c" } }),
        json!({ "ip": { "dst": "c" } }),
    ];
    for (per, waits) in [
        ("subflow", [true, false, false, false]),
        ("dst", [true, true, true, false]),
        ("chain", [true; 4]),
    ] {
        for (other, waits) in others.iter().zip(waits) {
            let paced = Paced::new(&json!({ "per": per }));
            let first = paced.sends(&to_port(80), 0, 10_000).unwrap();
            let next = paced.sends(other, 0, 10_000).unwrap();
            let waited = next >= first + takes(10_000, RATE);
            assert_eq!(waited, waits, "{per}: {other}");
        }
    }
}

#[test]
fn root_rates_come_from_tables() {
    let tables = json!({ "rates": { "type": "port", "value": "rate",
        "elements": { "80": "100kbit", "81": "50kbit", "82": 0 } } });
    let paced = Paced::with(
        &tables,
        &json!({ "dport": { "table": "rates" } }),
        &json!({ "rate": { "table": "rates" } }),
    );
    for (port, rate) in [(80, 100_000), (81, 50_000)] {
        let first = paced.sends(&to_port(port), 0, 5000).unwrap();
        let second = paced.sends(&to_port(port), 0, 5000).unwrap();
        assert_eq!(second - first, takes(5000, rate), "{port}");
    }
    // Not paced: not touched, whatever the rate before.
    for port in [82, 83] {
        assert_eq!(paced.sends(&to_port(port), 0, 500), Some(0));
        assert_eq!(paced.sends(&to_port(port), 0, 500), Some(0));
    }
}
