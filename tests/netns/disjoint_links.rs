// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The policy `examples/disjoint-links.json`: of addresses behind one link, one subflow.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::pair;
use super::pair::LIMIT;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::raw;
use super::reader::Reader;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;

/// In which a subflow would have come that must not.
const WHILE: Duration = Duration::from_millis(400);

/// The client is `near`, the server `far`; both have two addresses at each of two links.
struct Stand {
    rig: Rig,
}

/// An address of the family: of a link and host, as the rig has them, in the usual spelling.
fn address(v6: bool, link: u32, host: u32) -> String {
    let text = match v6 {
        true => format!("fd77:{link}::{host}"),
        false => format!("10.77.{link}.{host}"),
    };
    text.parse::<IpAddr>().unwrap().to_string()
}

impl Stand {
    fn new() -> Self {
        let rig = Rig::new(2, Tc::Tcx);
        for (netns, first) in [(&rig.far, 100), (&rig.near, 200)] {
            netns.sh(
                "sysctl -qw net.mptcp.enabled=1 net.ipv4.conf.all.rp_filter=0 \
                 net.ipv4.conf.p0.rp_filter=0 net.ipv4.conf.p1.rp_filter=0 && \
                 ip mptcp limits set subflow 8 add_addr_accepted 8",
            );
            for (link, host) in [(0, first), (1, first), (1, first + 1)] {
                // Not chosen as source of the first subflow.
                netns.sh(&format!(
                    "ip addr add {}/24 dev p{link}; \
                     ip addr add {}/64 dev p{link} nodad preferred_lft 0",
                    address(false, link, host),
                    address(true, link, host)
                ));
            }
        }
        // Further addresses of the client lead to the server's first one by their own link.
        for v6 in [false, true] {
            let ip = if v6 { "ip -6" } else { "ip" };
            let via = address(v6, 1, 1);
            let table = 70 + u32::from(v6);
            rig.near
                .sh(&format!("{ip} route add default via {via} table {table}"));
            for host in [2, 200, 201] {
                let from = address(v6, 1, host);
                rig.near
                    .sh(&format!("{ip} rule add from {from} table {table}"));
            }
        }
        Self { rig }
    }

    /// Puts the example in force, with these links.
    fn apply(&self, links: &Value) {
        let policy = example(links).to_string();
        let file = self.rig.folder.write("disjoint.json", policy);
        self.rig.run(&["apply", file.to_str().unwrap()]).ok();
    }

    /// And `path-manager.json` beside it, as fragments of one policy.
    fn apply_beside_path_manager(&self, links: &Value) {
        let folder = self.rig.folder.0.join("fragments");
        std::fs::create_dir_all(&folder).unwrap();
        let manager = interfaces(include_str!("../../examples/path-manager.json"));
        std::fs::write(folder.join("10-path-manager.json"), manager).unwrap();
        let disjoint = example(links).to_string();
        std::fs::write(folder.join("20-disjoint-links.json"), disjoint).unwrap();
        self.rig.run(&["apply", folder.to_str().unwrap()]).ok();
    }

    /// A connection on which data flow; the listener takes what joins.
    fn connect(&self, v6: bool, port: u16) -> (TcpStream, TcpStream, TcpListener) {
        let listener = listen(&self.rig.far, v6, port);
        let to: IpAddr = address(v6, 0, 1).parse().unwrap();
        let (near, far) = pair::connect(&self.rig.near, SocketAddr::new(to, port), &listener);
        self.talk(&near, &far);
        (near, far, listener)
    }

    fn talk(&self, near: &TcpStream, far: &TcpStream) {
        let bytes = fill(1, 1000);
        send(near, far, &bytes);
        send(far, near, &bytes);
    }

    /// The established subflows of the client but for the first one, by its own address and the
    /// server's.
    fn joined(&self, v6: bool, port: u16) -> Vec<[String; 2]> {
        let sockets = self
            .rig
            .near
            .sh(&format!("ss -Htn state established dport = :{port}"));
        let lines = sockets.lines().map(|line| {
            let ends: Vec<SocketAddr> = line
                .split_whitespace()
                // Behind the address of an endpoint that is bound to it: the interface.
                .filter_map(|word| word.replace("%p0", "").replace("%p1", "").parse().ok())
                .collect();
            [0, 1].map(|end| ends[end].ip().to_canonical().to_string())
        });
        let first = [address(v6, 0, 2), address(v6, 0, 1)];
        lines.filter(|ends| *ends != first).collect()
    }

    /// Waits until exactly these addresses of one side have a further subflow, then for others.
    #[track_caller]
    fn assert_joined(&self, what: &str, v6: bool, port: u16, side: usize, wanted: &[String]) {
        let sorted = |mut addresses: Vec<String>| {
            addresses.sort();
            addresses
        };
        let wanted = sorted(wanted.to_vec());
        let now = || {
            let joined = self.joined(v6, port).into_iter();
            sorted(joined.map(|ends| ends[side].clone()).collect())
        };
        wait_for(&format!("{what}: {wanted:?}"), LIMIT, || now() == wanted);
        std::thread::sleep(WHILE);
        assert_eq!(now(), wanted, "{what}");
    }
}

/// An example for the interfaces of the rig.
fn interfaces(text: &str) -> String {
    text.replace("eth*", "p0").replace("wlan*", "p1")
}

fn example(links: &Value) -> Value {
    let text = interfaces(include_str!("../../examples/disjoint-links.json"));
    let mut policy: Value = serde_json::from_str(&text).unwrap();
    policy["tables"]["links"]["elements"] = links.clone();
    policy
}

fn endpoint(netns: &Netns, what: &str) {
    netns.sh(&format!("ip mptcp endpoint {what}"));
}

/// The links of the server's addresses: those of the first, and those of the second.
fn links(v6: bool, side: u32) -> Value {
    let bits = if v6 { 128 } else { 32 };
    let mut links = json!({});
    for (link, host) in [(0, 1), (0, 100), (1, 1), (1, 100), (1, 101)] {
        let host = match (side, host) {
            (0, host) => host,
            (_, 1) => 2,
            (_, host) => host + 100,
        };
        links[format!("{}/{bits}", address(v6, link, host))] = (link + 1).into();
    }
    links
}

/// What the server announces: a subflow for each link, and another one once that is free.
#[test]
fn root_disjoint_links_of_a_server() {
    let stand = Stand::new();
    let (near, far) = (&stand.rig.near, &stand.rig.far);
    let announce = |v6: bool, link: u32, host: u32, id: u32| {
        endpoint(
            far,
            &format!("add {} id {id} signal", address(v6, link, host)),
        );
    };
    for v6 in [false, true] {
        let of = |link, host| address(v6, link, host);
        let port = 5001 + 10 * u16::from(v6);
        endpoint(far, "flush");
        announce(v6, 0, 100, 9);
        announce(v6, 1, 1, 10);
        // All of them without the policy.
        let open = stand.connect(v6, port);
        stand.assert_joined("no policy", v6, port, 1, &[of(0, 100), of(1, 1)]);
        drop(open);

        stand.apply(&links(v6, 0));
        let joins = || counter(far, "MPTcpExtMPJoinSynRx");
        let before = joins();
        let port = port + 1;
        let (client, server, _listener) = stand.connect(v6, port);
        stand.assert_joined("two links", v6, port, 1, &[of(1, 1)]);
        announce(v6, 1, 100, 11);
        stand.assert_joined("behind the second", v6, port, 1, &[of(1, 1)]);
        assert_eq!(joins() - before, 1);
        assert!(stand.rig.matched("rm_add_addr") >= 2);

        // Nobody confirms what was suppressed, so it is announced again, for 1.5 s: then not one
        // of these takes the link, but what comes later.
        std::thread::sleep(Duration::from_millis(2500));
        // The holder goes, and its link is free.
        endpoint(far, "delete id 10");
        stand.assert_joined("the holder has gone", v6, port, 1, &[]);
        announce(v6, 1, 101, 12);
        stand.assert_joined("free again", v6, port, 1, &[of(1, 101)]);

        // An address gets a link of its own.
        let bits = if v6 { 128 } else { 32 };
        let prefix = format!("{}/{bits}", of(0, 100));
        stand.rig.run(&["table", "add", "links", &prefix, "3"]).ok();
        endpoint(far, "delete id 9");
        announce(v6, 0, 100, 9);
        let all = [of(0, 100), of(1, 101)];
        stand.assert_joined("the table has changed", v6, port, 1, &all);
        stand.talk(&client, &server);
        assert!(!raw::mptcp_fell_back(&client));
        assert_eq!(stand.rig.status()["reasons"], json!({}));
        stand.rig.run(&["delete"]).ok();
    }
    assert_eq!(counter(near, "TcpInCsumErrors"), 0);
}

/// Endpoints of the client's own, which are all opened at once.
#[test]
fn root_disjoint_links_of_a_client() {
    let stand = Stand::new();
    let near = &stand.rig.near;
    for v6 in [false, true] {
        let of = |link, host| address(v6, link, host);
        let add = |link: u32, host: u32, id: u32| {
            endpoint(
                near,
                &format!("add {} dev p{link} id {id} subflow", of(link, host)),
            );
        };
        let port = 5001 + 10 * u16::from(v6);
        endpoint(near, "flush");
        add(0, 200, 9);
        add(1, 2, 10);
        add(1, 200, 11);
        let all = [of(0, 200), of(1, 2), of(1, 200)];
        let open = stand.connect(v6, port);
        stand.assert_joined("no policy", v6, port, 0, &all);
        drop(open);

        stand.apply(&links(v6, 1));
        let port = port + 1;
        let (client, server, _listener) = stand.connect(v6, port);
        wait_for("one by the other link", LIMIT, || {
            stand.joined(v6, port).len() == 1
        });
        std::thread::sleep(WHILE);
        let joined = stand.joined(v6, port);
        assert_eq!(joined.len(), 1, "{joined:?}");
        let holder = joined[0][0].clone();
        assert!([of(1, 2), of(1, 200)].contains(&holder), "{joined:?}");
        assert_eq!(stand.rig.matched("reject_join"), 2);

        // Killed, as by somebody else: both ends see a RST.
        near.sh(&format!("ss -K src '[{holder}]' dport = :{port}"));
        stand.assert_joined("the holder has gone", v6, port, 0, &[]);
        add(1, 201, 12);
        stand.assert_joined("free again", v6, port, 0, &[of(1, 201)]);
        stand.talk(&client, &server);
        assert!(!raw::mptcp_fell_back(&client));
        assert_eq!(stand.rig.status()["reasons"], json!({}));
        stand.rig.run(&["delete"]).ok();
    }
}

/// A connection that is older than the policy: its subflows are known, too.
#[test]
fn root_disjoint_links_of_older_connections() {
    let stand = Stand::new();
    let far = &stand.rig.far;
    for v6 in [false, true] {
        let of = |link, host| address(v6, link, host);
        let port = 5001 + 10 * u16::from(v6);
        endpoint(far, "flush");
        endpoint(far, &format!("add {} id 10 signal", of(1, 1)));
        let (client, server, _listener) = stand.connect(v6, port);
        stand.assert_joined("no policy", v6, port, 1, &[of(1, 1)]);
        stand.apply(&links(v6, 0));
        for (link, host, id) in [(0, 100, 9), (1, 100, 11)] {
            endpoint(far, &format!("add {} id {id} signal", of(link, host)));
            stand.talk(&client, &server);
        }
        stand.assert_joined("older", v6, port, 1, &[of(1, 1)]);
        assert!(stand.rig.matched("rm_add_addr") >= 2);
        assert_eq!(stand.rig.status()["reasons"], json!({}));
        stand.rig.run(&["delete"]).ok();
    }
}

/// What the path manager brings back is opened where no subflow is, and nowhere else.
#[test]
fn root_disjoint_links_beside_a_path_manager() {
    let stand = Stand::new();
    let far = &stand.rig.far;
    for v6 in [false, true] {
        let of = |link, host| address(v6, link, host);
        let port = 5001 + 10 * u16::from(v6);
        endpoint(far, "flush");
        for (link, host, id) in [(0, 100, 9), (1, 1, 10), (1, 100, 11)] {
            endpoint(far, &format!("add {} id {id} signal", of(link, host)));
        }
        stand.apply_beside_path_manager(&links(v6, 0));
        let (client, server, _listener) = stand.connect(v6, port);
        stand.assert_joined("does not pay yet", v6, port, 1, &[]);
        let bytes = fill(2, 300 << 10);
        send(&server, &client, &bytes);
        wait_for("one by the other link", LIMIT, || {
            stand.joined(v6, port).len() == 1
        });
        stand.talk(&client, &server);
        std::thread::sleep(WHILE);
        let joined = stand.joined(v6, port);
        assert_eq!(joined.len(), 1, "{joined:?}");
        assert!([of(1, 1), of(1, 100)].contains(&joined[0][1]), "{joined:?}");
        assert!(stand.rig.matched("restore_addr") >= 1);
        assert!(stand.rig.matched("reject_join") >= 2);
        send(&client, &server, &bytes);
        assert!(!raw::mptcp_fell_back(&client));
        assert_eq!(stand.rig.status()["reasons"], json!({}));
        stand.rig.run(&["delete"]).ok();
    }
}

/// Links that are declared otherwise while connections live, and `emptcp run` that is killed: what is
/// there stays, the next announcement meets the links of then.
#[test]
fn root_disjoint_links_changed_at_run_time() {
    let stand = Stand::new();
    let far = &stand.rig.far;
    for v6 in [false, true] {
        let of = |link, host| address(v6, link, host);
        let announce = |link: u32, host: u32, id: u32| {
            endpoint(far, &format!("add {} id {id} signal", of(link, host)));
        };
        let port = 5001 + 10 * u16::from(v6);
        endpoint(far, "flush");
        announce(1, 1, 10);
        let declared = links(v6, 0);
        stand.apply(&declared);
        let daemon = Reader::start(&stand.rig, "run", &["run"]);
        let (client, server, _listener) = stand.connect(v6, port);
        stand.assert_joined("as declared", v6, port, 1, &[of(1, 1)]);

        let bits = if v6 { 128 } else { 32 };
        let mut other = declared.clone();
        other[format!("{}/{bits}", of(1, 100))] = json!(9);
        let bytes = fill(2, 1 << 20);
        std::thread::scope(|scope| {
            let flows = scope.spawn(|| {
                for _ in 0..5 {
                    send(&server, &client, &bytes);
                }
            });
            stand.apply(&other);
            flows.join().unwrap();
        });
        announce(1, 100, 11);
        let both = [of(1, 1), of(1, 100)];
        stand.assert_joined("a link of its own", v6, port, 1, &both);

        daemon.signal(Signal::SIGKILL);
        drop(daemon);
        announce(1, 101, 12);
        stand.assert_joined("run was killed", v6, port, 1, &both);
        // Those that share a link now stay.
        stand.apply(&declared);
        stand.talk(&client, &server);
        announce(0, 100, 9);
        stand.assert_joined("as before", v6, port, 1, &both);
        stand.talk(&client, &server);
        assert!(!raw::mptcp_fell_back(&client));
        assert_eq!(stand.rig.status()["reasons"], json!({}));
        stand.rig.run(&["delete"]).ok();
    }
}
