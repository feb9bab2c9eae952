// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A tenant behind a router: one of the subflows of its connection is steered to the second uplink,
//! and back, past the router's own routes. A tenant behind a machine that is neither router nor
//! bridge: frames go from tap to uplink as they are.

use emptcp::module::KernelVersion;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::mptcp::transfer;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::sh;
use super::tenant::Stand;

/// The subflow to the second address leaves by p1. The server answers by p0, from where its packets
/// are led to the tenant without the router's routes.
#[test]
fn root_redirect_a_subflow_of_a_tenant() {
    let stand = Stand::new();
    for (server, second, hop, tenant) in [
        ("10.77.0.1", "10.77.0.100", "10.77.1.1", "10.88.0.2"),
        ("fd77:0::1", "fd77:0::100", "fd77:1::1", "fd88::2"),
    ] {
        stand.rig.far.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        stand.rig.run(&["delete"]).ok();
        let what = format!("no policy, {server}");
        let [_, carried] = stand.connect(&what, server, || ());
        assert!(carried[0] < 10, "{what}: {carried:?}");
        let policy = json!([
            { "name": "out", "hook": "tc-ingress", "interfaces": ["t0"],
              "select": { "all": [{ "dst": { "in": [second] } }, { "dport": { "in": [5001] } }] },
              "act": [{ "redirect": { "to": "p1", "via": hop } }] },
            { "name": "back", "hook": "tc-ingress", "interfaces": ["p0"],
              "select": { "src": { "in": [second] } },
              "act": [{ "redirect": { "to": "t0", "via": tenant } }] },
        ]);
        stand.rig.apply(&policy).ok();
        for offload in ["on", "off"] {
            stand.tenant.sh(&format!("ethtool -K t0 tx {offload}"));
            for link in ["p0", "p1"] {
                stand.rig.far.sh(&format!("ethtool -K {link} tx {offload}"));
            }
            for _ in 0..5 {
                let what = format!("tx {offload}, {server}");
                let [_, carried] = stand.connect(&what, server, || ());
                assert!(carried[0] > 10, "{what}: {carried:?}");
            }
        }
        let status = stand.rig.status();
        assert_eq!(status["reasons"], json!({}));
        for chain in status["chains"].as_array().unwrap() {
            assert!(chain["packets"].as_u64().unwrap() > 100, "{chain}");
        }
    }
}

/// The tenant has an interface for each uplink, in the network of the server; the machine between
/// them has no address there, and forwards nothing.
struct Wires {
    rig: Rig,
    tenant: Netns,
}

const LINKS: usize = 2;

impl Wires {
    fn new() -> Self {
        let rig = Rig::new(LINKS, Tc::Tcx);
        let tenant = Netns::new();
        for link in 0..LINKS {
            sh(&format!(
                "ip link add t{link} netns {} address 02:00:00:00:00:12 type veth \
                 peer name t{link} netns {}",
                tenant.name, rig.near.name
            ));
            rig.near.sh(&format!(
                "ip addr flush dev p{link}; ip link set t{link} up"
            ));
            // Neighbours are asked for by packets that are not TCP.
            tenant.sh(&format!(
                "ip addr add 10.77.{link}.2/24 dev t{link} && \
                 ip addr add fd77:{link}::2/64 dev t{link} nodad && ip link set t{link} up && \
                 ip neigh replace 10.77.{link}.1 lladdr 02:00:00:00:00:01 dev t{link} && \
                 ip neigh replace fd77:{link}::1 lladdr 02:00:00:00:00:01 dev t{link}"
            ));
            rig.far.sh(&format!(
                "ip neigh replace 10.77.{link}.2 lladdr 02:00:00:00:00:12 dev p{link} && \
                 ip neigh replace fd77:{link}::2 lladdr 02:00:00:00:00:12 dev p{link}"
            ));
        }
        for netns in [&tenant, &rig.far] {
            netns.sh(
                "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
                 ip mptcp limits set subflow 4 add_addr_accepted 4",
            );
        }
        Self { rig, tenant }
    }

    /// A feature of the offload of both ends, as `ethtool` names it.
    fn offload(&self, feature: &str, on: bool) {
        let state = if on { "on" } else { "off" };
        for link in 0..LINKS {
            let line = |name: &str| format!("ethtool -K {name}{link} {feature} {state}");
            self.tenant.sh(&line("t"));
            self.rig.far.sh(&line("p"));
        }
    }

    fn policy(hook: &str) -> Value {
        let chain = |link: usize, from: &str, to: &str| {
            let mut chain = json!({
                "name": format!("{from}{link}"), "hook": hook,
                "interfaces": [format!("{from}{link}")], "select": { "tcp": {} },
                "act": [{ "redirect": { "to": format!("{to}{link}") } }]
            });
            if hook == "xdp" {
                chain["xdp"] = json!({ "mode": "native", "trust_checksums": true });
            }
            chain
        };
        let chains = (0..LINKS).flat_map(|l| [chain(l, "t", "p"), chain(l, "p", "t")]);
        chains.collect()
    }

    /// Two connections, over IPv4 and IPv6, each of two subflows; all their packets are redirected.
    fn carries(&self, what: &str) {
        for v6 in [false, true] {
            let what = format!("{what}, IPv6 {v6}");
            let (server, second) = match v6 {
                false => ("10.77.0.1", "10.77.1.1"),
                true => ("fd77:0::1", "fd77:1::1"),
            };
            self.rig.far.sh(&format!(
                "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
            ));
            let errors = || {
                [&self.tenant, &self.rig.far]
                    .map(|n| ["TcpInCsumErrors", "MPTcpExtDataCsumErr"].map(|c| counter(n, c)))
            };
            let wrong = errors();
            let done = transfer(&self.tenant, &self.rig.far, server.parse().unwrap(), || {
                std::thread::sleep(std::time::Duration::from_millis(100));
            });
            assert!(!done.fell_back, "{what}: fell back");
            assert_eq!(done.subflows, 2, "{what}");
            assert_eq!(errors(), wrong, "{what}");
        }
        let status = self.rig.status();
        assert_eq!(status["reasons"], json!({}), "{what}");
        for chain in status["chains"].as_array().unwrap() {
            let packets = chain["packets"].as_u64().unwrap();
            println!("{what}: {}: {packets} packets", chain["name"]);
            // Handshakes at least, and data on one of the subflows.
            assert!(packets >= 8, "{what}: {chain}");
        }
        for name in ["IpForwDatagrams", "Ip6OutForwDatagrams"] {
            assert_eq!(counter(&self.rig.near, name), 0, "{what}: {name}");
        }
        self.rig.run(&["delete"]).ok();
    }
}

#[test]
fn root_redirect_frames_as_they_are() {
    let wires = Wires::new();
    for on in [true, false] {
        wires.offload("tx", on);
        let applied = wires.rig.apply(&Wires::policy("tc-ingress")).ok();
        assert!(applied.err.contains("conntrack"), "{}", applied.err);
        assert!(!applied.err.contains("from XDP"), "{}", applied.err);
        wires.carries(&format!("tx offload {on}"));
    }
}

/// A veth takes packets from XDP if its other end has a NAPI: GRO is on, or a program of XDP.
#[test]
fn root_redirect_at_xdp() {
    let wires = Wires::new();
    wires.offload("tx", false);
    wires.offload("gro", false);
    let policy = Wires::policy("xdp");
    let warning = "takes no packets from XDP";
    // Drivers tell what they can since Linux 6.3.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let told = release.parse::<KernelVersion>().unwrap() >= KernelVersion(6, 3);
    let path = wires.rig.policy("policy.json", &policy);
    let checked = wires.rig.run(&["--json", "check", &path]).ok().json();
    let warnings = checked["warnings"].to_string();
    assert_eq!(
        warnings.matches(warning).count(),
        4 * usize::from(told),
        "{warnings}"
    );
    wires.offload("gro", true);
    let applied = wires.rig.apply(&policy).ok();
    assert!(!applied.err.contains(warning), "{}", applied.err);
    wires.carries("xdp");
}
