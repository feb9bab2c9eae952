// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The policy `examples/firewall.json`, at the host itself.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::cgroups::Cgroups;
use super::mptcp::Transfer;
use super::mptcp::counter;
use super::mptcp::transfer;
use super::raw;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;

/// Far is outside; all packets come by p0 and p1.
struct Walled {
    rig: Rig,
}

impl Walled {
    fn new() -> Self {
        let rig = Rig::new(2, Tc::Tcx);
        for netns in [&rig.near, &rig.far] {
            netns.sh(
                "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
                 ip mptcp limits set subflow 4 add_addr_accepted 4",
            );
        }
        let text = include_str!("../../examples/firewall.json").replace("eth0", "p*");
        let mut policy: Value = serde_json::from_str(&text).unwrap();
        // Run time has it, as the other one.
        policy["tables"]["partners"]
            .as_object_mut()
            .unwrap()
            .remove("elements");
        let file = rig.folder.write("firewall.json", policy.to_string());
        rig.run(&["apply", file.to_str().unwrap()]).ok();
        Self { rig }
    }

    fn table(&self, verb: &str, table: &str, key: &str) {
        self.rig.run(&["table", verb, table, key]).ok();
    }

    /// A connection from outside, with a second address.
    fn connect(&self) -> Transfer {
        transfer(
            &self.rig.far,
            &self.rig.near,
            "10.77.0.2".parse().unwrap(),
            || {
                std::thread::sleep(Duration::from_millis(100));
            },
        )
    }
}

fn joins(netns: &Netns) -> u64 {
    counter(netns, "MPTcpExtMPJoinSynRx")
}

#[test]
fn root_firewall_joins_of_partners() {
    let walled = Walled::new();
    let (near, far) = (&walled.rig.near, &walled.rig.far);
    far.sh("ip mptcp endpoint add 10.77.1.1 id 9 subflow dev p1");
    for (partner, subflows) in [(false, 1), (true, 2), (false, 1)] {
        if partner {
            walled.table("add", "partners", "10.77.0.0/16");
        }
        let (before, resets) = (joins(near), counter(far, "TcpAttemptFails"));
        let done = walled.connect();
        assert!(!done.fell_back);
        assert_eq!(done.subflows, subflows);
        assert_eq!(joins(near) - before, subflows as u64 - 1);
        // It is told, and does not try again.
        let told = counter(far, "TcpAttemptFails") - resets;
        assert_eq!(told, 2 - subflows as u64);
        walled.rig.run(&["table", "flush", "partners"]).ok();
    }
}

#[test]
fn root_firewall_few_joins_a_second() {
    let walled = Walled::new();
    let (near, far) = (&walled.rig.near, &walled.rig.far);
    far.sh("ip mptcp endpoint add 10.77.1.1 id 9 subflow dev p1");
    walled.table("add", "partners", "10.77.0.0/16");
    let any = SocketAddr::new("0.0.0.0".parse().unwrap(), 5001);
    let listener = near.within(|| std::net::TcpListener::from(raw::mptcp_listener(any.ip(), 5001)));
    let (before, start) = (joins(near), Instant::now());
    let to = SocketAddr::new("10.77.0.2".parse().unwrap(), 5001);
    let mut open = Vec::new();
    for _ in 0..60 {
        let stream = far.within(|| TcpStream::from(raw::mptcp_connect(to)));
        let (peer, _) = listener.accept().unwrap();
        // The first data make a client join.
        for (mut from, mut to) in [(&stream, &peer), (&peer, &stream)] {
            std::io::Write::write_all(&mut from, b"x").unwrap();
            std::io::Read::read_exact(&mut to, &mut [0]).unwrap();
        }
        open.push((stream, peer));
    }
    std::thread::sleep(Duration::from_millis(50));
    let (passed, time) = (joins(near) - before, start.elapsed());
    println!("{passed} of 60 joins in {time:?}");
    assert!(passed >= 20, "{passed} in {time:?}");
    // Those that are tried again count as well.
    assert!(passed as f64 <= 20.0 + 1.0 + 10.0 * start.elapsed().as_secs_f64());
    assert!(passed < 60 || time > Duration::from_secs(4));
}

/// One more than the policy allows, once the others are there.
#[test]
fn root_firewall_few_subflows() {
    let walled = Walled::new();
    let (near, far) = (&walled.rig.near, &walled.rig.far);
    walled.table("add", "partners", "10.77.0.0/16");
    far.sh("ip addr add 10.77.1.3/24 dev p1");
    let policy = walled.rig.run(&["show", "--json"]).ok().out;
    for (limit, subflows) in [(8, 3), (2, 2)] {
        let limited = policy.replace("\"min\": 8", &format!("\"min\": {limit}"));
        let file = walled.rig.folder.write("limited.json", limited);
        walled.rig.run(&["apply", file.to_str().unwrap()]).ok();
        far.sh("ip mptcp endpoint flush; ip mptcp endpoint add 10.77.1.1 id 9 subflow dev p1");
        let before = joins(near);
        let done = transfer(far, near, "10.77.0.2".parse().unwrap(), || {
            far.sh("ip mptcp endpoint add 10.77.1.3 id 10 subflow dev p1");
            std::thread::sleep(Duration::from_millis(100));
        });
        assert!(!done.fell_back);
        assert_eq!(done.subflows, subflows, "limit {limit}");
        assert_eq!(joins(near) - before, subflows as u64 - 1, "limit {limit}");
    }
}

#[test]
fn root_firewall_announcements() {
    let walled = Walled::new();
    let (near, far) = (&walled.rig.near, &walled.rig.far);
    // A private address of a server outside.
    for (server, second) in [("10.77.0.1", "10.77.1.1"), ("fd77:0::1", "fd77:1::1")] {
        far.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        let (told, before) = (counter(near, "MPTcpExtAddAddr"), joins(far));
        let done = transfer(near, far, server.parse().unwrap(), || {
            std::thread::sleep(Duration::from_millis(100));
        });
        assert!(!done.fell_back, "{server}");
        assert_eq!(done.subflows, 1, "{server}");
        assert_eq!(counter(near, "MPTcpExtAddAddr") - told, 0, "{server}");
        assert_eq!(joins(far), before, "{server}");
        walled
            .rig
            .run(&["chain", "disable", "no-private-addresses"])
            .ok();
        let done = transfer(near, far, server.parse().unwrap(), || {
            std::thread::sleep(Duration::from_millis(100));
        });
        assert_eq!(done.subflows, 2, "{server}: without the chain");
        walled
            .rig
            .run(&["chain", "enable", "no-private-addresses"])
            .ok();
    }
}

#[test]
fn root_firewall_plain_tcp() {
    let walled = Walled::new();
    for plain in [false, true] {
        if plain {
            walled.table("add", "plain", "10.77.0.2/32");
        }
        let done = walled.connect();
        assert_eq!(done.fell_back, plain);
    }
    let status = walled.rig.status();
    assert_eq!(status["reasons"], json!({}));
}

/// Such a chain for one port of a server (the transfers go to 5001).
#[test]
fn root_firewall_plain_tcp_by_port() {
    let walled = Walled::new();
    let (near, far) = (&walled.rig.near, &walled.rig.far);
    for (port, plain) in [(5002, false), (5001, true)] {
        let chains = json!([{ "name": "plain-port", "hook": "tc-ingress", "interfaces": ["p*"],
            "select": { "dport": { "in": [port] } }, "act": [{ "strip_mptcp": {} }] }]);
        walled.rig.apply(&chains).ok();
        for server in ["10.77.0.2", "fd77:0::2"] {
            let done = transfer(far, near, server.parse().unwrap(), || ());
            assert_eq!(done.fell_back, plain, "{server}, port {port}");
        }
        let status = walled.rig.status();
        assert_eq!(status["reasons"], json!({}));
    }
}

/// And for what the processes of one cgroup open.
#[test]
fn root_firewall_plain_tcp_by_application() {
    let walled = Walled::new();
    let (near, far) = (&walled.rig.near, &walled.rig.far);
    let cgroups = Cgroups::new();
    for name in ["/plain", "/other"] {
        cgroups.add(name);
    }
    let chains = json!([{ "name": "plain-app", "hook": "tc-egress", "interfaces": ["p*"],
        "select": { "cgroup": { "in": cgroups.path("/plain") } }, "act": [{ "strip_mptcp": {} }] }]);
    walled.rig.apply(&chains).ok();
    for (name, plain) in [("/other", false), ("/plain", true)] {
        for server in ["10.77.0.1", "fd77:0::1"] {
            let done = cgroups.inside(name, || transfer(near, far, server.parse().unwrap(), || ()));
            assert_eq!(done.fell_back, plain, "{server}, {name}");
        }
    }
    let status = walled.rig.status();
    assert_eq!(status["reasons"], json!({}));
}
