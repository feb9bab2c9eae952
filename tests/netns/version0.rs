// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Multipath TCP version 0 (RFC 6824) between two scripted ends, which no Linux is, through a router
//! with a policy: what the tracker has of a connection with two subflows, what is told of it, and an
//! ADD_ADDR that is suppressed and restored.

use std::net::IpAddr;
use std::time::Duration;

use emptcp_test::csum;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use hmac::Hmac;
use hmac::KeyInit as _;
use hmac::Mac as _;
use serde_json::Value;
use serde_json::json;
use sha1::Digest as _;
use sha1::Sha1;

use super::monitor::events;
use super::monitor::story;
use super::pair::LIMIT;
use super::raw::Frames;
use super::reader::Reader;
use super::reader::counts;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::sh;
use super::rig::wait_for;
use super::ss::place;

const SERVER_PORT: u16 = 80;
/// Of the client's first subflow; the next one of its second.
const CLIENT_PORT: u16 = 40000;
/// Bytes from which on the announcement is restored.
const THRESHOLD: u64 = 4000;

/// Token and first data sequence number of a key (RFC 6824, 3.1, 3.2).
fn token_and_idsn(key: u64) -> (u32, u64) {
    let hash = Sha1::digest(key.to_be_bytes());
    let (token, idsn) = (hash.first_chunk(), hash.last_chunk());
    (
        u32::from_be_bytes(*token.unwrap()),
        u64::from_be_bytes(*idsn.unwrap()),
    )
}

/// Of a further subflow, from the end whose key and nonce come first (RFC 6824, 3.2).
fn hmac(keys: [u64; 2], nonces: [u32; 2]) -> Vec<u8> {
    let key = keys.map(u64::to_be_bytes).concat();
    let mut hmac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
    hmac.update(&nonces.map(u32::to_be_bytes).concat());
    hmac.finalize().into_bytes().to_vec()
}

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Client,
    Server,
}

/// The scripted ends at both sides of a router (`near` of the rig). Their addresses are nobody's, so
/// that no kernel answers.
struct Ends {
    /// Before the rig, whose namespaces it keeps.
    client: [Frames; 2],
    server: Frames,
    family: Family,
    /// Next sequence numbers of client and server, of each subflow.
    next: [[u32; 2]; 2],
}

/// What arrived.
struct Arrived {
    /// Options of TCP.
    options: Vec<u8>,
    payload: usize,
}

impl Arrived {
    /// Options of a kind, and of a subtype of Multipath TCP.
    fn mptcp(&self, subtype: u8) -> Vec<&[u8]> {
        let mut found = Vec::new();
        let mut rest = &self.options[..];
        while let [kind, ..] = *rest {
            let len = match kind {
                0 | 1 => 1,
                _ => usize::from(rest[1]),
            };
            if kind == 30 && rest[2] >> 4 == subtype {
                found.push(&rest[..len]);
            }
            rest = &rest[len..];
        }
        found
    }
}

const ADD_ADDR: u8 = 3;

fn address(v6: bool, link: usize, host: usize) -> IpAddr {
    let text = match v6 {
        false => format!("10.77.{link}.{host}"),
        true => format!("fd77:{link}::{host}"),
    };
    text.parse().unwrap()
}

/// The rig, with the server's side of the router; link 2 is that.
fn rig() -> (Rig, Netns) {
    let rig = Rig::new(2, Tc::Tcx);
    let server = Netns::new();
    sh(&format!(
        "ip link add p2 netns {} address 02:00:00:00:00:03 type veth \
         peer name p2 netns {} address 02:00:00:00:00:04",
        server.name, rig.near.name
    ));
    server.sh("ip link set p2 up");
    rig.near.sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 && \
         ip addr add 10.77.2.2/24 dev p2 && ip addr add fd77:2::2/64 dev p2 nodad && \
         ip link set p2 up",
    );
    for (link, mac) in [(0, 1), (1, 1), (2, 3)] {
        for v6 in [false, true] {
            rig.near.sh(&format!(
                "ip neigh add {} lladdr 02:00:00:00:00:0{mac} dev p{link} nud permanent",
                address(v6, link, 50)
            ));
        }
    }
    (rig, server)
}

impl Ends {
    fn new(rig: &Rig, server: &Netns, family: Family) -> Self {
        let listen = |netns: &Netns, name: &str| {
            let ifindex = netns.ifindex(name);
            netns.within(|| Frames::listen(ifindex))
        };
        Self {
            client: ["p0", "p1"].map(|name| listen(&rig.far, name)),
            server: listen(server, "p2"),
            family,
            next: [[7_000_000, 3_000_000_000]; 2],
        }
    }

    fn v6(&self) -> bool {
        self.family == Family::Ip6
    }

    /// Address and port of an end.
    fn end(&self, from: From, subflow: usize) -> (IpAddr, u16) {
        match from {
            From::Client => (
                address(self.v6(), subflow, 50),
                CLIENT_PORT + subflow as u16,
            ),
            From::Server => (address(self.v6(), 2, 50), SERVER_PORT),
        }
    }

    /// Sends a packet with the next sequence number through the router: what arrives at the other
    /// end, with a right checksum. Options, if they are as they were, or are `edited`.
    fn pass(
        &mut self,
        from: From,
        subflow: usize,
        flags: &str,
        options: Value,
        payload: usize,
        edited: bool,
    ) -> Arrived {
        let to = match from {
            From::Client => From::Server,
            From::Server => From::Client,
        };
        let way = from as usize;
        let (seq, ack) = (self.next[subflow][way], self.next[subflow][1 - way]);
        let ends = [self.end(from, subflow), self.end(to, subflow)];
        let macs = match from {
            From::Client => ["02:00:00:00:00:01", "02:00:00:00:00:02"],
            From::Server => ["02:00:00:00:00:03", "02:00:00:00:00:04"],
        };
        let packet: Packet = serde_json::from_value(json!({
            "eth": { "src": macs[0], "dst": macs[1] },
            "ip": { "src": ends[0].0.to_string(), "dst": ends[1].0.to_string() },
            "tcp": { "sport": ends[0].1, "dport": ends[1].1, "flags": flags, "seq": seq,
                "ack": if flags == "S" { 0 } else { ack }, "options": options },
            "payload": payload,
        }))
        .unwrap();
        let built = packet.build(self.family).unwrap().bytes;
        let (out, into) = match from {
            From::Client => (&self.client[subflow], &self.server),
            From::Server => (&self.server, &self.client[subflow]),
        };
        assert!(out.send(&built));
        let begins = flags.contains(['S', 'F']);
        self.next[subflow][way] = seq.wrapping_add(payload as u32 + u32::from(begins));
        // Neighbours are asked for meanwhile.
        let ip = if self.v6() { 40 } else { 20 };
        let tcp = 14 + ip;
        let frame = std::iter::from_fn(|| into.next(LIMIT))
            .find(|frame| frame.len() > tcp + 20 && frame[tcp..tcp + 4] == built[tcp..tcp + 4])
            .unwrap_or_else(|| panic!("{from:?}, {flags}, {options}: nothing arrives"));
        let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let whole = match self.v6() {
            false => usize::from(number(16)),
            true => usize::from(number(18)) + 40,
        };
        let data = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
        let arrived = Arrived {
            options: frame[tcp + 20..data].to_vec(),
            payload: whole + 14 - data,
        };
        assert_eq!(arrived.payload, payload, "{options}");
        assert_eq!(frame[tcp + 4..tcp + 12], built[tcp + 4..tcp + 12]);
        let sent = tcp + 20..tcp + usize::from(built[tcp + 12] >> 4) * 4;
        assert_eq!(
            arrived.options != built[sent],
            edited,
            "{options} have become {:x?}",
            arrived.options
        );
        // The other end hears the first bytes of what is long.
        if frame.len() >= whole + 14 {
            let mut segment = frame[tcp..whole + 14].to_vec();
            let checksum = number(tcp + 16);
            segment[16..18].fill(0);
            let right = csum::transport(ends[0].0, ends[1].0, 6, &segment);
            assert_eq!(checksum, right, "{options}: checksum");
        }
        arrived
    }

    fn unchanged(
        &mut self,
        from: From,
        subflow: usize,
        flags: &str,
        options: Value,
        payload: usize,
    ) {
        self.pass(from, subflow, flags, options, payload, false);
    }
}

/// Counts from here on, of client and server, what is sent of a connection.
struct Data {
    /// Next data sequence numbers.
    next: [u32; 2],
    /// Bytes by subflow.
    bytes: [[u64; 2]; 2],
}

impl Data {
    /// A data ACK, and the mapping of so many bytes that are sent with it.
    fn dss(&mut self, ends: &Ends, from: From, subflow: usize, payload: usize) -> Value {
        let way = from as usize;
        let mut dss = json!({ "ack": self.next[1 - way] });
        if payload > 0 {
            dss["dsn"] = self.next[way].into();
            // Relative to the SYN's.
            let first: u32 = [7_000_000, 3_000_000_000][way];
            dss["ssn"] = (ends.next[subflow][way] - first).into();
            dss["len"] = payload.into();
        }
        self.next[way] = self.next[way].wrapping_add(payload as u32);
        self.bytes[subflow][way] += payload as u64;
        json!({ "dss": dss })
    }

    /// Sends data, which the other end acknowledges.
    fn send(&mut self, ends: &mut Ends, from: From, subflow: usize, payload: usize) {
        let dss = self.dss(ends, from, subflow, payload);
        let options = json!([{ "timestamps": [1, 2] }, dss]);
        ends.unchanged(from, subflow, "PA", options, payload);
        // Of what the server says nothing here: its ACKs are looked at apart.
        if from == From::Server {
            let dss = self.dss(ends, From::Client, subflow, 0);
            let options = json!([{ "timestamps": [1, 2] }, dss]);
            ends.unchanged(From::Client, subflow, "A", options, 0);
        }
    }

    /// An ACK of the server, with more options; what arrives.
    fn ack(&mut self, ends: &mut Ends, subflow: usize, more: &[Value], edited: bool) -> Arrived {
        let dss = self.dss(ends, From::Server, subflow, 0);
        let options = [&[json!({ "timestamps": [1, 2] }), dss], more].concat();
        ends.pass(From::Server, subflow, "A", options.into(), 0, edited)
    }
}

fn views(rig: &Rig, verb: &str) -> Vec<Value> {
    let views = rig.run(&["--json", verb]).ok().json();
    views.as_array().unwrap().clone()
}

/// Both subflows, by what the tracker has of them: number, kind, and bytes of client and server.
fn assert_tracked(rig: &Rig, ends: &Ends, data: &Data, keys: [u64; 2]) {
    let [client, server] = keys.map(|key| format!("0x{:08x}", token_and_idsn(key).0));
    let subflows = views(rig, "subflows");
    assert_eq!(subflows.len(), 2, "{subflows:#?}");
    for (index, v) in subflows.iter().enumerate() {
        assert_eq!(v["version"], 0, "{v:#}");
        assert_eq!(v["token"], server, "{v:#}");
        assert_eq!(v["index"], index, "{v:#}");
        assert_eq!(v["kind"], ["initial", "joined"][index]);
        assert_eq!(v["state"], "established");
        assert_eq!(v["client"], "from");
        assert_eq!(v["fallback"], Value::Null);
        for (way, name) in [(From::Client, "from"), (From::Server, "to")] {
            let (address, port) = ends.end(way, index);
            let end = std::net::SocketAddr::new(address, port);
            assert_eq!(place(&v[name]), end.to_string());
            assert_eq!(v[name]["bytes"], data.bytes[index][way as usize], "{v:#}");
            assert_eq!(v[name]["retransmitted_bytes"], 0, "{v:#}");
        }
    }
    let connections = views(rig, "connections");
    assert_eq!(connections.len(), 1, "{connections:#?}");
    let c = &connections[0];
    let sum = |way: From| data.bytes.iter().map(|b| b[way as usize]).sum::<u64>();
    assert_eq!(
        [
            "version",
            "token",
            "client_token",
            "state",
            "subflows",
            "subflows_ever"
        ]
        .map(|f| &c[f]),
        [
            &json!(0),
            &json!(server),
            &json!(client),
            &json!("open"),
            &json!(2),
            &json!(2)
        ],
        "{c:#}"
    );
    assert_eq!(c["bytes_up"], sum(From::Client), "{c:#}");
    assert_eq!(c["bytes_down"], sum(From::Server), "{c:#}");
}

fn a_connection(family: Family) {
    let (rig, server) = rig();
    // The policy of examples/delay-subflows.json, in front of a client.
    let policy = json!({ "version": 1, "track": ["p*"], "chains": [
        { "name": "suppress", "hook": "tc-ingress", "interfaces": ["p2"],
          "select": { "all": [{ "packet_type": { "any": ["add_addr"] } },
              { "not": { "conn_bytes": { "min": THRESHOLD } } }] },
          "act": [{ "rm_add_addr": {} }] },
        { "name": "restore", "hook": "tc-ingress", "interfaces": ["p2"], "priority": 1,
          "select": { "conn_bytes": { "min": THRESHOLD } }, "act": [{ "restore_addr": {} }] },
        { "name": "old", "hook": "tc-ingress", "interfaces": ["p0", "p1"],
          "select": { "version": { "any": ["v0"] } }, "act": [{ "record": {} }] } ] });
    let path = rig.folder.write("version0.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let monitor = Reader::start(
        &rig,
        "m",
        &[
            "--json",
            "monitor",
            "connection",
            "subflow",
            "add_addr",
            "prio",
            "fallback",
        ],
    );

    let keys: [u64; 2] = std::array::from_fn(|_| fastrand::u64(1 << 63..));
    let [client_key, server_key] = keys.map(|key| format!("{key:#x}"));
    let [client, server_] = keys.map(token_and_idsn);
    let mut ends = Ends::new(&rig, &server, family);
    let mut data = Data {
        next: [client.1, server_.1].map(|idsn| (idsn as u32).wrapping_add(1)),
        bytes: [[0; 2]; 2],
    };
    // The first subflow.
    let capable = |keys: &[&String]| {
        let mut option = json!({ "version": 0 });
        for (name, key) in ["sender_key", "receiver_key"].iter().zip(keys) {
            option[*name] = json!(key);
        }
        json!([{ "timestamps": [1, 2] }, { "mp_capable": option }])
    };
    ends.unchanged(From::Client, 0, "S", capable(&[&client_key]), 0);
    ends.unchanged(From::Server, 0, "SA", capable(&[&server_key]), 0);
    ends.unchanged(
        From::Client,
        0,
        "A",
        capable(&[&client_key, &server_key]),
        0,
    );
    data.send(&mut ends, From::Client, 0, 100);
    data.send(&mut ends, From::Server, 0, 300);

    // An address that the client does not learn, then one that joins.
    let second = address(ends.v6(), 2, 51);
    let add_addr = json!({ "add_addr": { "version": 0, "id": 9, "addr": second.to_string() } });
    let without = data.ack(&mut ends, 0, std::slice::from_ref(&add_addr), true);
    assert_eq!(without.mptcp(ADD_ADDR), [[0u8; 0]; 0]);
    let nonces = [fastrand::u32(..), fastrand::u32(..)];
    let join = json!([{ "mp_join_syn": { "id": 5, "token": server_.0, "nonce": nonces[0] } }]);
    ends.unchanged(From::Client, 1, "S", join, 0);
    let theirs = hmac([keys[1], keys[0]], [nonces[1], nonces[0]]);
    let truncated = u64::from_be_bytes(*theirs.first_chunk().unwrap());
    let join = json!([{ "mp_join_synack": { "id": 6, "nonce": nonces[1],
        "hmac": format!("{truncated:#x}") } }]);
    ends.unchanged(From::Server, 1, "SA", join, 0);
    let own: String = hmac(keys, nonces)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    ends.unchanged(From::Client, 1, "A", json!([{ "mp_join_ack": own }]), 0);
    data.ack(&mut ends, 1, &[], false);
    data.send(&mut ends, From::Client, 1, 700);
    data.send(&mut ends, From::Server, 1, 500);
    assert_tracked(&rig, &ends, &data, keys);
    // With an address id, as version 1 has none (RFC 6824, 3.3.8).
    let dss = data.dss(&ends, From::Client, 1, 0);
    let prio = json!([dss, { "mp_prio": { "backup": true, "id": 5 } }]);
    ends.unchanged(From::Client, 1, "A", prio, 0);

    // Behind the threshold it comes, once, as it was.
    for _ in 0..4 {
        data.send(&mut ends, From::Client, 0, 1000);
    }
    let with = data.ack(&mut ends, 0, &[], true);
    let announced = match second {
        IpAddr::V4(v4) => [&[30, 8, 0x34, 9], &v4.octets()[..]].concat(),
        IpAddr::V6(v6) => [&[30, 20, 0x36, 9], &v6.octets()[..]].concat(),
    };
    assert_eq!(with.mptcp(ADD_ADDR), [announced]);
    for subflow in [0, 1] {
        data.ack(&mut ends, subflow, &[], false);
    }
    // One that is announced now passes.
    data.ack(&mut ends, 0, &[add_addr], false);
    assert_tracked(&rig, &ends, &data, keys);

    // The end: RFC 6824, 3.5.
    let close = json!([{ "mp_fastclose": server_key }]);
    ends.unchanged(From::Client, 0, "A", close, 0);
    for subflow in [1, 0] {
        ends.unchanged(
            From::Server,
            subflow,
            "RA",
            json!([{ "timestamps": [1, 2] }]),
            0,
        );
    }
    wait_for("its end", LIMIT, || {
        views(&rig, "subflows").is_empty() && views(&rig, "connections").is_empty()
    });
    std::thread::sleep(Duration::from_millis(100));
    let (out, err) = monitor.end();
    assert_eq!(counts(&err).1, 0);
    let all = events(&out);
    assert_eq!(
        story(&all),
        [
            "connection opened",
            "subflow opened initial",
            "add_addr",
            "subflow opened joined",
            "prio",
            "add_addr",
            "subflow closed joined",
            "subflow closed initial",
            "connection closed",
        ],
        "{out}"
    );
    for event in &all {
        assert_eq!(event["token"], format!("0x{:08x}", server_.0), "{event}");
        assert_eq!(event["client_token"], format!("0x{:08x}", client.0));
    }
    for number in [0, 1, 3, 6, 7, 8] {
        assert_eq!(all[number]["version"], 0, "{}", all[number]);
    }
    for number in [2, 5] {
        assert_eq!(
            ["addr", "addr_id", "echo", "src_is"].map(|f| &all[number][f]),
            [&json!(second), &json!(9), &json!(false), &json!("server")]
        );
    }
    assert_eq!(
        ["backup", "src_is", "interface"].map(|f| &all[4][f]),
        [&json!(true), &json!("client"), &json!("p1")]
    );
    assert_eq!(all[8]["by"], "fastclose");
    let status = rig.status();
    assert_eq!(status["reasons"], json!({}), "{status:#}");
    let done = |module| rig.matched(module);
    assert_eq!((done("rm_add_addr"), done("restore_addr")), (1, 1));
    println!(
        "{family:?}: {} packets of version 0 from the client",
        done("version")
    );
}

#[test]
fn root_version_0_through_a_router() {
    a_connection(Family::Ip4);
}

#[test]
fn root_version_0_through_a_router_ip6() {
    a_connection(Family::Ip6);
}
