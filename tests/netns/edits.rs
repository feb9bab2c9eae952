// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Actors that edit options, on connections of Multipath TCP between real stacks: what became of
//! the connection, and what the kernels at both ends counted. Each with checksum offload on and
//! off, in both families.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::mptcp::Transfer;
use super::mptcp::subflows;
use super::mptcp::transfer;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::often;
use super::rig::sh;

/// The end of the connection at which the policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Client,
    Server,
}

/// One connection.
pub(super) struct Seen {
    pub(super) what: String,
    pub(super) transfer: Transfer,
    client: BTreeMap<String, u64>,
    server: BTreeMap<String, u64>,
    /// Packets that the actor treated.
    pub(super) treated: u64,
    /// Packets that it refused to treat.
    pub(super) refused: u64,
}

impl Seen {
    pub(super) fn client(&self, name: &str) -> u64 {
        self.client[&format!("MPTcpExt{name}")]
    }

    pub(super) fn server(&self, name: &str) -> u64 {
        self.server[&format!("MPTcpExt{name}")]
    }

    /// The connection is one of Multipath TCP with so many subflows.
    #[track_caller]
    pub(super) fn keeps(&self, subflows: usize) {
        assert!(!self.transfer.fell_back, "{}: fell back", self.what);
        assert_eq!(self.transfer.subflows, subflows, "{}", self.what);
        for name in ["MPCapableDataFallback", "DssFallback"] {
            assert_eq!(self.client(name), 0, "{}: client {name}", self.what);
            assert_eq!(self.server(name), 0, "{}: server {name}", self.what);
        }
    }
}

fn counters(netns: &Netns) -> BTreeMap<String, u64> {
    let all = netns.sh("nstat -asz");
    let lines = all.lines().filter(|l| !l.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

fn step(status: &Value, module: &str) -> Option<(u64, u64)> {
    let chains = status["chains"].as_array()?;
    let mut steps = chains.iter().flat_map(|c| c["steps"].as_array().unwrap());
    let step = steps.find(|s| s["module"] == module)?;
    Some((step["matched"].as_u64()?, step["errors"].as_u64()?))
}

/// The two ends, and which is which.
pub(super) struct Ends {
    pub(super) rig: Rig,
    at: At,
}

impl Ends {
    pub(super) fn new(at: At) -> Self {
        let rig = Rig::new(2, Tc::Tcx);
        for netns in [&rig.near, &rig.far] {
            netns.sh(
                "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
                 ip mptcp limits set subflow 4 add_addr_accepted 4",
            );
        }
        Self { rig, at }
    }

    fn client(&self) -> &Netns {
        match self.at {
            At::Client => &self.rig.near,
            At::Server => &self.rig.far,
        }
    }

    pub(super) fn server(&self) -> &Netns {
        match self.at {
            At::Client => &self.rig.far,
            At::Server => &self.rig.near,
        }
    }

    /// Address of the server on a link.
    pub(super) fn address(&self, v6: bool, link: usize) -> String {
        let host = if self.at == At::Client { 1 } else { 2 };
        match v6 {
            true => format!("fd77:{link}::{host}"),
            false => format!("10.77.{link}.{host}"),
        }
    }

    pub(super) fn offload(&self, state: &str) {
        for netns in [&self.rig.near, &self.rig.far] {
            for link in ["p0", "p1"] {
                netns.sh(&format!("ethtool -K {link} tx {state}"));
            }
        }
    }

    pub(super) fn announce(&self, v6: bool) {
        let second = self.address(v6, 1);
        self.server().sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
    }

    fn apply(&self, hook: &str, act: &Value) {
        self.apply_to(hook, &["p0", "p1"], &json!({ "mptcp": {} }), act);
    }

    /// A policy of one chain.
    pub(super) fn apply_to(&self, hook: &str, interfaces: &[&str], select: &Value, act: &Value) {
        let mut chain = json!([{ "name": "edit", "hook": hook, "interfaces": interfaces,
            "select": select, "act": [act] }]);
        if hook == "xdp" {
            chain[0]["xdp"] = json!({ "trust_checksums": true });
        }
        if hook == "xdp" && act["reject_join"]["with"] == "rst" {
            // What XDP sends back is taken from veth's ring by a peer that has XDP itself.
            let takes = json!([{ "name": "takes", "hook": "xdp", "interfaces": ["p0", "p1"],
                "act": [{ "accept": {} }] }]);
            let path = self.rig.policy("far.json", &takes);
            let mut far = self.rig.emptcp_in(&self.rig.far, &["apply", &path]);
            assert!(far.status().unwrap().success());
        }
        self.rig.apply(&chain).ok();
    }

    /// Gives the second subflow time to come.
    pub(super) fn wait_for_second(&self) {
        let end = Instant::now() + Duration::from_secs(3);
        while subflows(self.client()) < 2 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Established at the client: the server may be one packet behind.
        std::thread::sleep(Duration::from_millis(20));
    }

    /// A connection, with what it made of the counters.
    pub(super) fn connect(
        &self,
        what: String,
        v6: bool,
        module: &str,
        meanwhile: impl FnOnce(),
    ) -> Seen {
        let treated = || match module {
            "" => (0, 0),
            _ => step(&self.rig.status(), module).unwrap_or_default(),
        };
        let before = (counters(self.client()), counters(self.server()), treated());
        let address = self.address(v6, 0).parse().unwrap();
        let transfer = transfer(self.client(), self.server(), address, meanwhile);
        let after = (counters(self.client()), counters(self.server()), treated());
        let difference = |a: BTreeMap<String, u64>, b: &BTreeMap<String, u64>| {
            a.into_iter()
                .map(|(name, n)| {
                    // One of them is no counter: the connections there are.
                    let more = n.saturating_sub(*b.get(&name).unwrap_or(&0));
                    (name, more)
                })
                .collect::<BTreeMap<_, _>>()
        };
        let seen = Seen {
            transfer,
            client: difference(after.0, &before.0),
            server: difference(after.1, &before.1),
            treated: after.2.0 - before.2.0,
            refused: after.2.1 - before.2.1,
            what,
        };
        // An edit never makes a checksum wrong.
        for (end, all) in [("client", &seen.client), ("server", &seen.server)] {
            for name in ["TcpInCsumErrors", "TcpInErrs", "MPTcpExtDataCsumErr"] {
                assert_eq!(all[name], 0, "{}: {end} {name}", seen.what);
            }
        }
        println!(
            "{}: {:?}, {} treated, {} refused",
            seen.what, seen.transfer, seen.treated, seen.refused
        );
        seen
    }
}

/// Connections under a policy with this actor, with a second subflow or without, `meanwhile` in
/// the middle of each.
fn edited(
    (hook, at): (&str, At),
    act: &Value,
    second: bool,
    meanwhile: impl Fn(&Ends),
    check: impl Fn(&Seen),
) {
    let ends = Ends::new(at);
    let module = act.as_object().unwrap().keys().next().unwrap();
    for v6 in [false, true] {
        // Without a policy the second subflow comes.
        ends.announce(v6);
        let what = format!("no policy, {}", ends.address(v6, 0));
        ends.connect(what, v6, "", || ends.wait_for_second())
            .keeps(2);
    }
    ends.apply(hook, act);
    for offload in ["on", "off"] {
        ends.offload(offload);
        for v6 in [false, true] {
            ends.announce(v6);
            let address = ends.address(v6, 0);
            let what = format!("{act} at {hook} of the {at:?}, tx {offload}, {address}");
            let seen = ends.connect(what, v6, module, || {
                if second {
                    ends.wait_for_second();
                }
                meanwhile(&ends);
            });
            check(&seen);
        }
    }
}

fn nothing(_: &Ends) {}

/// The way of what the server sends, and of what the client sends.
pub(super) const FROM_SERVER: [(&str, At); 3] = [
    ("tc-ingress", At::Client),
    ("xdp", At::Client),
    ("tc-egress", At::Server),
];
pub(super) const FROM_CLIENT: [(&str, At); 3] = [
    ("tc-ingress", At::Server),
    ("xdp", At::Server),
    ("tc-egress", At::Client),
];

#[test]
fn root_edit_rm_add_addr() {
    for at in FROM_SERVER {
        for mode in ["auto", "drop"] {
            edited(
                at,
                &json!({ "rm_add_addr": { "mode": mode } }),
                false,
                nothing,
                |seen| {
                    // Linux sends it alone on the packet that establishes the connection.
                    seen.keeps(1);
                    assert!(seen.treated > 0, "{}", seen.what);
                    assert_eq!(seen.refused, 0, "{}", seen.what);
                    assert!(seen.server("AddAddrTx") > 0, "{}", seen.what);
                    assert_eq!(seen.client("AddAddr"), 0, "{}", seen.what);
                    assert_eq!(seen.server("MPJoinSynRx"), 0, "{}", seen.what);
                },
            );
        }
    }
}

/// The bytes that bpftool prints.
fn bytes(dumped: &Value) -> Vec<u8> {
    let digits = dumped
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b.as_str().unwrap());
    digits
        .map(|b| u8::from_str_radix(&b[2..], 16).unwrap())
        .collect()
}

/// What is suppressed is kept as it was, also where it passes twice, and shown nowhere.
#[test]
fn root_edit_rm_add_addr_keeps() {
    for (at, hooks) in [
        (At::Client, &["xdp", "tc-ingress"][..]),
        (At::Server, &["tc-egress"]),
    ] {
        for mode in ["auto", "drop"] {
            let ends = Ends::new(at);
            let act = json!({ "rm_add_addr": { "mode": mode } });
            let chains: Vec<Value> = hooks
                .iter()
                .map(|hook| {
                    let mut chain = json!({ "name": hook, "hook": hook,
                        "interfaces": ["p0", "p1"], "act": [act] });
                    if *hook == "xdp" {
                        chain["xdp"] = json!({ "trust_checksums": true });
                    }
                    chain
                })
                .collect();
            ends.rig.apply(&chains.into()).ok();
            for v6 in [false, true] {
                ends.announce(v6);
                let what = format!("{act} at {hooks:?}, IPv6 {v6}");
                ends.connect(what.clone(), v6, "", || {}).keeps(1);
                let status = ends.rig.run(&["--json", "status", "--state"]).ok();
                let pins = status.json()["pins"].as_str().unwrap().to_owned();
                let dump = sh(&format!("bpftool -j map dump pinned {pins}/state/k-stash"));
                let entries: Vec<Value> = serde_json::from_str(&dump).unwrap();
                assert_eq!(entries.len(), 1 + usize::from(v6), "{what}");
                let address: IpAddr = ends.address(v6, 1).parse().unwrap();
                let (address, len) = match address {
                    IpAddr::V4(a) => (a.octets().to_vec(), 16),
                    IpAddr::V6(a) => (a.octets().to_vec(), 28),
                };
                let kept = entries
                    .iter()
                    .map(|e| bytes(&e["value"]))
                    .find(|v| usize::from(v[30]) == len)
                    .unwrap();
                assert_eq!(kept[..4], [30, len as u8, 0x30, 9], "{what}");
                assert_eq!(kept[4..len - 8], address, "{what}");
                assert_ne!(kept[len - 8..len], [0; 8], "{what}");
                // Its HMAC is a secret: that something waits is shown, not what.
                let state = status.json()["state"].clone();
                let shown: Vec<&Value> = state
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|of| &of["map"])
                    .collect();
                assert_eq!(shown, ["stash_lists"], "{what}: {}", status.out);
            }
        }
    }
}

#[test]
fn root_edit_rm_remove_addr() {
    for at in FROM_SERVER {
        let remove = |ends: &Ends| {
            ends.server().sh("ip mptcp endpoint del id 9");
            std::thread::sleep(Duration::from_millis(60));
        };
        edited(at, &json!({ "rm_remove_addr": {} }), true, remove, |seen| {
            assert!(!seen.transfer.fell_back, "{}", seen.what);
            assert!(seen.treated > 0, "{}", seen.what);
            assert_eq!(seen.refused, 0, "{}", seen.what);
            assert!(seen.server("RmAddrTx") > 0, "{}", seen.what);
            assert_eq!(seen.client("RmAddr"), 0, "{}", seen.what);
        });
    }
}

#[test]
fn root_edit_rm_prio() {
    for at in FROM_SERVER {
        let change = |ends: &Ends| {
            ends.server().sh("ip mptcp endpoint change id 9 backup");
            std::thread::sleep(Duration::from_millis(60));
        };
        edited(at, &json!({ "rm_prio": {} }), true, change, |seen| {
            seen.keeps(2);
            assert!(seen.treated > 0, "{}", seen.what);
            assert_eq!(seen.refused, 0, "{}", seen.what);
            assert!(seen.server("MPPrioTx") > 0, "{}", seen.what);
            assert_eq!(seen.client("MPPrioRx"), 0, "{}", seen.what);
        });
    }
}

#[test]
fn root_edit_strip_mptcp() {
    for at in FROM_CLIENT {
        edited(at, &json!({ "strip_mptcp": {} }), false, nothing, |seen| {
            assert!(seen.transfer.fell_back, "{}", seen.what);
            assert_eq!(seen.transfer.subflows, 1, "{}", seen.what);
            assert_eq!(seen.treated, 1, "{}", seen.what);
            // Decided by the SYN/ACK, at both ends: nothing falls back later.
            assert_eq!(seen.client("MPCapableFallbackSYNACK"), 1, "{}", seen.what);
            assert_eq!(seen.server("MPCapableSYNRX"), 0, "{}", seen.what);
            for name in ["MPCapableFallbackACK", "MPCapableDataFallback", "MPRstTx"] {
                assert_eq!(seen.client(name) + seen.server(name), 0, "{}", seen.what);
            }
        });
    }
}

/// A connection from before the policy goes on, and takes further subflows.
#[test]
fn root_edit_strip_mptcp_leaves_what_exists() {
    for (hook, at) in FROM_CLIENT {
        for v6 in [false, true] {
            let ends = Ends::new(at);
            let what = format!("strip_mptcp at {hook} of the {at:?} meanwhile, IPv6 {v6}");
            let seen = ends.connect(what, v6, "strip_mptcp", || {
                ends.apply(hook, &json!({ "strip_mptcp": {} }));
                ends.announce(v6);
                ends.wait_for_second();
            });
            seen.keeps(2);
            assert_eq!(seen.treated, 0, "{}", seen.what);
        }
    }
}

#[test]
fn root_edit_reject_join() {
    for at in FROM_CLIENT {
        edited(at, &json!({ "reject_join": {} }), false, nothing, |seen| {
            seen.keeps(1);
            assert!(seen.treated > 0, "{}", seen.what);
            assert_eq!(seen.client("AddAddr"), 1, "{}", seen.what);
            assert_eq!(seen.server("MPJoinSynRx"), 0, "{}", seen.what);
        });
    }
}

/// Answered with RST and MP_TCPRST: the client gives up at once, and the server knows nothing.
#[test]
fn root_edit_reject_join_by_rst() {
    for at in FROM_CLIENT {
        let act = json!({ "reject_join": { "with": "rst" } });
        edited(at, &act, false, nothing, |seen| {
            seen.keeps(1);
            // Once: a SYN that is dropped is sent again.
            assert_eq!(seen.treated, 1, "{}", seen.what);
            assert_eq!(seen.refused, 0, "{}", seen.what);
            // The kernel counts no MPRstRx of a subflow that is not there yet.
            assert_eq!(seen.client["TcpAttemptFails"], 1, "{}", seen.what);
            assert_eq!(seen.server("MPJoinSynRx"), 0, "{}", seen.what);
        });
    }
}

/// Ends the second subflow of a connection, at both ends, while the connection goes on.
#[test]
fn root_edit_reset() {
    for hook in ["tc-ingress", "tc-egress"] {
        for at in [At::Client, At::Server] {
            let ends = Ends::new(at);
            for offload in ["on", "off"] {
                ends.offload(offload);
                for v6 in [false, true] {
                    for _ in 0..often(1, 5) {
                        reset_once(&ends, hook, offload, v6);
                    }
                }
            }
        }
    }
}

fn reset_once(ends: &Ends, hook: &str, offload: &str, v6: bool) {
    // Nothing is in force yet: the second subflow comes.
    ends.rig.run(&["delete"]).ok();
    ends.announce(v6);
    let what = format!(
        "reset at {hook} of the {:?}, tx {offload}, {}",
        ends.at,
        ends.address(v6, 0)
    );
    let chain = json!([{ "name": "end", "hook": hook, "interfaces": ["p1"],
        "select": { "mptcp": {} },
        "act": [{ "reset": { "reason": "unacceptable_performance" } }] }]);
    let seen = ends.connect(what, v6, "", || {
        ends.wait_for_second();
        assert_eq!(subflows(ends.client()), 2);
        ends.rig.apply(&chain).ok();
    });
    let what = &seen.what;
    let (treated, refused) = step(&ends.rig.status(), "reset").unwrap();
    println!("{what}: {treated} treated");
    // The connection goes on, on the first subflow.
    seen.keeps(1);
    assert_eq!(refused, 0, "{what}");
    assert!((1..20).contains(&treated), "{what}: {treated}");
    assert_eq!(seen.client("MPRstRx"), 1, "{what}");
    assert_eq!(seen.server("MPRstRx"), 1, "{what}");
}

#[test]
fn root_edit_join_backup() {
    // The SYN on its way to the server, the SYN/ACK on its way to the client.
    for at in FROM_CLIENT {
        edited(at, &json!({ "join_backup": {} }), true, nothing, |seen| {
            seen.keeps(2);
            assert_eq!(seen.treated, 1, "{}", seen.what);
            assert_eq!(seen.server("MPJoinSynBackupRx"), 1, "{}", seen.what);
            assert_eq!(seen.client("MPJoinSynAckBackupRx"), 0, "{}", seen.what);
        });
    }
    for at in FROM_SERVER {
        edited(at, &json!({ "join_backup": {} }), true, nothing, |seen| {
            seen.keeps(2);
            assert_eq!(seen.treated, 1, "{}", seen.what);
            assert_eq!(seen.client("MPJoinSynAckBackupRx"), 1, "{}", seen.what);
            assert_eq!(seen.server("MPJoinSynBackupRx"), 0, "{}", seen.what);
        });
    }
}

/// What would make the connection plain TCP is left, and told; forced, it does.
#[test]
fn root_edit_rm_option() {
    for at in FROM_SERVER {
        let act = json!({ "rm_option": { "options": ["add_addr", "dss"] } });
        edited(at, &act, true, nothing, |seen| {
            seen.keeps(2);
            assert_eq!(seen.treated, 0, "{}", seen.what);
            assert!(seen.refused > 10, "{}", seen.what);
        });
    }
    for at in FROM_CLIENT {
        // Timestamps, window scale and SACK are not agreed on, and all goes on without them.
        let options = ["timestamps", "wscale", "sackok", "mss", "mp_capable"];
        let act = json!({ "rm_option": { "options": options } });
        edited(at, &act, false, nothing, |seen| {
            assert!(seen.transfer.fell_back, "{}", seen.what);
            assert!(seen.treated > 0, "{}", seen.what);
            assert_eq!(seen.client("MPCapableFallbackSYNACK"), 1, "{}", seen.what);
        });
        let act = json!({ "rm_option": { "options": ["mp_join"], "force": true } });
        edited(at, &act, false, nothing, |seen| {
            // The client resets what it did not ask for.
            seen.keeps(1);
            assert!(seen.treated > 0, "{}", seen.what);
            assert!(seen.client("MPRstTx") > 0, "{}", seen.what);
        });
    }
}

#[test]
fn root_edit_set_field() {
    for at in FROM_SERVER {
        let fields = json!({ "dscp": 46, "ttl": 9, "mss": 1000, "prio_backup": 0 });
        edited(at, &json!({ "set_field": fields }), true, nothing, |seen| {
            seen.keeps(2);
            assert!(seen.treated > 20, "{}", seen.what);
            // A wrong checksum of IPv4 is an error of the header.
            for name in ["IpInHdrErrors", "Ip6InHdrErrors", "IpExtInCsumErrors"] {
                assert_eq!(seen.client[name], 0, "{}: {name}", seen.what);
            }
        });
        // B of the priority that the server gives its second address is taken out.
        let change = |ends: &Ends| {
            ends.server().sh("ip mptcp endpoint change id 9 backup");
            std::thread::sleep(Duration::from_millis(60));
        };
        let act = json!({ "set_field": { "prio_backup": 0 } });
        edited(at, &act, true, change, |seen| {
            seen.keeps(2);
            assert_eq!(seen.treated, 1, "{}", seen.what);
            assert_eq!(seen.client("MPPrioRx"), 1, "{}", seen.what);
        });
    }
}
