// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A path manager in the kernel, `examples/delay-subflows.json`: a further subflow only for
//! connections that carry much. The announcement of the server is suppressed, and restored while
//! data flow, into an ACK or a packet made for it; at both hooks, with complete and incomplete
//! checksums, in both families, with uploads and downloads.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::connect;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::raw;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::often;
use super::rig::wait_for;

/// Of the first connection; each has its own, as those of the one before may not be free yet.
const PORT: u16 = 5001;
/// Bytes below which a connection gets no further subflow.
pub(super) const THRESHOLD: usize = 220 << 10;
/// Bytes of a transfer.
const SIZE: usize = 1 << 20;
/// Connections of each kind; sixteen kinds.
fn each() -> usize {
    often(3, 7)
}

/// The policy of the example, for this hook and interface.
pub(super) fn policy(hook: &str, interface: &str) -> Value {
    let text = include_str!("../../examples/delay-subflows.json");
    let mut policy: Value = serde_json::from_str(text).unwrap();
    for chain in policy["chains"].as_array_mut().unwrap() {
        chain["hook"] = hook.into();
        chain["interfaces"] = json!([interface]);
    }
    policy["chains"].take()
}

pub(super) fn subflows(client: &Netns, port: u16) -> usize {
    let sockets = client.sh(&format!("ss -Htn state established dport = :{port}"));
    sockets.lines().count()
}

/// What nothing of this may cause.
pub(super) const ERRORS: [&str; 12] = [
    "TcpInCsumErrors",
    "TcpInErrs",
    "IpInHdrErrors",
    "IpExtInTruncatedPkts",
    "Ip6InHdrErrors",
    "Ip6InTruncatedPkts",
    "MPTcpExtDataCsumErr",
    "MPTcpExtDSSCorruptionReset",
    "MPTcpExtMPCapableDataFallback",
    "MPTcpExtMPCapableFallbackACK",
    "MPTcpExtDssFallback",
    "MPTcpExtMPFailTx",
];

pub(super) fn errors(ends: [&Netns; 2]) -> Vec<u64> {
    let all = ends.map(|end| ERRORS.map(|name| counter(end, name)));
    all.concat()
}

/// One connection; the policy counts one more that was restored.
fn connection(server: &Netns, client: &Netns, address: IpAddr, down: bool, seed: usize) {
    let port = PORT + seed as u16;
    let listener = listen(server, address.is_ipv6(), port);
    let (near, far) = connect(client, SocketAddr::new(address, port), &listener);
    let bytes = fill(seed, SIZE);
    // Below the threshold, and long enough for a subflow to come.
    let few = &bytes[..THRESHOLD / 4];
    send(&near, &far, few);
    send(&far, &near, few);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(subflows(client, port), 1, "a subflow below the threshold");
    // Not the subflow itself: Linux 6.18 resets some that join while the client sends much through
    // interfaces without offloads (DSSNotMatching; as often without a policy).
    let joins = || counter(server, "MPTcpExtMPJoinSynRx");
    let before = joins();
    let (from, to) = match down {
        true => (&far, &near),
        false => (&near, &far),
    };
    send(from, to, &bytes);
    wait_for("the second subflow", LIMIT, || joins() == before + 1);
    send(from, to, &bytes);
    send(to, from, &bytes);
    assert!(!raw::mptcp_fell_back(&near), "fell back");
    drop((near, far));
    wait_for("its end", LIMIT, || subflows(client, port) == 0);
}

/// Matches of the step that restores, and all reasons.
fn restored(rig: &Rig) -> (u64, Value) {
    let status = rig.status();
    let chains = status["chains"].as_array().unwrap();
    let mut steps = chains.iter().flat_map(|c| c["steps"].as_array().unwrap());
    let step = steps.find(|s| s["module"] == "restore_addr").unwrap();
    assert_eq!(step["errors"], 0, "{status}");
    (step["matched"].as_u64().unwrap(), status["reasons"].clone())
}

/// The policy is at `near`: the client where it is about what arrives, else the server.
fn restores(hook: &str) {
    let rig = Rig::new(2, Tc::Tcx);
    let (server, client, host) = match hook {
        "tc-ingress" => (&rig.far, &rig.near, 1),
        _ => (&rig.near, &rig.far, 2),
    };
    for netns in [server, client] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 && ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.apply(&policy(hook, "p0")).ok();
    let mut number = 0;
    for offload in ["on", "off"] {
        for netns in [server, client] {
            netns.sh(&format!(
                "ethtool -K p0 tx {offload}; ethtool -K p1 tx {offload}"
            ));
        }
        for (address, second) in [("10.77.0.", "10.77.1."), ("fd77:0::", "fd77:1::")] {
            let address: IpAddr = format!("{address}{host}").parse().unwrap();
            server.sh(&format!(
                "ip mptcp endpoint flush; ip mptcp endpoint add {second}{host} id 9 signal"
            ));
            for down in [false, true] {
                let before = errors([server, client]);
                for _ in 0..each() {
                    connection(server, client, address, down, number);
                    number += 1;
                }
                let (times, reasons) = restored(&rig);
                let what = format!("{hook}, tx {offload}, to {address}, download {down}");
                println!("{what}: {times} restored of {number}, {reasons}");
                assert_eq!(times, number as u64, "{what}");
                assert_eq!(errors([server, client]), before, "{what}");
            }
        }
    }
}

#[test]
fn root_restored_at_ingress() {
    restores("tc-ingress");
}

#[test]
fn root_restored_at_egress() {
    restores("tc-egress");
}
