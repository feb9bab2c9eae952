//! Interfaces vanish, come back, are renamed and go to other network namespaces while a policy
//! is in force. See also [`super::life`].

use emptcp_test::hosts::Family;
use serde_json::Value;
use serde_json::json;

use super::foreign::At;
use super::foreign::Judge;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::sh;
use super::traffic::Traffic;
use super::traffic::ack;
use super::traffic::probe;

/// Marks with 5 at tc ingress, and counts at XDP and egress.
fn policy(interfaces: Value) -> Value {
    json!([
        { "name": "mark", "hook": "tc-ingress", "interfaces": interfaces,
          "act": [{ "set_mark": { "value": 5 } }] },
        { "name": "count", "hook": ["xdp", "tc-egress"], "interfaces": interfaces,
          "act": [{ "record": {} }] },
    ])
}

/// Marks of packets that arrive at an interface of a namespace, whatever it was called before;
/// `from`: the other end.
fn mark_at(rig: &Rig, netns: &Netns, interface: &str, from: &str) -> u32 {
    let judge = Judge::new(netns, interface, At::Filter(60_000), true);
    probe(&rig.far, from, 4);
    let seen = judge.read();
    assert_eq!(seen.total, 8);
    drop(judge);
    netns.sh(&format!("tc filter del dev {interface} ingress prio 60000"));
    seen.mark
}

fn drift(rig: &Rig) -> Vec<String> {
    let drift = rig.status()["drift"].clone();
    let lines = drift.as_array().unwrap().iter();
    lines
        .map(|line| line.as_str().unwrap().to_owned())
        .collect()
}

fn interfaces(rig: &Rig) -> Vec<String> {
    let status = rig.status();
    let all = status["attachments"].as_array().unwrap().iter();
    let mut names: Vec<_> = all
        .map(|a| a["interface"].as_str().unwrap().to_owned())
        .collect();
    names.dedup();
    names
}

/// One of two goes and comes back with another index, while packets cross the other.
#[test]
fn root_optional_interface_vanishes() {
    for (tc, second) in [
        (Tc::Tcx, json!({ "name": "p1", "optional": true })),
        (Tc::Clsact, json!("p[1-9]")),
    ] {
        let rig = Rig::new(2, tc);
        let path = rig.policy("p.json", &policy(json!(["p0", second])));
        rig.run(&["apply", &path]).ok();
        let (tree, index) = (rig.bpffs.tree(), rig.near.ifindex("p1"));
        let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
        let frames = Family::ALL.map(|family| ack(family, 80)).into();
        let traffic = Traffic::start(&rig.far, "p0", frames, 10_000);
        for round in 0..3 {
            rig.near.sh("ip link del p1");
            let told = drift(&rig);
            assert_eq!(told.len(), 3, "{told:?}");
            assert!(
                told.iter()
                    .all(|d| d.contains("of p1: the interface has gone")),
                "{told:?}"
            );
            if round > 0 {
                rig.run(&["apply", &path]).ok();
                assert_eq!(
                    (drift(&rig), interfaces(&rig)),
                    (vec![], vec!["p0".to_owned()])
                );
                rig.run(&["apply", "--dry-run", &path]).ok();
            }
            rig.add_link(1);
            assert_ne!(rig.near.ifindex("p1"), index);
            assert_eq!(mark_at(&rig, &rig.near, "p1", "p1"), 0);
            assert_eq!(rig.run(&["apply", "--dry-run", &path]).code, Some(3));
            rig.run(&["apply", &path]).ok();
            assert_eq!(drift(&rig), Vec::<String>::new());
            assert_eq!(mark_at(&rig, &rig.near, "p1", "p1"), 5);
            assert_eq!(rig.bpffs.tree().len(), tree.len());
        }
        let sent = traffic.finish();
        let seen = judge.read();
        assert_eq!((seen.total, seen.untreated), (sent, 0));
        drop(judge);
        rig.near.sh("ip link del p1");
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// What is attached stays with the interface; the next apply goes by the names that are then.
#[test]
fn root_interface_is_renamed() {
    for tc in Tc::ALL {
        let rig = Rig::new(2, tc);
        let rename = |old: &str, new: &str| {
            let line = format!(
                "ip link set {old} down; ip link set {old} name {new}; ip link set {new} up"
            );
            rig.near.sh(&line);
        };
        let by_name = rig.policy("name.json", &policy(json!(["p1"])));
        let by_glob = rig.policy("glob.json", &policy(json!(["[pq]*"])));
        let gone = rig.policy("gone.json", &policy(json!(["p*"])));

        // By name: told, still in force, and refused as long as there is no such interface.
        rig.run(&["apply", &by_name]).ok();
        rename("p1", "q1");
        let told = drift(&rig);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told.iter()
                .all(|d| d.contains("of p1: the interface is named q1 now")),
            "{told:?}"
        );
        rig.run(&["apply", &by_name])
            .fails(&["no interface \"p1\""]);
        assert_eq!(mark_at(&rig, &rig.near, "q1", "p1"), 5);
        rename("q1", "p1");
        let same = rig.run(&["--json", "apply", &by_name]).ok().json();
        assert_eq!(same, json!({ "changed": false }));

        // Another one takes the name: it is treated, and the old one is not any more.
        rename("p1", "q1");
        rename("p0", "p1");
        rig.run(&["apply", &by_name]).ok();
        assert_eq!(drift(&rig), Vec::<String>::new());
        assert_eq!(mark_at(&rig, &rig.near, "p1", "p0"), 5);
        assert_eq!(mark_at(&rig, &rig.near, "q1", "p1"), 0);
        rename("p1", "p0");

        // A glob that matches both names: nothing but the name changes.
        rig.run(&["apply", &by_glob]).ok();
        assert_eq!(interfaces(&rig).len(), 2);
        let before = chain_packets(&rig.status(), "mark").unwrap();
        rename("q1", "q2");
        assert_eq!(drift(&rig).len(), 3);
        rig.run(&["apply", &by_glob]).ok();
        assert_eq!(drift(&rig), Vec::<String>::new());
        assert!(interfaces(&rig).contains(&"q2".to_owned()));
        assert_eq!(mark_at(&rig, &rig.near, "q2", "p1"), 5);
        assert_eq!(chain_packets(&rig.status(), "mark"), Some(before + 8));

        // A glob that matches the old name only: nothing of us stays there.
        rename("q2", "p1");
        rig.run(&["apply", &gone]).ok();
        assert_eq!(mark_at(&rig, &rig.near, "p1", "p1"), 5);
        rename("p1", "q1");
        rig.run(&["apply", &gone]).ok();
        assert_eq!(interfaces(&rig), ["p0"]);
        assert_eq!(mark_at(&rig, &rig.near, "q1", "p1"), 0);
        assert_eq!(rig.attached(), 3);
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// An interface that goes to another namespace is not treated there for long, and one that comes
/// with the same index is not taken for it.
#[test]
fn root_interface_goes_to_another_namespace() {
    for tc in Tc::ALL {
        let rig = Rig::new(2, tc);
        let other = Netns::new();
        let optional = json!([{ "name": "p1", "optional": true }, "p0"]);
        let path = rig.policy("p.json", &policy(optional));
        rig.run(&["apply", &path]).ok();
        let index = rig.near.ifindex("p1");
        rig.near.sh(&format!("ip link set p1 netns {}", other.name));
        let told = drift(&rig);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told.iter()
                .all(|d| d.contains("of p1: the interface has gone")),
            "{told:?}"
        );
        assert_eq!(other.ifindex("p1"), index, "the test needs that");
        // Another one in its place, by name and index.
        other.sh("ip link set p1 up");
        sh(&format!(
            "ip link add p1 index {index} netns {} type veth peer name p2 netns {}",
            rig.near.name, rig.far.name
        ));
        rig.near.sh("ip link set p1 address 02:00:00:00:00:02 up");
        rig.far.sh("ip link set p2 up");
        assert_eq!(rig.near.ifindex("p1"), index);
        let told = drift(&rig);
        assert!(
            told.len() == 3 && told[0].contains("of p1: nothing of emptcp"),
            "{told:?}"
        );
        assert_eq!(mark_at(&rig, &rig.near, "p1", "p2"), 0);
        // Of tc filters nothing goes with it, of links all.
        let stays = if tc == Tc::Tcx { 5 } else { 0 };
        assert_eq!(mark_at(&rig, &other, "p1", "p1"), stays);
        rig.run(&["apply", &path]).ok();
        assert_eq!(drift(&rig), Vec::<String>::new());
        assert_eq!(mark_at(&rig, &rig.near, "p1", "p2"), 5);
        assert_eq!(mark_at(&rig, &rig.near, "p0", "p0"), 5);
        assert_eq!(mark_at(&rig, &other, "p1", "p1"), 0);
        assert_eq!((rig.attached(), other.attached()), (6, 0));

        // And back, when the name is free.
        rig.near.sh("ip link del p1");
        other.sh(&format!("ip link set p1 netns {}", rig.near.name));
        rig.near.sh("ip link set p1 up");
        rig.run(&["apply", &path]).ok();
        assert_eq!(mark_at(&rig, &rig.near, "p1", "p1"), 5);
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// An alternative name goes from one interface to another.
#[test]
fn root_altname_moves() {
    let rig = Rig::new(2, Tc::Tcx);
    rig.near
        .sh("ip link property add dev p0 altname uplink-of-the-house");
    let path = rig.policy("p.json", &policy(json!(["uplink-of-the-house"])));
    rig.run(&["apply", &path]).ok();
    assert_eq!(interfaces(&rig), ["p0"]);
    assert_eq!(mark_at(&rig, &rig.near, "p0", "p0"), 5);
    rig.near
        .sh("ip link property del dev p0 altname uplink-of-the-house");
    rig.run(&["apply", &path])
        .fails(&["no interface \"uplink-of-the-house\""]);
    rig.near
        .sh("ip link property add dev p1 altname uplink-of-the-house");
    assert_eq!(rig.run(&["apply", "--dry-run", &path]).code, Some(3));
    rig.run(&["apply", &path]).ok();
    assert_eq!(interfaces(&rig), ["p1"]);
    assert_eq!(mark_at(&rig, &rig.near, "p0", "p0"), 0);
    assert_eq!(mark_at(&rig, &rig.near, "p1", "p1"), 5);
    assert_eq!(rig.attached(), 3);
}
