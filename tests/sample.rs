//! What the selector `sample` draws.

#![allow(clippy::unwrap_used)]

mod kernel;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Kind;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use serde_json::json;

/// Packets of each run.
const PACKETS: u64 = 4000;

#[test]
fn root_each_packet_is_drawn_by_itself() {
    let registry = Registry::builtin().unwrap();
    let packet = Packet::new().build(Family::Ip4).unwrap().bytes;
    for hook in Hook::ALL {
        for (ratio, share) in [("1/4", 0.25), ("3%", 0.03), ("90%", 0.9)] {
            // The same ratio twice: neither takes the other's outcome.
            let step = json!({ "sample": { "ratio": ratio } });
            let chain = json!({
                "name": "tested",
                "select": { "all": [step, step] },
                "act": [{ "accept": {} }],
            });
            let mut loaded = Loaded::new(&registry, hook, &[chain], Options::default()).unwrap();
            let nodes = loaded.nodes(0, Kind::Selector);
            assert_eq!(nodes.len(), 2, "{:?}", loaded.graph);
            let (mut asked, mut drawn) = ([0; 2], [0; 2]);
            for _ in 0..PACKETS {
                let done = loaded.run(&packet, 0).unwrap();
                for (i, node) in nodes.iter().enumerate() {
                    asked[i] += done.counters[*node].evaluated;
                    drawn[i] += done.counters[*node].matched;
                }
            }
            assert_eq!(asked, [PACKETS, drawn[0]], "{ratio} at {hook}");
            for (asked, drawn) in asked.iter().zip(drawn) {
                let expected = share * *asked as f64;
                // Six standard deviations: wrong once in 500 million runs.
                let off = 6.0 * (expected * (1.0 - share)).sqrt();
                assert!(
                    (drawn as f64 - expected).abs() < off,
                    "{ratio} at {hook}: {drawn} of {asked}"
                );
            }
        }
    }
}
