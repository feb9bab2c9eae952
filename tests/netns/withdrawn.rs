// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `remove_addr` withdraws the address that a server has announced, from connections that have
//! carried so much: the client closes that subflow, and goes on with the first one; at both hooks,
//! with complete and incomplete checksums, in both families, with uploads and downloads.

use serde_json::json;

use super::announced::Ends;
use super::announced::First;
use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::fill;
use super::pair::send;
use super::raw;
use super::restored::errors;
use super::restored::subflows;
use super::rig::wait_for;

/// Of the first connection; each has its own.
const PORT: u16 = 7001;
/// Bytes from which on the address is withdrawn.
const THRESHOLD: usize = 1 << 20;
/// Connections of each kind.
const EACH: usize = 3;

/// Packets that the step treated, and those that it refused.
fn treated(ends: &Ends) -> (u64, u64) {
    let status = ends.rig.status();
    let steps = status["chains"].as_array().unwrap().iter();
    let mut steps = steps.flat_map(|c| c["steps"].as_array().unwrap());
    let step = steps.find(|s| s["module"] == "remove_addr").unwrap();
    let [matched, errors] = ["matched", "errors"].map(|n| step[n].as_u64().unwrap());
    (matched, errors)
}

fn connection(ends: &Ends, v6: bool, first: First, number: usize) {
    let what = format!("{}, IPv6 {v6}, {first:?} sends", ends.hook);
    let port = PORT + number as u16;
    let listener = ends.listen(v6, port);
    let (client, server) = ends.connect(v6, port, &listener);
    let bytes = fill(number, THRESHOLD);
    let few = &bytes[..THRESHOLD / 8];
    send(&client, &server, few);
    send(&server, &client, few);
    wait_for("the second subflow", LIMIT, || {
        subflows(ends.client(), port) == 2
    });
    send(&client, &server, few);
    let removed = || counter(ends.client(), "MPTcpExtRmAddr");
    let (before, done) = (removed(), treated(ends));
    assert_eq!(subflows(ends.client(), port), 2, "{what}");
    let (from, to) = match first {
        First::Client => (&client, &server),
        First::Server => (&server, &client),
    };
    wait_for("its end", LIMIT, || {
        send(from, to, &bytes);
        subflows(ends.client(), port) == 1
    });
    send(from, to, &bytes);
    send(to, from, &bytes);
    assert_eq!(removed(), before + 1, "{what}");
    assert_eq!(treated(ends), (done.0 + 1, done.1), "{what}");
    assert_eq!(subflows(ends.client(), port), 1, "{what}");
    assert!(!raw::mptcp_fell_back(&client), "{what}: fell back");
    drop((client, server));
    wait_for("the end", LIMIT, || subflows(ends.client(), port) == 0);
}

fn withdraws(hook: &'static str) {
    let ends = Ends::new(hook);
    ends.rig
        .apply(
            &json!([{ "name": "withdraw", "hook": hook, "interfaces": ["p0", "p1"],
            "select": { "conn_bytes": { "min": THRESHOLD } }, "act": [{ "remove_addr": {} }] }]),
        )
        .ok();
    let mut number = 0;
    for offload in ["on", "off"] {
        ends.offload(offload);
        for v6 in [false, true] {
            let second = ends.address(v6, 1);
            ends.server().sh(&format!(
                "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
            ));
            let before = errors([ends.server(), ends.client()]);
            for first in [First::Client, First::Server] {
                for _ in 0..EACH {
                    connection(&ends, v6, first, number);
                    number += 1;
                }
            }
            let after = errors([ends.server(), ends.client()]);
            assert_eq!(after, before, "{hook}, tx {offload}, IPv6 {v6}");
        }
    }
    let reasons = ends.rig.status()["reasons"].clone();
    println!("{hook}: {number} connections, {reasons}");
    let state = ends.rig.run(&["status", "--state"]).ok().out;
    assert!(state.contains("withdrawn of module remove_addr"), "{state}");
}

#[test]
fn root_withdrawn_at_ingress() {
    withdraws("tc-ingress");
}

#[test]
fn root_withdrawn_at_egress() {
    withdraws("tc-egress");
}
