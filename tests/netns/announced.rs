// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Announcements of an operator's own, `announce`: the server announces nothing by itself, and the
//! client joins the address all the same; at both hooks, with complete and incomplete checksums, in
//! both families, with uploads and downloads.

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
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
use super::restored::errors;
use super::restored::subflows;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;

/// Of the first connection; each has its own.
const PORT: u16 = 6001;
/// Bytes of a transfer.
const SIZE: usize = 512 << 10;
/// Connections of each kind.
const EACH: usize = 4;

/// The policy is at `near`: the client where it is about what arrives, else the server.
pub(super) struct Ends {
    pub(super) rig: Rig,
    pub(super) hook: &'static str,
}

impl Ends {
    pub(super) fn new(hook: &'static str) -> Self {
        let ends = Self {
            rig: Rig::new(2, Tc::Tcx),
            hook,
        };
        for netns in [ends.server(), ends.client()] {
            netns.sh("sysctl -qw net.mptcp.enabled=1 && \
                 ip mptcp limits set subflow 4 add_addr_accepted 4");
        }
        ends
    }

    pub(super) fn server(&self) -> &Netns {
        match self.hook {
            "tc-ingress" => &self.rig.far,
            _ => &self.rig.near,
        }
    }

    pub(super) fn client(&self) -> &Netns {
        match self.hook {
            "tc-ingress" => &self.rig.near,
            _ => &self.rig.far,
        }
    }

    /// Address of the server on a link.
    pub(super) fn address(&self, v6: bool, link: usize) -> IpAddr {
        let host = if self.hook == "tc-ingress" { 1 } else { 2 };
        let text = match v6 {
            true => format!("fd77:{link}::{host}"),
            false => format!("10.77.{link}.{host}"),
        };
        text.parse().unwrap()
    }

    pub(super) fn offload(&self, state: &str) {
        for netns in [self.server(), self.client()] {
            netns.sh(&format!(
                "ethtool -K p0 tx {state}; ethtool -K p1 tx {state}"
            ));
        }
    }

    /// These actors, on the packets of the server.
    fn apply(&self, act: &Value) {
        let chain = json!([{ "name": "announce", "hook": self.hook, "interfaces": ["p0"],
            "select": { "mptcp": {} }, "act": act }]);
        self.rig.apply(&chain).ok();
    }

    pub(super) fn listen(&self, v6: bool, port: u16) -> TcpListener {
        listen(self.server(), v6, port)
    }

    /// Client and server of a connection.
    pub(super) fn connect(
        &self,
        v6: bool,
        port: u16,
        listener: &TcpListener,
    ) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(self.address(v6, 0), port);
        connect(self.client(), to, listener)
    }

    /// What was counted: announcements that the policy made, that the client took, joins that came
    /// to the server.
    fn counts(&self) -> [u64; 3] {
        let status = self.rig.status();
        let steps = status["chains"].as_array().unwrap().iter();
        let mut steps = steps.flat_map(|c| c["steps"].as_array().unwrap());
        let step = steps.find(|s| s["module"] == "announce").unwrap();
        [
            step["matched"].as_u64().unwrap(),
            counter(self.client(), "MPTcpExtAddAddr"),
            counter(self.server(), "MPTcpExtMPJoinSynRx"),
        ]
    }

    /// What was counted since.
    fn since(&self, before: [u64; 3]) -> [u64; 3] {
        let now = self.counts();
        [0, 1, 2].map(|n| now[n] - before[n])
    }
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The client sends: the server acknowledges, in packets that have room.
    Client,
    /// The server sends, and nothing but data.
    Server,
}

/// One connection, to whose client one address is announced.
fn connection(ends: &Ends, v6: bool, first: First, number: usize) {
    let port = PORT + number as u16;
    let listener = ends.listen(v6, port);
    let before = ends.counts();
    let (client, server) = ends.connect(v6, port, &listener);
    let bytes = fill(number, SIZE);
    let (from, to) = match first {
        First::Client => (&client, &server),
        First::Server => (&server, &client),
    };
    send(from, to, &bytes);
    wait_for("what was announced", LIMIT, || ends.since(before)[2] == 1);
    send(from, to, &bytes);
    send(to, from, &bytes);
    send(from, to, &bytes);
    let what = format!("{}, IPv6 {v6}, {first:?} first", ends.hook);
    assert_eq!(ends.since(before), [1, 1, 1], "{what}");
    assert!(!raw::mptcp_fell_back(&client), "{what}: fell back");
    drop((client, server));
    wait_for("its end", LIMIT, || subflows(ends.client(), port) == 0);
}

fn announces(hook: &'static str) {
    let ends = Ends::new(hook);
    let mut number = 0;
    for offload in ["on", "off"] {
        ends.offload(offload);
        for v6 in [false, true] {
            let address = ends.address(v6, 1);
            ends.apply(&json!([{ "announce": { "address": address, "addr_id": 200 } }]));
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
    println!(
        "{hook}: {number} connections, {}",
        ends.rig.status()["reasons"]
    );
    // What tells who was told what; no key, and no HMAC.
    let shown = ends.rig.run(&["--json", "status", "--state"]).ok().json();
    let maps = shown["state"].as_array().unwrap().iter();
    let maps: Vec<&str> = maps.filter_map(|of| of["map"].as_str()).collect();
    assert!(maps.contains(&"announcements"), "{maps:?}");
    for secret in ["secrets", "adding", "sha_scratch"] {
        assert!(!maps.contains(&secret), "{maps:?}");
    }
}

#[test]
fn root_announced_at_ingress() {
    announces("tc-ingress");
}

#[test]
fn root_announced_at_egress() {
    announces("tc-egress");
}

/// The kernel of the client looks at the HMAC, and at the port that it covers.
#[test]
fn root_announced_with_a_port_or_wrongly() {
    let ends = Ends::new("tc-egress");
    for (number, with_port, hmac_is_right) in [
        (0, false, true),
        (1, true, true),
        (2, false, false),
        (3, true, false),
    ] {
        let port = PORT + number;
        let mut announce = json!({ "address": ends.address(false, 1), "addr_id": 200 });
        if with_port {
            announce["port"] = port.into();
        }
        let mut act = json!([{ "announce": announce }]);
        if !hmac_is_right {
            let poison = json!({ "rm_add_addr": { "mode": "poison" } });
            act.as_array_mut().unwrap().push(poison);
        }
        ends.apply(&act);
        let listener = ends.listen(false, port);
        let before = ends.counts();
        let ports = counter(ends.client(), "MPTcpExtPortAdd");
        let (client, server) = ends.connect(false, port, &listener);
        let bytes = fill(usize::from(number), SIZE);
        send(&client, &server, &bytes);
        send(&server, &client, &bytes);
        let taken = u64::from(hmac_is_right);
        let what = format!("port {with_port}, right {hmac_is_right}");
        if hmac_is_right {
            wait_for("the join", LIMIT, || ends.since(before)[2] == 1);
        } else {
            std::thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(ends.since(before), [1, taken, taken], "{what}");
        let ports = counter(ends.client(), "MPTcpExtPortAdd") - ports;
        assert_eq!(ports, u64::from(hmac_is_right && with_port), "{what}");
        assert!(!raw::mptcp_fell_back(&client), "{what}: fell back");
    }
}

/// A connection that is older than the policy has no keys: it goes on, and that is counted.
#[test]
fn root_announced_without_keys() {
    let ends = Ends::new("tc-egress");
    let listener = ends.listen(false, PORT);
    let (mut client, mut server) = ends.connect(false, PORT, &listener);
    client.write_all(b"before").unwrap();
    server.read_exact(&mut [0; 6]).unwrap();
    ends.apply(&json!([{ "announce": { "address": ends.address(false, 1), "addr_id": 200 } }]));
    // What was there is taken over from the kernel.
    let views = ends.rig.run(&["--json", "connections"]).ok().json();
    assert_eq!(views.as_array().unwrap().len(), 1, "{views:#}");
    let before = ends.counts();
    let bytes = fill(1, SIZE);
    send(&client, &server, &bytes);
    send(&server, &client, &bytes);
    assert_eq!(ends.since(before), [0, 0, 0]);
    let reasons = ends.rig.status()["reasons"].clone();
    assert!(reasons.to_string().contains("no_keys"), "{reasons}");
}

/// Linux joins both addresses of an id that the stack uses itself, too, and knows the subflows by
/// what their SYN/ACKs say: when the stack withdraws its own, the other one stays.
#[test]
fn root_announced_under_an_id_that_is_taken() {
    let ends = Ends::new("tc-egress");
    let second = ends.address(false, 1);
    let third = "10.77.1.102";
    ends.server().sh(&format!(
        "ip addr add {third}/24 dev p1 && ip mptcp endpoint add {second} id 9 signal"
    ));
    ends.apply(&json!([{ "announce": { "address": third, "addr_id": 9 } }]));
    let listener = ends.listen(false, PORT);
    let before = ends.counts();
    let (client, server) = ends.connect(false, PORT, &listener);
    let bytes = fill(1, SIZE);
    let both = || {
        send(&client, &server, &bytes);
        send(&server, &client, &bytes);
        subflows(ends.client(), PORT)
    };
    wait_for("three subflows", LIMIT, || both() == 3);
    assert_eq!(ends.since(before), [1, 2, 2]);
    ends.server().sh("ip mptcp endpoint del id 9");
    wait_for("two subflows", LIMIT, || both() == 2);
    let left = (ends.client()).sh(&format!("ss -Htn state established dport = :{PORT}"));
    assert!(left.contains(third), "{left}");
    both();
    assert_eq!(ends.since(before), [1, 2, 2]);
}

/// `examples/second-address.json`, with other thresholds: announced, joined, and withdrawn by the id
/// that the stack has given the subflow.
#[test]
fn root_announced_and_withdrawn_as_in_the_example() {
    let ends = Ends::new("tc-egress");
    let second = ends.address(false, 1).to_string();
    let text = include_str!("../../examples/second-address.json")
        .replace("192.0.2.7", &second)
        .replace("eth*", "p*")
        .replace("1GiB", "4MiB");
    let mut policy: Value = serde_json::from_str(&text).unwrap();
    ends.rig.apply(&policy["chains"].take()).ok();
    let listener = ends.listen(false, PORT);
    let before = ends.counts();
    let removed = || counter(ends.client(), "MPTcpExtRmAddr");
    let none = removed();
    let (client, server) = ends.connect(false, PORT, &listener);
    let bytes = fill(1, SIZE);
    let few = &bytes[..64 << 10];
    let living = || subflows(ends.client(), PORT);
    for (from, to) in [(&client, &server), (&server, &client)] {
        send(from, to, few);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((ends.since(before), living()), ([0, 0, 0], 1));
    send(&client, &server, &bytes);
    wait_for("the second subflow", LIMIT, || living() == 2);
    assert_eq!((ends.since(before), removed()), ([1, 1, 1], none));
    wait_for("its end", LIMIT, || {
        send(&server, &client, &bytes);
        removed() > none && living() == 1
    });
    for (from, to) in [(&client, &server), (&server, &client)] {
        send(from, to, &bytes);
    }
    assert_eq!((ends.since(before), removed()), ([1, 1, 1], none + 1));
    assert_eq!(living(), 1);
    assert!(!raw::mptcp_fell_back(&client), "fell back");
}
