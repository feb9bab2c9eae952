//! Programs of others at the same interface.

use serde_json::Value;
use serde_json::json;

use super::foreign;
use super::foreign::At;
use super::foreign::Judge;
use super::raw;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::probe;

fn chain(select: Value, act: Value) -> Value {
    json!([{ "name": "c", "hook": "tc-ingress", "interfaces": ["p0"], "select": select,
        "act": act }])
}

/// Programs before and behind ours see the packets that they would see without us.
#[test]
fn root_foreign_programs_count_the_same() {
    let all: Value = json!({ "tcp": {} });
    let miss = json!({ "dport": { "in": ["9"] } });
    let cases = [
        (None, 1),
        (Some(chain(all.clone(), json!([{ "accept": {} }]))), 1),
        (Some(chain(miss, json!([{ "accept": {} }]))), 1),
        (
            Some(chain(all.clone(), json!([{ "set_mark": { "value": 7 } }]))),
            1,
        ),
        (Some(chain(all, json!([{ "drop": {} }]))), 0),
    ];
    for tc in Tc::ALL {
        let rig = Rig::new(1, tc);
        let places = match tc {
            // TCX programs, then the filters of tc.
            Tc::Tcx => [At::TcxFirst, At::TcxLast, At::Filter(10)],
            Tc::Clsact => [At::Filter(10), At::Filter(49_999), At::Filter(50_001)],
        };
        // One is there before us, the last comes when we are there.
        let before = Judge::new(&rig.near, "p0", places[0], false);
        let early = (tc == Tc::Clsact).then(|| Judge::new(&rig.near, "p0", places[1], false));
        rig.apply(&chain(json!({ "tcp": {} }), json!([{ "record": {} }])))
            .ok();
        let late = (tc == Tc::Tcx).then(|| Judge::new(&rig.near, "p0", places[1], false));
        let behind = Judge::new(&rig.near, "p0", places[2], true);
        for (policy, passes) in &cases {
            match policy {
                Some(chains) => rig.apply(chains).ok(),
                None => rig.run(&["delete"]).ok(),
            };
            let judges = [Some(&before), early.as_ref(), late.as_ref(), Some(&behind)];
            let read = || judges.map(|j| j.map_or(0, |j| j.read().total));
            let start = read();
            probe(&rig.far, "p0", 10);
            let now = read();
            // TCX: a policy that is applied anew stands behind those that were there.
            let stays_last = tc == Tc::Tcx && policy.is_some();
            for (place, (start, now)) in start.into_iter().zip(now).enumerate() {
                let wanted = match (place, judges[place]) {
                    (_, None) => 0,
                    (0 | 1, _) => 20,
                    (2, _) if stays_last => 20,
                    _ => 20 * passes,
                };
                assert_eq!(now - start, wanted, "{tc:?} {policy:?} judge {place}");
            }
        }
        // Our delete leaves what is theirs.
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
        assert!(rig.near.sh("tc qdisc show dev p0").contains("clsact"));
        assert_eq!(
            rig.near
                .sh("tc filter show dev p0 ingress")
                .matches("judge_")
                .count(),
            if tc == Tc::Tcx { 2 } else { 6 }
        );
    }
}

/// A clsact qdisc that we made goes with us, unless others have put filters there.
#[test]
fn root_clsact_qdisc_of_ours_goes() {
    let rig = Rig::new(1, Tc::Clsact);
    let qdisc = || rig.near.sh("tc qdisc show dev p0").contains("clsact");
    let at = |hook: &str| json!([{ "name": "c", "hook": hook, "interfaces": ["p0"], "act": [{ "accept": {} }] }]);
    rig.apply(&at("tc-ingress")).ok();
    assert!(qdisc());
    // The hook that made it goes, the other stays.
    rig.apply(&at("tc-egress")).ok();
    assert!(qdisc());
    assert_eq!(rig.attached(), 1);
    rig.run(&["delete"]).ok();
    assert!(!qdisc());

    // A killed apply leaves none either.
    let path = rig.policy("c.json", &at("tc-ingress"));
    let mut child = rig.emptcp(&["apply", &path]);
    let child = child.env("EMPTCP_STOP_AT", "attached").spawn().unwrap();
    let child = super::rig::Killed(child);
    assert!(raw::wait_stopped(child.0.id()));
    drop(child);
    assert!(qdisc());
    rig.run(&["delete"]).ok();
    assert!(!qdisc());

    rig.apply(&at("tc-ingress")).ok();
    let judge = Judge::new(&rig.near, "p0", At::Filter(1), true);
    rig.run(&["delete"]).ok();
    assert!(qdisc());
    probe(&rig.far, "p0", 1);
    assert_eq!(judge.read().total, 2);
}

/// Ingress and egress at once, then one of them is killed half way: its filter goes.
#[test]
fn root_filters_of_a_killed_apply_go() {
    let rig = Rig::new(1, Tc::Clsact);
    let at = |hooks: Value| json!([{ "name": "c", "hook": hooks, "interfaces": ["p0"], "act": [{ "accept": {} }] }]);
    rig.apply(&at(json!(["tc-ingress", "tc-egress"]))).ok();
    assert_eq!(rig.attached(), 2);
    let path = rig.policy("c.json", &at(json!("tc-ingress")));
    let mut child = rig.emptcp(&["apply", &path]);
    let child = child.env("EMPTCP_STOP_AT", "after-flip").spawn().unwrap();
    let child = super::rig::Killed(child);
    assert!(raw::wait_stopped(child.0.id()));
    drop(child);
    rig.run(&["apply", &path]).ok();
    assert_eq!(rig.attached(), 1);
}

#[test]
fn root_xdp_is_taken() {
    let rig = Rig::new(1, Tc::Tcx);
    let object = foreign::load();
    let program = foreign::program(&object, "judge_xdp");
    let pin = rig.bpffs.path.join("foreign");
    raw::pin(&program, &pin);
    rig.near
        .sh(&format!("ip link set p0 xdp pinned {}", pin.display()));
    let link = rig.near.sh("ip -j -d link show dev p0");
    let link: Value = serde_json::from_str(&link).unwrap();
    let id = link[0]["xdp"]["prog"]["id"].as_u64().unwrap();

    let mut chains = json!([{ "name": "c", "hook": "xdp", "interfaces": ["p0"],
        "act": [{ "accept": {} }] }]);
    let id = format!("(id {id})");
    rig.apply(&chains)
        .fails(&["p0", "judge_xdp", &id, "\"replace\": true"]);
    rig.assert_nothing_left_but(1);

    chains[0]["xdp"] = json!({ "replace": true });
    rig.apply(&chains).ok();
    assert_eq!(rig.status()["drift"], json!([]));
    let ours = rig.near.sh("ip -j -d link show dev p0");
    assert!(ours.contains("emptcp_entry"), "{ours}");
    rig.run(&["delete"]).ok();
    rig.assert_nothing_left();
}

/// Mode and position need another attachment: ours is not in its own way.
#[test]
fn root_attachment_is_made_anew() {
    let rig = Rig::new(1, Tc::Tcx);
    for round in 0..6 {
        let odd = round % 2 == 1;
        let chains = json!([
            { "name": "x", "hook": "xdp", "interfaces": ["p0"], "act": [{ "record": {} }],
                "xdp": { "mode": if odd { "generic" } else { "native" } } },
            { "name": "t", "hook": "tc-ingress", "interfaces": ["p0"], "act": [{ "record": {} }],
                "position": if odd { "first" } else { "last" } },
        ]);
        rig.apply(&chains).ok();
        let status = rig.status();
        assert_eq!(status["drift"], json!([]));
        assert_eq!(rig.attached(), 2);
        let before = ["x", "t"].map(|c| chain_packets(&status, c).unwrap());
        probe(&rig.far, "p0", 5);
        let status = rig.status();
        let now = ["x", "t"].map(|c| chain_packets(&status, c).unwrap());
        assert_eq!(now, before.map(|n| n + 10));
    }
    rig.run(&["delete"]).ok();
    rig.assert_nothing_left();
}
