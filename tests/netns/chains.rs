//! One chain of a policy in force is changed, and what is in force can be applied again.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::exchange::mark_and_window;
use super::foreign;
use super::foreign::At;
use super::foreign::Judge;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::Traffic;
use super::traffic::ack;
use super::traffic::probe;

fn chain(name: &str, fields: Value) -> Value {
    let mut chain = json!({ "name": name, "hook": "tc-ingress", "interfaces": ["p0"],
        "act": [{ "record": {} }] });
    let fields = fields.as_object().unwrap().clone();
    chain.as_object_mut().unwrap().extend(fields);
    chain
}

fn shown(rig: &Rig) -> Value {
    rig.run(&["--json", "show"]).ok().json()
}

fn names(rig: &Rig) -> Vec<String> {
    let shown = shown(rig);
    let chains = shown["chains"].as_array().cloned().unwrap_or_default();
    chains
        .iter()
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect()
}

fn changes(rig: &Rig) -> Value {
    let mut changes = rig.status()["applied"]["changes"].clone();
    changes
        .as_object_mut()
        .unwrap()
        .retain(|_, v| *v != json!([]) && *v != json!(false));
    changes
}

#[test]
fn root_chains_change_at_run_time() {
    let rig = Rig::new(1, Tc::Tcx);
    let text = json!({ "version": 1,
        "selectors": { "web": { "dport": { "in": [80] } } },
        "actors": { "watch": [{ "record": {} }] },
        "chains": [chain("a", json!({ "act": [{ "set_mark": { "value": 1 } }] })), chain("b", json!({}))] });
    let path = rig.folder.write("policy.json", text.to_string());
    let path = path.to_str().unwrap();
    rig.run(&["apply", path]).ok();
    assert_eq!(rig.status()["applied"]["from"], json!(path));
    assert_eq!(changes(&rig), json!({}));
    probe(&rig.far, "p0", 3);
    assert_eq!(chain_packets(&rig.status(), "b"), Some(6));

    // Shared sub-policies of the policy in force can be used.
    let c = chain(
        "c",
        json!({ "select": { "use": "web" }, "act": [{ "use": "watch" }] }),
    );
    let plan = rig.feed(&["chain", "add", "-", "--dry-run"], &c.to_string());
    assert_eq!(
        (plan.code, plan.out.lines().next()),
        (Some(3), Some("+ chain c"))
    );
    assert_eq!(names(&rig), ["a", "b"]);
    let added = rig
        .feed(&["chain", "add", "-", "--json"], &c.to_string())
        .ok()
        .json();
    assert_eq!(added["changed"], true);
    assert_eq!(names(&rig), ["a", "b", "c"]);
    assert_eq!(changes(&rig), json!({ "added": ["c"] }));
    probe(&rig.far, "p0", 3);
    let status = rig.status();
    assert_eq!(
        (chain_packets(&status, "b"), chain_packets(&status, "c")),
        (Some(12), Some(6))
    );

    // The place stays.
    let a = rig.folder.write(
        "a.json",
        chain("a", json!({ "act": [{ "set_mark": { "value": 2 } }] })).to_string(),
    );
    rig.run(&["chain", "replace", "a", a.to_str().unwrap()])
        .ok();
    assert_eq!(names(&rig), ["a", "b", "c"]);
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    probe(&rig.far, "p0", 3);
    assert_eq!((judge.read().total, judge.read().mark), (6, 2));
    drop(judge);
    rig.run(&["chain", "disable", "b"]).ok();
    assert_eq!(
        rig.run(&["chain", "disable", "b"]).ok().err,
        "emptcp: nothing to change\n"
    );
    assert_eq!(chain_packets(&rig.status(), "b"), None);
    assert_eq!(
        changes(&rig),
        json!({ "added": ["c"], "replaced": ["a"], "disabled": ["b"] })
    );
    for verb in ["show", "status"] {
        let ran = rig.run(&[verb]).ok();
        let line = format!(
            "emptcp: drift: chain b was disabled after {path} was applied (apply restores it)\n"
        );
        assert!(ran.err.contains(&line), "{}", ran.err);
    }
    rig.run(&["chain", "enable", "b"]).ok();
    rig.run(&["chain", "delete", "a"]).ok();
    assert_eq!(names(&rig), ["b", "c"]);
    assert_eq!(changes(&rig), json!({ "added": ["c"], "deleted": ["a"] }));

    // The file again: its chains, and no other.
    let plan = rig.run(&["apply", "--dry-run", path]);
    assert_eq!(plan.code, Some(3));
    assert!(
        plan.out.starts_with("+ chain a\n- chain c\n"),
        "{}",
        plan.out
    );
    rig.run(&["apply", path]).ok();
    assert_eq!(names(&rig), ["a", "b"]);
    assert_eq!(changes(&rig), json!({}));
    // What is changed back is no drift.
    rig.run(&["chain", "disable", "b"]).ok();
    rig.run(&["chain", "enable", "b"]).ok();
    assert_eq!(changes(&rig), json!({}));
    rig.run(&["chain", "delete", "a"]).ok();
    rig.run(&["chain", "delete", "b"]).ok();
    assert_eq!(rig.attached(), 0);
    assert_eq!(changes(&rig), json!({ "deleted": ["a", "b"] }));
    rig.run(&["delete"]).ok();
    rig.assert_nothing_left();
}

#[test]
fn root_chains_that_are_refused() {
    let rig = Rig::new(1, Tc::Tcx);
    // Without a policy: nothing to change, and a chain can be added.
    rig.run(&["chain", "enable", "a"])
        .fails(&["no chain is named \"a\""]);
    rig.feed(&["chain", "add", "-"], "{}")
        .fails(&["<stdin>:1:1", "\"act\" is missing"]);
    assert!(rig.bpffs.tree().is_empty());
    rig.feed(
        &["chain", "add", "-"],
        &chain("first", json!({})).to_string(),
    )
    .ok();
    assert_eq!(rig.status()["applied"], json!(null));
    let text = json!({ "version": 1, "selectors": { "web": { "dport": { "in": [80] } } },
        "chains": [chain("alpha", json!({})), chain("beta", json!({}))] });
    let path = rig.folder.write("policy.json", text.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let before = (shown(&rig), rig.status()["generation"].clone());
    let refused: [(&[&str], Value, &[&str]); 8] = [
        (
            &["chain", "delete", "betta"],
            json!(null),
            &["no chain is named \"betta\"", "did you mean \"beta\"?"],
        ),
        (
            &["chain", "replace", "gamma", "-"],
            chain("gamma", json!({})),
            &["no chain is named \"gamma\""],
        ),
        (
            &["chain", "replace", "beta", "-"],
            chain("gamma", json!({})),
            &["<stdin>:1:", "expected \"beta\"", "found \"gamma\""],
        ),
        (
            &["chain", "add", "-"],
            chain("beta", json!({})),
            &["<stdin>:1:", "defined twice", "emptcp show --json:"],
        ),
        (
            &["chain", "add", "-"],
            chain("c", json!({ "select": { "use": "wep" } })),
            &["<stdin>:1:", "select.use", "did you mean \"web\"?"],
        ),
        (
            &["chain", "add", "-"],
            chain("c", json!({ "interfaces": ["p7"] })),
            &["<stdin>:1:", "no interface \"p7\""],
        ),
        (
            &["chain", "add", "-"],
            text.clone(),
            &["<stdin>:1:", "unknown field \"version\""],
        ),
        (
            &["chain", "add", "/nowhere"],
            json!(null),
            &["/nowhere: cannot be read"],
        ),
    ];
    for (args, input, words) in refused {
        rig.feed(args, &input.to_string()).fails(words);
        let json = rig.feed(&[&["--json"], args].concat(), &input.to_string());
        assert_eq!((json.code, &json.json()["valid"]), (Some(1), &json!(false)));
        assert_eq!((shown(&rig), rig.status()["generation"].clone()), before);
    }
    assert_eq!(rig.run(&["chain", "remove", "beta"]).code, Some(2));
}

/// All at once: no change gets lost, for each is made from what is in force when it comes.
#[test]
fn root_chains_are_added_at_the_same_time() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.apply(&json!([chain("base", json!({}))])).ok();
    let files: Vec<String> = (0..4)
        .map(|n| {
            let name = format!("c{n}");
            let path = rig.folder.write(&name, chain(&name, json!({})).to_string());
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let mut running: Vec<_> = files
        .iter()
        .map(|file| rig.emptcp(&["chain", "add", file]).spawn().unwrap())
        .collect();
    for child in &mut running {
        assert!(child.wait().unwrap().success());
    }
    let mut names = names(&rig);
    names.sort();
    assert_eq!(names, ["base", "c0", "c1", "c2", "c3"]);
}

/// Under traffic: every packet is treated by the policy before or the one after.
#[test]
fn root_chains_are_replaced_under_traffic() {
    let mut rig = Rig::new(1, Tc::Tcx);
    rig.modules = Some(foreign::modules(&rig.folder));
    let chains = |k: u32| mark_and_window(&json!(["p0"]), k, k);
    rig.apply(&chains(1)).ok();
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    let frames = emptcp_test::hosts::Family::ALL
        .map(|family| ack(family, 80))
        .into();
    let traffic = Traffic::start(&rig.far, "p0", frames, 20_000);
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..5 {
        for (verb, name) in [("disable", "torn"), ("enable", "torn")] {
            rig.run(&["chain", verb, name]).ok();
        }
    }
    traffic.finish();
    let judged = judge.read();
    assert!(judged.total > 1000, "{judged:?}");
    assert_eq!((judged.untreated, judged.mixed), (0, 0), "{judged:?}");
}

/// What `show --json` prints is in force: applying it changes nothing.
#[test]
fn root_what_is_shown_is_in_force() {
    let rig = Rig::new(2, Tc::Tcx);
    let all: [Value; 14] = [
        json!({}),
        json!({ "comment": "line\nline \u{1f600} \" \\" }),
        json!({ "hook": ["tc-egress", "tc-ingress"], "interfaces": ["p*", { "name": "wwan7", "optional": true }] }),
        json!({ "hook": ["xdp", "tc-egress"], "xdp": { "mode": "generic" }, "position": "first" }),
        json!({ "hook": "xdp", "xdp": { "mode": "native", "replace": true, "trust_checksums": true } }),
        json!({ "hook": "xdp", "xdp": { "mode": "auto" }, "priority": 0, "enabled": true, "zone": 0, "on_error": "pass" }),
        json!({ "priority": -5, "zone": 7, "on_error": "drop" }),
        json!({ "enabled": false, "select": {} }),
        json!({ "select": { "all": [] } }),
        json!({ "select": { "any": [] } }),
        json!({ "select": { "not": { "any": [{ "mptcp": {} }, { "all": [{ "use": "deep" }, { "not": { "use": "web" } }] }] } } }),
        json!({ "act": [{ "use": "watch" }, { "set_mark": { "value": "0xff", "mask": 255 } }, { "use": "end" }] }),
        json!({ "select": { "all": [{ "src": { "in": "10.0.0.0/8" } }, { "dport": { "in": ["22", 80, "8000-8010"] } },
            { "tcp": { "flags": "ack", "not_flags": ["syn", "rst"] } }] } }),
        json!({ "act": [{ "set_recv_win": { "bytes": 1.5e3, "floor": "0.5KiB", "wscale": 7 } }] }),
    ];
    let many: Vec<_> = (1..100).map(|n| format!("10.{n}.0.0/16")).collect();
    let mut policies: Vec<Value> = all
        .iter()
        .map(|fields| json!({ "version": 1, "chains": [chain("c", fields.clone())] }))
        .collect();
    policies.push(json!({ "version": 1, "chains": [] }));
    policies.push(json!({ "version": 1, "chains": [chain("long", json!({ "select": { "src": { "in": many } } }))] }));
    // Two of them, as fragments and as one.
    policies.push(json!({ "version": 1, "$schema": "s", "comment": "c", "limits": { "subflows": 5 },
        "tables": { "private": { "type": "prefix", "elements": ["10.0.0.0/8", "fc00::/7"] },
                    "rates": { "type": "prefix", "value": "ratio", "size": 9, "default": 0.1, "timeout": "90s" } },
        "chains": [chain("z", json!({})), chain("y", json!({ "interfaces": ["p1"] }))] }));
    let shared = json!({ "web": { "dport": { "in": [80] } }, "deep": { "any": [{ "use": "web" }, { "mptcp": {} }] } });
    let actors =
        json!({ "watch": [{ "record": {} }], "end": [{ "use": "watch" }, { "accept": {} }] });
    for (number, policy) in policies.iter_mut().enumerate() {
        let text = policy.to_string();
        for (section, all) in [("selectors", &shared), ("actors", &actors)] {
            if text.contains("\"use\"") {
                policy[section] = all.clone();
            }
        }
        let folder = rig.folder.0.join(format!("p{number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("20-own.json"), policy.to_string()).unwrap();
        let other = json!({ "version": 1, "comment": "o", "chains": [chain("b", json!({ "interfaces": ["p1"] }))] });
        fs::write(folder.join("10-other.json"), other.to_string()).unwrap();
        rig.run(&["apply", folder.to_str().unwrap()]).ok();
        let again = |what: &str, args: &[&str]| {
            let shown = rig.run(&["--json", "show"]).ok().out;
            let generation = rig.status()["generation"].clone();
            let plan = rig.feed(&[&["apply", "--dry-run"], args].concat(), &shown);
            assert_eq!(
                plan.code,
                Some(0),
                "{what}: {policy}: {}{}",
                plan.out,
                plan.err
            );
            let ran = rig.feed(&[&["apply"], args].concat(), &shown).ok();
            assert_eq!(ran.err, "emptcp: nothing to change\n", "{what}: {policy}");
            assert_eq!(rig.run(&["--json", "show"]).ok().out, shown);
            assert_eq!(rig.status()["generation"], generation);
        };
        again("the same", &[folder.to_str().unwrap()]);
        // Changed at run time: it is the policy from now on.
        rig.run(&["chain", "disable", "b"]).ok();
        assert_eq!(changes(&rig), json!({ "disabled": ["b"] }));
        again("what is shown", &["-"]);
        assert_eq!(changes(&rig), json!({}));
        assert_eq!(rig.status()["applied"]["from"], "-");
    }
}
