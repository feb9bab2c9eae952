// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A tenant behind a router: one of the subflows of its connection is steered to the second uplink,
//! and back, past the router's own routes.

use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::mptcp::transfer;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::sh;

/// The tenant; `near` of the rig is the router, `far` the server.
struct Stand {
    rig: Rig,
    tenant: Netns,
}

impl Stand {
    fn new() -> Self {
        let rig = Rig::new(2, Tc::Tcx);
        let tenant = Netns::new();
        sh(&format!(
            "ip link add t0 netns {} type veth peer name t0 netns {}",
            tenant.name, rig.near.name
        ));
        for (netns, host) in [(&rig.near, 1), (&tenant, 2)] {
            netns.sh(&format!(
                "ip addr add 10.88.0.{host}/24 dev t0 && \
                 ip addr add fd88::{host}/64 dev t0 nodad && ip link set t0 up"
            ));
        }
        tenant.sh("ip route add default via 10.88.0.1; ip -6 route add default via fd88::1");
        // Both addresses of the server, and the way back, are on the first uplink.
        rig.far.sh(
            "ip route add 10.88.0.0/24 via 10.77.0.2; ip -6 route add fd88::/64 via fd77:0::2; \
             ip addr add 10.77.0.100/24 dev p0; ip addr add fd77:0::100/64 dev p0 nodad",
        );
        rig.near
            .sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for netns in [&rig.far, &rig.near] {
            netns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.p1.rp_filter=0");
        }
        for netns in [&tenant, &rig.far] {
            netns.sh(
                "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
                 ip mptcp limits set subflow 4 add_addr_accepted 4",
            );
        }
        Self { rig, tenant }
    }

    /// Packets on the second uplink so far: out of the router, into it.
    fn uplink(&self) -> [u64; 2] {
        let links = self.rig.near.sh("ip -s -j link show p1");
        let links: Value = serde_json::from_str(&links).unwrap();
        ["tx", "rx"].map(|way| links[0]["stats64"][way]["packets"].as_u64().unwrap())
    }

    /// One connection; packets that the second uplink carried.
    fn connect(&self, what: &str, address: &str) -> [u64; 2] {
        let errors = || {
            [&self.tenant, &self.rig.far].map(|n| {
                ["TcpInCsumErrors", "TcpInErrs", "MPTcpExtDataCsumErr"].map(|c| counter(n, c))
            })
        };
        let (before, wrong) = (self.uplink(), errors());
        let done = transfer(
            &self.tenant,
            &self.rig.far,
            address.parse().unwrap(),
            || {
                std::thread::sleep(std::time::Duration::from_millis(100));
            },
        );
        let after = self.uplink();
        assert!(!done.fell_back, "{what}: fell back");
        assert_eq!(done.subflows, 2, "{what}");
        assert_eq!(errors(), wrong, "{what}");
        let carried = [after[0] - before[0], after[1] - before[1]];
        println!("{what}: {carried:?} packets out and in by the second uplink");
        carried
    }
}

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
        let carried = stand.connect(&what, server);
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
                let carried = stand.connect(&what, server);
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
