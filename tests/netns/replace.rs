// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! ACKs that have no room for an option, on connections of Multipath TCP that lose packets: one of
//! them gives up its SACK blocks, or its DSS, and nothing else comes of it.

use serde_json::Value;
use serde_json::json;

use super::grow::Ends;
use super::grow::LIMIT;
use super::grow::SIZE;
use super::grow::Sender;
use super::grow::chain;
use super::grow::runs_of;
use super::mptcp::counter;
use super::mptcp::subflows;
use super::rig::wait_for;

/// Of the reason `replaced`.
fn replaced(ends: &Ends, hook: &str) -> u64 {
    let reasons = &ends.0.status()["reasons"];
    reasons[hook]["replaced"].as_u64().unwrap_or_default()
}

/// A tenth of the data that arrives at this end is lost, so that its ACKs have SACK blocks.
fn loss() -> Value {
    json!({ "name": "lose", "hook": "tc-ingress", "interfaces": ["p0", "p1"], "priority": 1,
        "select": { "all": [{ "length": { "min": 1000 } }, { "sample": { "ratio": "10%" } }] },
        "act": [{ "drop": {} }] })
}

/// Into an ACK with SACK blocks, at a hook of the client. With timestamps there is one beside the DSS,
/// and 36 bytes of options; without there are up to three, and 40.
fn in_an_ack_with_sack(hook: &str, sender: Sender, timestamps: bool) {
    let ends = Ends::new();
    for netns in [&ends.0.near, &ends.0.far] {
        netns.sh(&format!(
            "sysctl -qw net.ipv4.tcp_timestamps={}",
            u8::from(timestamps)
        ));
        // Holes of single packets.
        netns.sh("for p in p0 p1; do ethtool -K $p tso off gso off gro off; done");
    }
    if sender == Sender::Near {
        let path = ends.0.policy("lose.json", &json!([loss()]));
        let mut apply = ends.0.emptcp_in(&ends.0.far, &["apply", &path]);
        assert!(apply.status().unwrap().success());
    }
    let (module, act, len) = match timestamps {
        false => (
            "set_flow_prio",
            json!({ "set_flow_prio": { "backup": true } }),
            60,
        ),
        true => {
            let option = json!({ "option": "mp_experimental", "data": [1, 2, 3, 4, 5] });
            ("inject", json!({ "inject": option }), 56)
        }
    };
    runs_of(&ends, 2, |what, v6| {
        let what = format!("{hook}, timestamps {timestamps}, {what}");
        let mut connection = ends.connect(v6);
        let errors = ends.errors();
        let received = || counter(ends.netns(sender), "MPTcpExtMPPrioRx");
        let before = received();
        let len = len + if v6 { 40 } else { 20 };
        let mut add = chain("add", hook, &["p1"], &act);
        add["select"] = json!({ "all": [{ "mptcp": {} },
            { "length": { "of": "packet", "min": len, "max": len } },
            { "packet_type": { "any": ["pure_ack"] } }] });
        let mut chains = vec![add];
        if sender == Sender::Far {
            chains.push(loss());
        }
        ends.apply(&chains);
        wait_for("an ACK with SACK blocks", LIMIT, || {
            connection.send(sender, SIZE);
            ends.treated(module).0 > 0
        });
        connection.send(sender, 2 * SIZE);
        connection.send(sender.other(), SIZE);
        let (treated, refused) = ends.treated(module);
        println!("{what}: {treated} ACKs, {refused} refused");
        assert_eq!((treated, refused), (1, 0), "{what}");
        assert_eq!(replaced(&ends, hook), 1, "{what}");
        assert_eq!(received() - before, u64::from(!timestamps), "{what}");
        assert!(!connection.fell_back(), "{what}");
        assert_eq!(subflows(&ends.0.near), 2, "{what}");
        assert_eq!(ends.errors(), errors, "{what}");
        drop(connection);
        ends.0.run(&["delete"]).ok();
    });
}

#[test]
fn root_replace_sack_blocks_at_egress() {
    for timestamps in [false, true] {
        in_an_ack_with_sack("tc-egress", Sender::Far, timestamps);
    }
}

#[test]
fn root_replace_sack_blocks_at_ingress() {
    for timestamps in [false, true] {
        in_an_ack_with_sack("tc-ingress", Sender::Near, timestamps);
    }
}

/// As many bytes as the longest announcement of IPv6 takes: no ACK with timestamps and DSS has them.
#[test]
fn root_replace_a_dss() {
    let ends = Ends::new();
    let data: Vec<u8> = (1..=25).collect();
    let act = json!({ "inject": { "option": "mp_experimental", "data": data } });
    for (hook, sender) in [("tc-egress", Sender::Far), ("tc-ingress", Sender::Near)] {
        runs_of(&ends, 2, |what, v6| {
            let what = format!("{hook}, {what}");
            let mut connection = ends.connect(v6);
            let errors = ends.errors();
            ends.apply(&[chain("long", hook, &["p0"], &act)]);
            wait_for("the option", LIMIT, || {
                connection.send(sender, SIZE);
                ends.treated("inject").0 > 0
            });
            connection.send(sender, 2 * SIZE);
            connection.send(sender.other(), SIZE);
            assert_eq!(ends.treated("inject").0, 1, "{what}");
            assert_eq!(replaced(&ends, hook), 1, "{what}");
            assert!(!connection.fell_back(), "{what}");
            assert_eq!(subflows(&ends.0.near), 2, "{what}");
            assert_eq!(ends.errors(), errors, "{what}");
            drop(connection);
            ends.0.run(&["delete"]).ok();
        });
    }
}
