// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The policy `examples/firewall.json`, at the host itself and on a router in front of it.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::cgroups::Cgroups;
use super::mptcp::Transfer;
use super::mptcp::counter;
use super::mptcp::subflows;
use super::mptcp::transfer;
use super::pair;
use super::pair::LIMIT;
use super::raw;
use super::reader::Reader;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;
use super::ss;
use super::tenant;

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

/// The example for what comes by p0 and p1, with these partners; its path.
fn with_partners(rig: &Rig, name: &str, partners: &[&str]) -> String {
    let text = include_str!("../../examples/firewall.json").replace("eth0", "p*");
    let mut policy: Value = serde_json::from_str(&text).unwrap();
    policy["tables"]["partners"]["elements"] = json!(partners);
    let file = rig.folder.write(name, policy.to_string());
    file.to_str().unwrap().to_owned()
}

/// Payload bytes that each subflow of a client has sent, by its own address.
fn sent(client: &Netns) -> Vec<(String, u64)> {
    let all = ss::sockets(client).into_iter();
    let mut sent: Vec<_> = all
        .map(|socket| (socket.local.clone(), socket.number("bytes_sent")))
        .collect();
    sent.sort();
    sent
}

/// Stricter while connections live and `emptcp run` runs, which is killed then: what is there goes
/// on, what is new is refused. `inside`: who is protected.
fn changed_at_run_time(rig: &Rig, inside: &Netns, servers: [&str; 2]) {
    let outside = &rig.far;
    let partners = ["10.77.0.0/16", "fd77::/16"];
    let (strict, open) = (
        with_partners(rig, "strict.json", &["198.51.100.0/24"]),
        with_partners(rig, "open.json", &partners),
    );
    let bytes = pair::fill(3, 1 << 20);
    for (v6, server) in [false, true].into_iter().zip(servers) {
        // At the first link, too, where servers are that are not neighbours.
        let further = |host: u32| match v6 {
            true => format!("fd77:0::{host}"),
            false => format!("10.77.0.{host}"),
        };
        for host in [101, 102] {
            let bits = if v6 { "/64" } else { "/24" };
            outside.sh(&format!(
                "ip addr add {}{bits} dev p0 {}",
                further(host),
                if v6 { "nodad preferred_lft 0" } else { "" }
            ));
        }
        let endpoint = |host: u32| {
            outside.sh(&format!(
                "ip mptcp endpoint add {} id {host} subflow",
                further(host)
            ));
        };
        outside.sh("ip mptcp endpoint flush");
        endpoint(101);
        rig.run(&["apply", &open]).ok();
        let daemon = Reader::start(rig, "run", &["run"]);
        let listener = pair::listen(inside, v6, 5001);
        let to = SocketAddr::new(server.parse().unwrap(), 5001);
        let (client, peer) = pair::connect(outside, to, &listener);
        let talk = || {
            pair::send(&client, &peer, &bytes);
            pair::send(&peer, &client, &bytes);
        };
        talk();
        wait_for("a further subflow", LIMIT, || subflows(outside) == 2);
        let (joined, refused) = (joins(inside), counter(outside, "TcpAttemptFails"));

        std::thread::scope(|scope| {
            let flows = scope.spawn(|| (0..5).for_each(|_| talk()));
            rig.run(&["apply", &strict]).ok();
            flows.join().unwrap();
        });
        endpoint(102);
        wait_for("a join that is refused", LIMIT, || {
            talk();
            counter(outside, "TcpAttemptFails") > refused
        });
        let before = sent(outside);
        talk();
        talk();
        let after = sent(outside);
        assert_eq!(after.len(), 2, "{server}: {before:?} {after:?}");
        for (before, after) in before.iter().zip(&after) {
            assert!(after.1 > before.1, "{server}: {before:?} {after:?}");
        }
        assert_eq!(joins(inside), joined, "{server}");
        assert!(!raw::mptcp_fell_back(&client), "{server}");
        drop((client, peer, listener));

        daemon.signal(Signal::SIGKILL);
        drop(daemon);
        let connect = |what: &str, so: &dyn Fn() -> bool| {
            transfer(outside, inside, server.parse().unwrap(), || {
                wait_for(what, LIMIT, so);
                std::thread::sleep(Duration::from_millis(100));
            })
        };
        let refused = counter(outside, "TcpAttemptFails");
        let done = connect("both joins are refused", &|| {
            counter(outside, "TcpAttemptFails") >= refused + 2
        });
        assert!(!done.fell_back, "{server}");
        assert_eq!(done.subflows, 1, "{server}: run was killed");
        assert_eq!(joins(inside), joined, "{server}");
        rig.run(&["apply", &open]).ok();
        let done = connect("partners again", &|| subflows(outside) == 3);
        assert_eq!(done.subflows, 3, "{server}: partners again");
        assert_eq!(rig.status()["reasons"], json!({}), "{server}");
    }
}

#[test]
fn root_firewall_changed_at_run_time() {
    let walled = Walled::new();
    changed_at_run_time(&walled.rig, &walled.rig.near, ["10.77.0.2", "fd77:0::2"]);
}

/// The firewall is on a router: all that it sees is forwarded.
#[test]
fn root_firewall_on_a_router_changed_at_run_time() {
    let stand = tenant::Stand::new();
    changed_at_run_time(&stand.rig, &stand.tenant, ["10.88.0.2", "fd88::2"]);
}

#[test]
fn root_firewall_on_a_router() {
    let stand = tenant::Stand::new();
    let (rig, inside, outside) = (&stand.rig, &stand.tenant, &stand.rig.far);
    // Not chosen as source of the first subflow.
    outside.sh("ip addr change fd77:0::100/64 dev p0 nodad preferred_lft 0");
    let file = with_partners(rig, "router.json", &["198.51.100.0/24"]);
    rig.run(&["apply", &file]).ok();
    let settle = |what: &str, so: &dyn Fn() -> bool| {
        wait_for(what, LIMIT, so);
        std::thread::sleep(Duration::from_millis(100));
    };
    for (host, bits, far, second) in [
        ("10.88.0.2", 32, "10.77.0.1", "10.77.0.100"),
        ("fd88::2", 128, "fd77:0::1", "fd77:0::100"),
    ] {
        let prefix = format!("{host}/{bits}");
        let inwards = |what: &str, so: &dyn Fn() -> bool| {
            transfer(outside, inside, host.parse().unwrap(), || settle(what, so))
        };
        outside.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 subflow"
        ));
        // Who may join.
        for (partner, subflows) in [(false, 1), (true, 2), (false, 1)] {
            let partners = format!("{second}/{bits}");
            if partner {
                rig.run(&["table", "add", "partners", &partners]).ok();
            }
            let refused = || counter(outside, "TcpAttemptFails");
            let (before, told) = (joins(inside), refused());
            let done = inwards("a join, or a RST", &|| match partner {
                true => self::subflows(outside) == 2,
                false => refused() > told,
            });
            assert!(!done.fell_back, "{host}");
            assert_eq!(done.subflows, subflows, "{host}, partner: {partner}");
            assert_eq!(joins(inside) - before, subflows as u64 - 1, "{host}");
            assert_eq!(refused() - told, 2 - subflows as u64, "{host}");
            if partner {
                rig.run(&["table", "del", "partners", &partners]).ok();
            }
        }
        // Plain TCP.
        rig.run(&["table", "add", "plain", &prefix]).ok();
        assert!(inwards("plain", &|| true).fell_back, "{host}");
        rig.run(&["table", "del", "plain", &prefix]).ok();
        assert!(!inwards("not plain", &|| true).fell_back, "{host}");
        // A private address of a server outside.
        outside.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        for (chain, subflows) in [("enable", 1), ("disable", 2)] {
            rig.run(&["chain", chain, "no-private-addresses"]).ok();
            let told = counter(inside, "MPTcpExtAddAddr");
            let done = transfer(inside, outside, far.parse().unwrap(), || {
                settle("what is announced", &|| self::subflows(inside) == subflows);
            });
            assert!(!done.fell_back, "{far}");
            assert_eq!(done.subflows, subflows, "{far}, {chain}");
            let told = counter(inside, "MPTcpExtAddAddr") - told;
            assert_eq!(told > 0, subflows > 1, "{far}, {chain}");
        }
        rig.run(&["chain", "enable", "no-private-addresses"]).ok();
    }
    for netns in [inside, outside] {
        assert_eq!(counter(netns, "TcpInCsumErrors"), 0);
    }
    assert_eq!(rig.status()["reasons"], json!({}));
}

/// Those that are opened at once: as many as there may be, and no more.
#[test]
fn root_firewall_few_subflows_at_once() {
    // With a round trip of 20 ms: else one is open before the next one begins.
    let limits = json!({ "subflows": 8, "add_addr_accepted": 8 });
    let host = json!({ "mptcp": { "limits": limits } });
    let text = json!({ "version": 1, "hosts": { "client": host, "server": host }, "links": [
        { "name": "path", "rate": "50Mbit", "delay": "10ms",
          "a": { "host": "client", "dev": "p0", "addresses": ["10.77.0.1/24"] },
          "b": { "host": "server", "dev": "p0", "addresses": ["10.77.0.2/24"] } }] });
    let lab = Lab::from_json(&text.to_string()).unwrap();
    let rig = Rig::in_lab(&lab, "server", "client");
    let (near, far) = (&rig.near, &rig.far);
    for host in 101..106 {
        far.sh(&format!(
            "ip addr add 10.77.0.{host}/24 dev p0 && \
             ip mptcp endpoint add 10.77.0.{host} id {host} subflow"
        ));
    }
    let policy = std::fs::read_to_string(with_partners(&rig, "a.json", &["10.77.0.0/16"])).unwrap();
    for (limit, subflows) in [(8, 6), (4, 4), (2, 2)] {
        let limited = policy.replace("\"min\":8", &format!("\"min\":{limit}"));
        let file = rig.folder.write("limited.json", limited);
        rig.run(&["apply", file.to_str().unwrap()]).ok();
        let before = joins(near);
        let done = transfer(far, near, "10.77.0.2".parse().unwrap(), || {
            wait_for("as many as there may be", LIMIT, || {
                self::subflows(far) >= subflows
            });
            std::thread::sleep(Duration::from_millis(100));
        });
        assert!(!done.fell_back);
        assert_eq!(done.subflows, subflows, "limit {limit}");
        assert_eq!(joins(near) - before, subflows as u64 - 1, "limit {limit}");
    }
    // Before the rig, which finds the namespaces gone.
    drop(lab);
}
