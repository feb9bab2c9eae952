// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The subflows of each connection of a tenant in turn over two uplinks, and what becomes of them when
//! one goes down.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::reader::Reader;
use super::rig::wait_for;
use super::tenant::Stand;

/// What packets may be lost for, when a link goes down, in most cases.
const SOON: Duration = Duration::from_secs(1);
/// And on a machine that has other things to do.
const LATEST: Duration = Duration::from_secs(4);

/// Turns of two, an uplink each; where it is down, whichever is up.
fn policy() -> Value {
    let chain = |name: &str, link: u32, priority: u32, select: Value| {
        json!({ "name": name, "hook": "tc-ingress", "interfaces": ["t0"],
            "priority": priority, "select": select, "while_up": [format!("p{link}")],
            "act": [{ "redirect": { "to": format!("p{link}"), "via": format!("fd77:{link}::1") } }] })
    };
    json!([
        chain("first", 0, 0, json!({ "turn": { "of": 2, "max": 0 } })),
        chain("second", 1, 0, json!({ "turn": { "of": 2, "min": 1 } })),
        chain("else-first", 0, 10, json!({ "tcp": {} })),
        chain("else-second", 1, 10, json!({ "tcp": {} })),
    ])
}

#[test]
fn root_uplinks_in_turn() {
    let stand = Stand::new();
    for (server, second) in [("10.77.0.1", "10.77.0.100"), ("fd77:0::1", "fd77:0::100")] {
        stand.rig.far.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        stand.rig.run(&["delete"]).ok();
        let what = format!("no policy, {server}");
        let [_, carried] = stand.connect(&what, server, || ());
        assert!(carried[0] < 10, "{what}: {carried:?}");
        stand.rig.apply(&policy()).ok();
        for _ in 0..8 {
            let carried = stand.connect(server, server, || ());
            assert!(
                carried.iter().all(|[out, _]| *out >= 8),
                "{server}: {carried:?}"
            );
        }
    }
    let status = stand.rig.status();
    assert_eq!(status["reasons"], json!({}));
    for chain in status["chains"].as_array().unwrap() {
        let rest = chain["name"].as_str().unwrap().starts_with("else");
        let used = chain["packets"].as_u64().unwrap() > 0;
        assert!(
            rest != used || chain["name"].as_str().unwrap().starts_with('@'),
            "{chain}"
        );
    }
}

#[test]
fn root_uplinks_go_down() {
    let stand = Stand::new();
    let near = &stand.rig.near;
    // Neighbours find each other as soon as the link is up again.
    for netns in [near, &stand.rig.far] {
        netns.sh("for conf in all p1; do \
             sysctl -qw net.ipv6.conf.$conf.keep_addr_on_down=1 \
             net.ipv6.conf.$conf.accept_dad=0; done");
    }
    stand.rig.apply(&policy()).ok();
    let _daemon = Reader::start(&stand.rig, "run", &["run"]);
    let in_force = |name: &str| {
        let status = stand.rig.status();
        let attachments = status["attachments"].as_array().unwrap().clone();
        let mut chains = attachments
            .iter()
            .flat_map(|a| a["chains"].as_array().unwrap());
        chains.any(|chain| chain == name)
    };
    let mut times = Vec::new();
    for (server, second) in [("10.77.0.1", "10.77.0.100"), ("fd77:0::1", "fd77:0::100")] {
        stand.rig.far.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        // Down by itself, and without a carrier: the far end of a veth is.
        for (end, how) in [(near, "down"), (&stand.rig.far, "no carrier")] {
            for _ in 0..3 {
                let what = format!("{server}, {how}");
                let carried = stand.connect(&what, server, || {
                    end.sh("ip link set p1 down");
                    let start = Instant::now();
                    wait_for("the chain waits", LATEST, || !in_force("second"));
                    println!("{what}: another way after {:?}", start.elapsed());
                    times.push(start.elapsed());
                });
                // Handshakes; the data that followed went by the other one.
                assert!(
                    carried[1][0] < 20 && carried[0][0] > 20,
                    "{what}: {carried:?}"
                );
                let again = stand.rig.apply(&policy()).ok();
                assert!(again.err.contains("nothing to change"), "{}", again.err);
                end.sh("ip link set p1 up");
                wait_for("the chain is in force again", LATEST, || in_force("second"));
                let what = format!("{what}: up again");
                let carried = stand.connect(&what, server, || ());
                assert!(
                    carried.iter().all(|[out, _]| *out >= 8),
                    "{what}: {carried:?}"
                );
            }
        }
    }
    // None of the two ways is slow: each has half of the times.
    times.sort();
    assert!(times[times.len() / 2] < SOON, "{times:?}");
    // One that is not there at all.
    near.sh("ip link del p1");
    wait_for("the chain waits", LATEST, || !in_force("second"));
    let changed = json!([{ "name": "other", "hook": "tc-ingress", "interfaces": ["t0"],
        "while_up": ["p1"], "act": [{ "redirect": { "to": "p1" } }] }]);
    let applied = stand.rig.apply(&changed).ok();
    let waits = "the chain \"other\" waits until p1 is up";
    assert!(applied.err.contains(waits), "{}", applied.err);
}
