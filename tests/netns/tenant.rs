// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A tenant behind a router with two uplinks to one server.

use std::time::Duration;

use serde_json::Value;

use super::mptcp::counter;
use super::mptcp::subflows;
use super::mptcp::transfer;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::sh;
use super::rig::wait_for;

/// Until when a further subflow has joined: on a busy machine the path manager, and neighbours that
/// are not known yet, take more than a transfer does, and a lost SYN takes a second.
const JOINED: Duration = Duration::from_secs(10);

/// The tenant; `near` of the rig is the router, `far` the server.
pub(super) struct Stand {
    pub(super) rig: Rig,
    pub(super) tenant: Netns,
}

impl Stand {
    pub(super) fn new() -> Self {
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

    /// Packets on an uplink so far: out of the router, into it.
    fn uplink(&self, name: &str) -> [u64; 2] {
        let links = self.rig.near.sh(&format!("ip -s -j link show {name}"));
        let links: Value = serde_json::from_str(&links).unwrap();
        ["tx", "rx"].map(|way| links[0]["stats64"][way]["packets"].as_u64().unwrap())
    }

    /// One connection; packets that the uplinks carried, each out and in. Halfway `meanwhile` is done.
    pub(super) fn connect(
        &self,
        what: &str,
        address: &str,
        meanwhile: impl FnOnce(),
    ) -> [[u64; 2]; 2] {
        let errors = || {
            [&self.tenant, &self.rig.far].map(|n| {
                ["TcpInCsumErrors", "TcpInErrs", "MPTcpExtDataCsumErr"].map(|c| counter(n, c))
            })
        };
        let links = || ["p0", "p1"].map(|name| self.uplink(name));
        let (before, wrong) = (links(), errors());
        let done = transfer(
            &self.tenant,
            &self.rig.far,
            address.parse().unwrap(),
            || {
                std::thread::sleep(Duration::from_millis(100));
                // The payload is there sooner than a SYN that is sent again.
                wait_for(&format!("{what}: a further subflow"), JOINED, || {
                    subflows(&self.tenant) == 2
                });
                meanwhile();
            },
        );
        let after = links();
        assert!(!done.fell_back, "{what}: fell back");
        assert_eq!(done.subflows, 2, "{what}");
        assert_eq!(errors(), wrong, "{what}");
        let carried = [0, 1].map(|link| [0, 1].map(|way| after[link][way] - before[link][way]));
        println!("{what}: {carried:?} packets out and in by the uplinks");
        carried
    }
}
