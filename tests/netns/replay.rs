// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Replays beside a policy in force, and of policies that one run does not hold.

use std::fs;

use emptcp_test::Framing;
use emptcp_test::hosts::Family;
use emptcp_test::pcap;
use serde_json::Value;
use serde_json::json;

use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::ack;
use super::traffic::probe;

/// A capture of Ethernet frames.
fn capture(rig: &Rig, frames: &[&[u8]]) -> String {
    let frames = frames.iter().map(|frame| (Framing::Ethernet, *frame));
    let path = rig.folder.write("in.pcapng", pcap::write(frames));
    path.to_str().unwrap().to_owned()
}

/// Lines of `--json --explain`: packets, and the sums.
fn explain(rig: &Rig, args: &[&str]) -> Vec<Value> {
    let args = [&["--json", "replay", "--explain"], args].concat();
    let out = rig.run(&args).ok().out;
    out.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Counters, tables, state, pins and attachments of the policy in force stay as they are, and so do
/// the interfaces.
#[test]
fn root_a_policy_in_force_is_not_touched() {
    let rig = Rig::new(1, Tc::Tcx);
    let policy = json!({ "version": 1,
        "tables": { "seen": { "type": "port", "elements": [9] }, "kept": { "type": "addr" } },
        "chains": [
            { "name": "count", "hook": "tc-ingress", "interfaces": ["p0"], "priority": 1,
              "select": { "not": { "dport": { "table": "seen" } } }, "act": [{ "record": {} }] },
            { "name": "drop", "hook": "tc-ingress", "interfaces": ["p0"],
              "select": { "src": { "table": "kept" } }, "act": [{ "drop": {} }] }] });
    let path = rig.folder.write("policy.json", policy.to_string());
    let path = path.to_str().unwrap();
    rig.run(&["apply", path]).ok();
    rig.run(&["table", "add", "kept", "203.0.113.7"]).ok();
    probe(&rig.far, "p0", 5);
    let look = || {
        let json = |args: &[&str]| rig.run(&[&["--json"], args].concat()).ok().json();
        (
            json(&["status", "--state"]),
            json(&["show"]),
            json(&["table", "show", "kept"]),
            rig.bpffs.tree(),
            rig.attached(),
            // Their names: the carrier may still be on its way.
            rig.near.sh("ip -o link | cut -d: -f1,2"),
        )
    };
    let before = look();
    assert_eq!(chain_packets(&before.0, "count"), Some(10));
    let frames: Vec<Vec<u8>> = [80, 9, 443].map(|port| ack(Family::Ip4, port)).into();
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let lines = explain(&rig, &[path, &capture(&rig, &frames)]);
    // The table of the file is there, that of run time is empty.
    assert_eq!(lines[3]["sums"]["passed"], 3);
    let counted: Vec<&Value> = lines[3]["steps"].as_array().unwrap().iter().collect();
    let of = |module: &str| counted.iter().find(|s| s["module"] == module).unwrap();
    assert_eq!(of("record")["counters"]["matched"], 2);
    assert_eq!(of("src")["counters"]["matched"], 0);
    assert_eq!(look(), before);
    probe(&rig.far, "p0", 5);
    assert_eq!(chain_packets(&rig.status(), "count"), Some(20));
}

/// A policy that is split does to packets what it does in one run: marks reach later parts, accept
/// keeps packets from them, what cannot be parsed is counted once.
#[test]
fn root_parts_are_as_one() {
    let mut rig = Rig::new(1, Tc::Tcx);
    let chain = |name: &str, priority: u32, select: Value, act: Value| {
        json!({ "name": name, "hook": "tc-ingress", "interfaces": ["p0"], "priority": priority,
            "select": select, "act": act })
    };
    let port = |port: &str| json!({ "dport": { "in": [port] } });
    let chains = json!([
        chain(
            "mark",
            1,
            port("80"),
            json!([{ "set_mark": { "value": 5 } }])
        ),
        chain(
            "out",
            2,
            port("443"),
            json!([{ "record": {} }, { "accept": {} }])
        ),
        chain(
            "marked",
            3,
            json!({ "mark": { "value": 5 } }),
            json!([{ "record": {} }, { "accept": {} }])
        ),
        chain("hops", 4, json!([]), json!([{ "set_field": { "ttl": 3 } }])),
        chain("rest", 5, port("9"), json!([{ "drop": {} }])),
    ]);
    let mut chains = chains;
    chains[3].as_object_mut().unwrap().remove("select");
    let frames: Vec<Vec<u8>> = [80, 443, 9, 22].map(|port| ack(Family::Ip4, port)).into();
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let capture = capture(&rig, &[&frames[..], &[&frames[0][..44]]].concat());
    let out = rig.folder.0.join("out.pcapng");
    let to = out.to_str().unwrap();
    for on_error in ["pass", "drop"] {
        chains[4]["on_error"] = json!(on_error);
        let policy = rig.policy("split.json", &chains);
        let mut all = Vec::new();
        for (calls, parts) in [(None, 1), (Some(4), 2), (Some(3), 4)] {
            rig.calls = calls;
            let check = rig.run(&["--json", "check", &policy]).ok().json();
            let found = check["attachments"].as_array().unwrap().len();
            assert!(found >= parts, "{found} parts");
            let lines = explain(&rig, &[&policy, &capture, "-o", to]);
            all.push((lines, fs::read(&out).unwrap()));
        }
        let lines = &all[0].0;
        let verdicts: Vec<&str> = lines[..5]
            .iter()
            .map(|l| l["verdict"].as_str().unwrap())
            .collect();
        assert_eq!(verdicts, ["pass", "pass", "drop", "pass", on_error]);
        let edited: Vec<&Value> = lines[..5].iter().map(|l| &l["edited"]).collect();
        assert_eq!(edited, [false, false, false, true, false]);
        assert_eq!(lines[5]["reasons"], json!({ "truncated": 1 }));
        for other in &all[1..] {
            let tested = |l: &Value| -> Vec<Value> {
                // Tests that an earlier part has made are made again.
                let steps = l["steps"].as_array().unwrap().iter();
                let acts = steps.filter(|s| s["step"].as_str().unwrap().starts_with("act"));
                acts.cloned().collect()
            };
            for (one, split) in lines.iter().zip(&other.0) {
                assert_eq!(tested(one), tested(split));
                for key in ["verdict", "edited", "reasons", "sums"] {
                    assert_eq!(one[key], split[key], "{key}");
                }
            }
            assert_eq!(all[0].1, other.1);
        }
    }
}
