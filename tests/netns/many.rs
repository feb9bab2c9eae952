// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Many chains at one hook.

use std::os::fd::OwnedFd;

use emptcp_test::hosts::Family;
use serde_json::Value;
use serde_json::json;

use super::foreign;
use super::raw;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::SPORT;
use super::traffic::ack;
use super::traffic::probe;
use super::traffic::send;

fn step<'a>(status: &'a Value, key: &str) -> &'a Value {
    let chains = status["chains"].as_array().unwrap().iter();
    let mut steps = chains.flat_map(|chain| chain["steps"].as_array().unwrap());
    steps.find(|step| step["step"] == key).unwrap()
}

/// A test that the chain before has made is not made again, and `status` says where it counts.
#[test]
fn root_chains_share_tests() {
    let rig = Rig::new(2, Tc::Tcx);
    let chain = |name: &str, interfaces: Value, port: &str, act: Value| {
        json!({ "name": name, "hook": "tc-ingress", "interfaces": interfaces,
            "select": { "all": [{ "tcp": { "flags": ["ack"] } }, { "dport": { "in": [port] } }] },
            "act": act })
    };
    let record = json!([{ "record": {} }]);
    let mark = json!([{ "set_mark": { "value": 1 } }]);
    rig.apply(&json!([
        chain("a", json!(["p0"]), "9", record.clone()),
        chain("b", json!(["p0"]), "80", mark),
        chain("c", json!(["p0", "p1"]), "80", record),
    ]))
    .ok();
    probe(&rig.far, "p0", 10);
    let status = rig.status();
    let packets = ["a", "b", "c"].map(|chain| chain_packets(&status, chain));
    assert_eq!(packets, [Some(0), Some(20), Some(20)]);
    let first = step(&status, "a/select/all[0]");
    assert_eq!(first["evaluated"], 20);
    assert_eq!(first["shared_with"], Value::Null);
    let shared = step(&status, "b/select/all[0]");
    assert_eq!(shared["shared_with"], json!(["a/select/all[0]"]));
    assert_eq!(shared["only_shared"], true);
    assert_eq!(
        (&shared["evaluated"], &shared["matched"]),
        (&json!(20), &json!(20))
    );
    // Behind set_mark it is made again, and on p1 by nobody else.
    let again = step(&status, "c/select/all[0]");
    assert_eq!(again["shared_with"], json!(["a/select/all[0]"]));
    assert_eq!(again["only_shared"], Value::Null);
    assert_eq!(again["evaluated"], 20);
    probe(&rig.far, "p1", 10);
    let status = rig.status();
    assert_eq!(step(&status, "c/select/all[0]")["evaluated"], 40);
    let text = rig.run(&["status"]).ok().out;
    let row = text.lines().find(|line| line.starts_with("b ")).unwrap();
    assert!(row.ends_with("  a/select/all[0]"), "{text}");
}

/// The first chain accepts port 80, the second counts what comes to it; each is a part.
fn accept_and_count(hook: &str) -> Value {
    json!([
        { "name": "a", "hook": hook, "interfaces": ["p0"], "select": { "dport": { "in": ["80"] } },
            "act": [{ "record": {} }, { "accept": {} }] },
        { "name": "b", "hook": hook, "interfaces": ["p0"], "act": [{ "record": {} }] },
    ])
}

/// A packet to each of the ports 80 to 83, in both families; what the chains counted since.
fn counted(rig: &Rig) -> [u64; 2] {
    let read = || {
        let status = rig.status();
        ["a", "b"].map(|chain| chain_packets(&status, chain).unwrap())
    };
    let before = read();
    for port in 80..84 {
        for family in Family::ALL {
            send(&rig.far, "p0", &ack(family, port));
        }
    }
    let now = read();
    [now[0] - before[0], now[1] - before[1]]
}

/// Programs of status, in its order.
fn programs(status: &Value) -> Vec<u32> {
    let all = status["attachments"].as_array().unwrap().iter();
    all.map(|a| a["program"].as_u64().unwrap() as u32).collect()
}

/// A program of others between two parts, as long as the value lives.
fn meddle(rig: &Rig) -> Option<OwnedFd> {
    let program = foreign::program(&foreign::load(), "meddle");
    let index = rig.near.ifindex("p0");
    let later = programs(&rig.status())[1];
    rig.near.within(|| match rig.tc {
        Tc::Tcx => Some(raw::tcx_ingress_before(&program, index, later)),
        Tc::Clsact => {
            foreign::filter(&program, index, 50_001);
            None
        }
    })
}

/// What one part accepts the later ones do not see, whatever stands between them.
#[test]
fn root_accept_ends_all_parts() {
    for tc in Tc::ALL {
        let mut rig = Rig::new(1, tc);
        rig.calls = Some(3);
        rig.apply(&accept_and_count("tc-ingress")).ok();
        let status = rig.status();
        assert_eq!(rig.attached(), 2);
        let parts = |field: &str| {
            status["attachments"]
                .as_array()
                .unwrap()
                .iter()
                .map(|a| a[field].as_u64().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!((parts("part"), parts("parts")), (vec![1, 2], vec![2, 2]));
        assert!(
            rig.run(&["status"])
                .ok()
                .out
                .contains("tc-ingress part 2 of 2")
        );
        assert_eq!(counted(&rig), [2, 6], "{tc:?}");
        // It drops port 82, and scribbles over what packets carry.
        let _link = meddle(&rig);
        assert_eq!(counted(&rig), [2, 4], "{tc:?}");
        assert_eq!(rig.status()["reasons"], json!({}));
        // Without a split, after it and back.
        rig.calls = None;
        rig.apply(&accept_and_count("tc-ingress")).ok();
        assert_eq!(rig.attached(), 1);
        rig.calls = Some(3);
        rig.apply(&accept_and_count("tc-ingress")).ok();
        assert_eq!(rig.attached(), 2);
        rig.run(&["delete"]).ok();
        assert_eq!(rig.attached(), 0);
    }
}

/// A part that somebody removed comes back in its place.
#[test]
fn root_parts_are_mended() {
    for position in ["last", "first"] {
        let mut rig = Rig::new(1, Tc::Tcx);
        rig.calls = Some(3);
        let mut chains = accept_and_count("tc-ingress");
        chains[0]["position"] = json!(position);
        rig.apply(&chains).ok();
        let index = rig.near.ifindex("p0");
        let order = || rig.near.within(|| raw::tcx_ingress_entries(index));
        let pins = format!("{}/links", rig.status()["pins"].as_str().unwrap());
        let mut links: Vec<_> = std::fs::read_dir(&pins)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        links.sort();
        assert_eq!(links.len(), 2);
        for link in &links {
            assert_eq!(order(), programs(&rig.status()));
            std::fs::remove_file(link).unwrap();
            let drift = rig.status()["drift"].to_string();
            assert!(
                drift.contains(" of 2: nothing of emptcp is attached"),
                "{drift}"
            );
            rig.apply(&chains).ok();
            let status = rig.status();
            assert_eq!(status["drift"], json!([]));
            assert_eq!(order(), programs(&status), "{position}");
            assert_eq!(counted(&rig), [2, 6]);
        }
    }
}

/// A later part that meets a packet of which the first has said nothing lets it pass, or drops it
/// where a chain wants that, and counts.
#[test]
fn root_handover_that_is_missing() {
    for (on_error, passed) in [("pass", 8), ("drop", 0)] {
        let mut rig = Rig::new(1, Tc::Tcx);
        rig.calls = Some(3);
        let mut chains = accept_and_count("tc-ingress");
        chains[1]["on_error"] = json!(on_error);
        rig.apply(&chains).ok();
        // What the first part leaves is for these packets, also where the next ones lie at the
        // addresses of these.
        assert_eq!(counted(&rig), [2, 6]);
        let judge = foreign::Judge::new(&rig.near, "p0", foreign::At::Filter(60_000), true);
        let pins = rig.status()["pins"].as_str().unwrap().to_owned();
        std::fs::remove_file(format!(
            "{pins}/links/{}-tc-ingress",
            rig.near.ifindex("p0")
        ))
        .unwrap();
        assert_eq!(counted(&rig), [0, 0]);
        assert_eq!(judge.read().total, passed);
        assert_eq!(
            rig.status()["reasons"],
            json!({ "tc-ingress": { "handover": 8 } })
        );
    }
}

/// So many steps, each of them a call of its own: a chain for each number.
fn of_calls(hook: &str, chains: &[usize]) -> Value {
    let chain = |(i, calls): (usize, &usize)| {
        let solos: Vec<_> = (0..calls - 1)
            .map(|n| json!({ "solo": { "n": n + i * 100 } }))
            .collect();
        json!({ "name": format!("c{i}"), "hook": hook, "interfaces": ["p0"],
            "select": { "all": solos }, "act": [{ "record": {} }] })
    };
    chains
        .iter()
        .enumerate()
        .map(chain)
        .collect::<Vec<_>>()
        .into()
}

/// The kernel makes 33 calls, and so do we.
#[test]
fn root_33_and_34_calls() {
    for tc in Tc::ALL {
        let mut rig = Rig::new(1, tc);
        rig.modules = Some(foreign::modules(&rig.folder));
        for (hook, calls, parts) in [
            ("xdp", vec![33], 1),
            ("xdp", vec![16, 17], 1),
            ("tc-ingress", vec![33], 1),
            ("tc-ingress", vec![17, 16], 1),
            ("tc-ingress", vec![17, 17], 2),
            ("tc-ingress", vec![33, 33, 33], 3),
        ] {
            rig.apply(&of_calls(hook, &calls)).ok();
            let check = rig.run(&[
                "--json",
                "check",
                rig.folder.0.join("policy.json").to_str().unwrap(),
            ]);
            assert_eq!(
                check.ok().json()["attachments"].as_array().unwrap().len(),
                parts
            );
            assert_eq!(rig.attached(), parts, "{hook} {calls:?}");
            let before = rig.status();
            probe(&rig.far, "p0", 5);
            let status = rig.status();
            for chain in 0..calls.len() {
                let name = format!("c{chain}");
                let counted = |status| chain_packets(status, &name).unwrap();
                assert_eq!(
                    counted(&status) - counted(&before),
                    10,
                    "{hook} {calls:?} {name}"
                );
            }
            assert_eq!(status["reasons"], json!({}), "{hook} {calls:?}");
        }
        for (hook, calls, words) in [
            (
                "xdp",
                vec![34],
                "c0/act[0] is the first step that does not fit: chain c0: solo",
            ),
            (
                "xdp",
                vec![17, 17],
                "c1/act[0] is the first step that does not fit: chain c0: solo",
            ),
            (
                "tc-ingress",
                vec![2, 34],
                "c1/act[0] is the first step that does not fit: chain c1: solo",
            ),
        ] {
            let path = rig.policy("long.json", &of_calls(hook, &calls));
            for verb in ["check", "apply"] {
                let words = [
                    words,
                    "can take 34 tail calls, but the kernel makes 33 in one run",
                ];
                rig.run(&[verb, &path]).fails(&words);
            }
        }
        assert_eq!(rig.attached(), 3);
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// Each of many chains selects its port, and nothing else.
fn many_chains(hook: &str, count: u16, calls: Option<u32>, parts: usize) {
    let mut rig = Rig::new(1, Tc::Tcx);
    rig.calls = calls;
    let chains: Vec<_> = (0..count)
        .map(|n| {
            json!({ "name": format!("c{n}"), "hook": hook, "interfaces": ["p0"],
                "select": { "all": [
                    { "sport": { "in": [SPORT] } }, { "dport": { "in": [1000 + n] } } ] },
                "act": [{ "record": {} }] })
        })
        .collect();
    rig.apply(&chains.into()).ok();
    for n in 0..count {
        for family in Family::ALL {
            send(&rig.far, "p0", &ack(family, 1000 + n));
        }
    }
    let status = rig.status();
    for n in 0..count {
        assert_eq!(
            chain_packets(&status, &format!("c{n}")),
            Some(2),
            "{hook} c{n}"
        );
    }
    assert_eq!(status["reasons"], json!({}));
    assert_eq!(
        step(&status, "c0/select/all[0]")["evaluated"],
        2 * u64::from(count)
    );
    assert_eq!(rig.attached(), parts);
}

#[test]
fn root_64_chains_at_tc() {
    many_chains("tc-ingress", 64, None, 1);
    // As if no step could be joined with another.
    many_chains("tc-ingress", 64, Some(33), 4);
}

#[test]
fn root_24_chains_at_xdp() {
    many_chains("xdp", 24, None, 1);
}
