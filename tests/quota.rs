// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What the actor `quota` counts while several CPUs count at once.

#![allow(clippy::unwrap_used)]

mod kernel;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use serde_json::json;

const PAYLOAD: u64 = 100;
const REPEAT: u32 = 50_000;

/// Threads that run the same packet at the same time: no byte is lost.
#[test]
fn root_quota_counts_on_all_cpus() {
    let registry = Registry::builtin().unwrap();
    let chain = json!({ "name": "c", "act": [
        { "quota": { "name": "q", "bytes": "1GiB", "then": "event" } }] });
    let loaded = Loaded::new(&registry, Hook::TcEgress, &[chain], Options::default()).unwrap();
    let packet: Packet = serde_json::from_value(json!({ "payload": PAYLOAD })).unwrap();
    let bytes = packet.build(Family::Ip4).unwrap().bytes;
    // The first one makes the entry.
    loaded.instance.run(&bytes, None, 1).unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get().max(2);
    std::thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| loaded.instance.run(&bytes, None, REPEAT).unwrap());
        }
    });
    let state = loaded.instance.state("quotas").unwrap();
    assert_eq!(state.len(), 1, "{state:?}");
    let counted = u64::from_ne_bytes(*state[0].1.first_chunk().unwrap());
    assert_eq!(counted, PAYLOAD * (1 + cpus as u64 * u64::from(REPEAT)));
}
