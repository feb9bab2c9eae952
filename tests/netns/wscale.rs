// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `set_recv_win` without a window scale, on connections whose ends have different ones: what
//! leaves it is captured behind it.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::capture::dissect;
use super::mptcp::transfer;
use super::reader::Reader;
use super::rig::Rig;
use super::rig::Tc;

const BYTES: u64 = 16 << 10;
/// What Linux makes of the largest receive buffer (`tcp_select_initial_window()`).
const NEAR: (u64, u64) = (6 << 20, 7);
const FAR: (u64, u64) = (32 << 20, 10);

fn two_scales() -> Rig {
    let rig = Rig::new(2, Tc::Tcx);
    for (netns, (largest, _)) in [(&rig.near, NEAR), (&rig.far, FAR)] {
        netns.sh(&format!(
            "sysctl -qw net.mptcp.enabled=1 net.ipv4.tcp_rmem='4096 131072 {largest}' && \
             ip mptcp limits set subflow 4 add_addr_accepted 4"
        ));
    }
    rig
}

/// Clamps what both ends announce, and shows what became of it.
fn clamp() -> Value {
    json!([{ "name": "clamp", "hook": ["tc-ingress", "tc-egress"], "interfaces": ["p0", "p1"],
        "act": [{ "set_recv_win": { "bytes": BYTES } }, { "copy_pkt": {} }] }])
}

/// A connection, with `policy` in force from the begin or, where it is late, from its middle on: no
/// window behind it is larger than it may be, and on both subflows, both ways, some are clamped.
fn clamps(rig: &Rig, v6: bool, is_late: bool, what: &str) {
    let address = |link| match v6 {
        true => format!("fd77:{link}::1"),
        false => format!("10.77.{link}.1"),
    };
    rig.far.sh(&format!(
        "ip mptcp endpoint flush; ip mptcp endpoint add {} signal",
        address(1)
    ));
    let file = rig.folder.0.join("clamped.pcapng");
    let begin = || {
        rig.apply(&clamp()).ok();
        Reader::start(rig, "c", &["capture", "-w", file.to_str().unwrap()])
    };
    let mut capture = (!is_late).then(begin);
    let done = transfer(&rig.near, &rig.far, address(0).parse().unwrap(), || {
        if is_late {
            capture = Some(begin());
        }
    });
    assert_eq!((done.subflows, done.fell_back), (2, false), "{what}");
    capture.unwrap().end();

    let fields = [
        "frame.comment",
        "frame.interface_name",
        "tcp.window_size_value",
    ];
    let all = dissect(&file, "tcp.flags.syn == 0 && tcp.flags.reset == 0", &fields);
    let mut found: BTreeMap<(u64, &str), (usize, usize)> = BTreeMap::new();
    for row in &all {
        let scale = match row[0].contains(" at tc-egress") {
            true => NEAR.1,
            false => FAR.1,
        };
        let window: u64 = row[2].parse().unwrap();
        assert!(window <= BYTES >> scale, "{what}: {row:?}");
        let clamped = found.entry((scale, row[1].as_str())).or_default();
        clamped.0 += 1;
        clamped.1 += usize::from(window == BYTES >> scale);
    }
    println!("{what}: packets, and those of the largest window: {found:?}");
    assert_eq!(found.len(), 4, "{what}: {found:?}");
    assert!(
        found.values().all(|(_, clamped)| *clamped > 0),
        "{what}: {found:?}"
    );
    if !is_late {
        assert_eq!(rig.status()["reasons"], json!({}), "{what}");
    }
    rig.run(&["delete"]).ok();
}

#[test]
fn root_wscale_is_learnt() {
    let mut rig = two_scales();
    // Also where the tracker is in another part of the policy than what goes by it.
    for calls in [None, Some(3)] {
        rig.calls = calls;
        for v6 in [false, true] {
            clamps(&rig, v6, false, &format!("calls {calls:?}, IPv6 {v6}"));
        }
    }
}

/// Of a connection that is older than the policy the kernel knows it.
#[test]
fn root_wscale_is_taken_over() {
    let rig = two_scales();
    for v6 in [false, true] {
        clamps(&rig, v6, true, &format!("late, IPv6 {v6}"));
    }
}

/// Where all steps have it given nothing is tracked, and no map of the tracker is made.
#[test]
fn root_wscale_given_needs_no_tracker() {
    let rig = Rig::new(1, Tc::Tcx);
    let chains = |params: Value| {
        json!([{ "name": "clamp", "hook": "tc-egress", "interfaces": ["p0"],
            "act": [{ "set_recv_win": params }] }])
    };
    let names = || {
        let status = rig.status();
        let chains = status["chains"].as_array().unwrap().clone();
        chains
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let half_open = || {
        rig.bpffs
            .tree()
            .iter()
            .any(|path| path.contains("half_open"))
    };
    rig.apply(&chains(json!({ "bytes": BYTES, "wscale": 7 })))
        .ok();
    assert_eq!(names(), ["clamp"]);
    assert!(!half_open());
    rig.apply(&chains(json!({ "bytes": BYTES }))).ok();
    assert_eq!(names().len(), 3, "{:?}", names());
    assert!(half_open());
}
