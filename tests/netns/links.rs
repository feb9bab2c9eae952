// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Links and what could not be treated, as `emptcp monitor` and programs are told of them.

use emptcp_test::hosts::Family;
use serde_json::Value;
use serde_json::json;

use super::monitor::LIMIT;
use super::monitor::events;
use super::monitor::rig;
use super::monitor::track;
use super::raw::Frames;
use super::reader::Reader;
use super::reader::counts;
use super::rig::Rig;
use super::rig::wait_for;
use super::traffic::frame;

/// The kernel says a little later that a link is up.
pub(super) fn links_are_up(rig: &Rig) {
    wait_for("the links are up", LIMIT, || {
        rig.near.sh("ip -br link show up").matches(" UP ").count() >= 2
    });
}

/// What became of which interface.
fn links(all: &[Value]) -> Vec<String> {
    let links = all.iter().filter(|e| e["type"] == "link");
    let said = |e: &Value| {
        let up = if e["up"] == true { "up" } else { "down" };
        let words = [&e["event"], &e["interface"]].map(|word| word.as_str().unwrap());
        format!("{} {}, {up}", words[0], words[1])
    };
    links.map(said).collect()
}

#[test]
fn root_links_are_told() {
    let rig = rig();
    links_are_up(&rig);
    // Without a policy: links are there without one.
    let monitor = Reader::start(&rig, "m", &["--json", "monitor", "link", "--dev", "[pd]*"]);
    let changed = |command: &str, lines: usize| {
        rig.near.sh(command);
        wait_for(command, LIMIT, || monitor.out().lines().count() >= lines);
    };
    changed("ip link set p1 down", 1);
    changed("ip link set p1 up", 2);
    // The other end has no carrier then: it is up, and down.
    rig.far.sh("ip link set p1 down");
    changed("true", 3);
    rig.far.sh("ip link set p1 up");
    changed("true", 4);
    changed("ip link add d0 type veth peer x9; ip link set x9 up", 5);
    changed("ip link set d0 up", 6);
    changed("ip link set d0 down; ip link set d0 name d1", 8);
    changed(
        "ip link add x0 type veth peer x1; ip link del x0; ip link del d1",
        9,
    );
    let (out, err) = monitor.end();
    let mut said = links(&events(&out));
    // Both happened at once: whether it was seen going down between is open.
    said.retain(|line| line != "down d0, down");
    assert_eq!(
        said,
        [
            "down p1, down",
            "up p1, up",
            "down p1, down",
            "up p1, up",
            "appeared d0, down",
            "up d0, up",
            "gone d0, down",
            "appeared d1, down",
            "gone d1, down",
        ],
        "{out}"
    );
    assert_eq!(counts(&err).1, 0);
}

#[test]
fn root_links_and_reasons_beside_events() {
    let rig = rig();
    track(&rig, &json!([]));
    links_are_up(&rig);
    let broken = frame(Family::Ip4, json!({ "tcp": { "doff": 4 } }));
    let socket = rig.far.within(|| Frames::open(rig.far.ifindex("p0")));
    let send = |count: u64| (0..count).for_each(|_| assert!(socket.send(&broken)));
    // What was before is not told.
    send(2);
    wait_for("it is counted", LIMIT, || {
        rig.status()["reasons"]["tc-ingress"]["bad_tcp"] == 2
    });
    let monitor = Reader::start(&rig, "m", &["--json", "monitor"]);
    rig.near.sh("ip link set p1 down");
    send(3);
    wait_for("both", LIMIT, || monitor.out().lines().count() >= 2);
    send(1);
    let (out, err) = monitor.end();
    let all = events(&out);
    assert_eq!(links(&all), ["down p1, down"]);
    let reasons: Vec<_> = all.iter().filter(|e| e["type"] == "reason").collect();
    let packets: u64 = reasons.iter().map(|e| e["packets"].as_u64().unwrap()).sum();
    assert_eq!(packets, 4, "{out}");
    for reason in &reasons {
        assert_eq!(
            (&reason["hook"], &reason["reason"]),
            (&json!("tc-ingress"), &json!("bad_tcp"))
        );
    }
    assert_eq!(reasons[reasons.len() - 1]["total"], 6);
    assert_eq!(counts(&err).1, 0);
    // Who asks for a subflow, or by an expression, is not told of them; of types, those.
    for args in [
        &["monitor", "--port", "5001"][..],
        &[
            "monitor",
            "--select",
            r#"{ "not": { "dport": { "in": 80 } } }"#,
        ],
        &["monitor", "prio"],
    ] {
        let monitor = Reader::start(&rig, "m", args);
        rig.near.sh("ip link set p1 up");
        send(1);
        std::thread::sleep(std::time::Duration::from_millis(100));
        rig.near.sh("ip link set p1 down");
        let (out, _) = monitor.end();
        assert_eq!(out, "", "{args:?}");
    }
}
