//! What the tracker makes of sequences of packets, and of floods.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Instant;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;
use sha1::Sha1;
use sha2::Digest as _;
use sha2::Sha256;

const CLIENT_KEY: u64 = 0x1122_3344_5566_7788;
const SERVER_KEY: u64 = 0x99aa_bbcc_ddee_ff00;

/// Places in `struct emptcp_track_subflow` and `struct emptcp_track_way` (`track.h`).
mod at {
    pub(super) const CONN: usize = 8;
    pub(super) const FALLBACK_SEQ: usize = 32;
    pub(super) const FALLBACK: usize = 36;
    pub(super) const FALLBACK_WAY: usize = 37;
    pub(super) const STATE: usize = 38;
    pub(super) const KIND: usize = 39;
    pub(super) const VERSION: usize = 40;
    pub(super) const INDEX: usize = 41;
    pub(super) const FLAGS: usize = 42;
    pub(super) const CLIENT: usize = 44;
    pub(super) const WAYS: usize = 48;
    pub(super) const WAY: usize = 120;
    pub(super) const WAY_PACKETS: usize = 16;
    pub(super) const WAY_RETRANSMITTED: usize = 8;
    pub(super) const WAY_WSCALE: usize = 77;
    pub(super) const WAY_UNTOLD: usize = 80;
    pub(super) const WAY_FLAGS: usize = 84;
    pub(super) const WAY_ID: usize = 85;
    /// In `struct emptcp_track_conn`.
    pub(super) const CONN_BYTES: usize = 16;
    pub(super) const CONN_CLIENT: usize = 32;
    pub(super) const CONN_LIVE: usize = 36;
    pub(super) const CONN_EVER: usize = 40;
}

const TIED: u8 = 2;
const ASKS_BACKUP: u8 = 2;
const ESTABLISHED: u8 = 2;

fn token(version: u8, key: u64) -> u32 {
    let bytes = key.to_be_bytes();
    let hash: Vec<u8> = match version {
        0 => Sha1::digest(bytes).to_vec(),
        _ => Sha256::digest(bytes).to_vec(),
    };
    u32::from_be_bytes(*hash.first_chunk().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(*bytes[at..].first_chunk().unwrap())
}

/// A subflow as the map has it.
struct Subflow(Vec<u8>);

impl Subflow {
    fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// The direction from the client.
    fn up(&self) -> &[u8] {
        self.way(self.byte(at::CLIENT))
    }

    fn way(&self, way: u8) -> &[u8] {
        &self.0[at::WAYS + at::WAY * usize::from(way)..][..at::WAY]
    }

    fn down(&self) -> &[u8] {
        self.way(1 - self.byte(at::CLIENT))
    }
}

/// Whose packets come by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Both,
    Client,
    Server,
}

/// The tracker alone, and packets of one client port.
struct Subject {
    loaded: Loaded,
    family: Family,
    sport: u16,
}

impl Subject {
    fn new(hook: Hook, family: Family, limit: Option<u32>) -> Self {
        Self::with(hook, family, limit, true)
    }

    /// `totals`: whether bytes of connections are kept up with each packet.
    fn with(hook: Hook, family: Family, limit: Option<u32>, totals: bool) -> Self {
        let registry = Registry::builtin().unwrap();
        let chain = json!({ "name": "tracker", "select": { "track": { "totals": totals } },
            "act": [{ "track_keys": {} }] });
        let options = Options {
            limit,
            ..Options::default()
        };
        let loaded = Loaded::new(&registry, hook, &[chain], options).unwrap();
        Self {
            loaded,
            family,
            sport: 40000,
        }
    }

    fn packet(&self, back: bool, tcp: &Value, payload: usize) -> Vec<u8> {
        let mut tcp = tcp.clone();
        let (here, there) = if back { ("b", "a") } else { ("a", "b") };
        let ports = if back {
            [80, self.sport]
        } else {
            [self.sport, 80]
        };
        tcp["sport"] = ports[0].into();
        tcp["dport"] = ports[1].into();
        let packet: Packet = serde_json::from_value(json!({
            "ip": { "src": here, "dst": there }, "tcp": tcp, "payload": payload,
        }))
        .unwrap();
        packet.build(self.family).unwrap().bytes
    }

    /// From the client (`a`), or back.
    fn send(&mut self, back: bool, tcp: &Value, payload: usize) {
        let packet = self.packet(back, tcp, payload);
        self.loaded.run(&packet, 0).unwrap();
    }

    /// A handshake of a connection; `keys`: the third ACK has them.
    fn connect(&mut self, version: u8, keys: bool) {
        self.connect_by([CLIENT_KEY, SERVER_KEY], version, keys);
    }

    /// With these keys of the client and the server.
    fn connect_by(&mut self, keys_of: [u64; 2], version: u8, keys: bool) {
        self.connect_seen(keys_of, version, keys, Seen::Both);
    }

    /// Of which only these packets come by.
    fn connect_seen(&mut self, [client, server]: [u64; 2], version: u8, keys: bool, seen: Seen) {
        let capable = |keys: &[u64]| {
            let mut option = json!({ "version": version });
            for (name, key) in ["sender_key", "receiver_key"].iter().zip(keys) {
                option[*name] = format!("{key:#x}").into();
            }
            json!({ "mp_capable": option })
        };
        let first: &[u64] = if version == 0 { &[client] } else { &[] };
        if seen != Seen::Server {
            self.send(
            false,
            &json!({ "flags": "S", "seq": 99, "ack": 0, "options": [{ "wscale": 7 }, capable(first)] }),
            0,
        );
        }
        if seen != Seen::Client {
            self.send(
                true,
                &json!({ "flags": "SA", "seq": 499, "ack": 100,
                "options": [{ "wscale": 9 }, capable(&[server])] }),
                0,
            );
        }
        let last = match keys {
            true => json!([capable(&[client, server])]),
            false => json!([]),
        };
        if seen != Seen::Server {
            self.send(
                false,
                &json!({ "flags": "A", "seq": 100, "ack": 500, "options": last }),
                0,
            );
        }
    }

    /// A handshake of a further subflow, which the client opens from another port, or the server.
    fn join(&mut self, back: bool, sport: u16, token: u32) {
        self.sport = sport;
        self.send(
            back,
            &json!({ "flags": "S", "seq": 99, "ack": 0, "options":
                [{ "mp_join_syn": { "id": 5, "token": token, "nonce": 3, "backup": true } }] }),
            0,
        );
        self.send(
            !back,
            &json!({ "flags": "SA", "seq": 499, "ack": 100, "options":
                [{ "mp_join_synack": { "id": 6, "hmac": "0x1122334455667788", "nonce": 3 } }] }),
            0,
        );
        self.send(
            back,
            &json!({ "flags": "A", "seq": 100, "ack": 500, "options":
                [{ "mp_join_ack": "0000000000000000000000000000000000000000" }] }),
            0,
        );
    }

    fn data(&mut self, back: bool, seq: u32, payload: usize) {
        self.send(
            back,
            &json!({ "flags": "PA", "seq": seq, "ack": if back { 100 } else { 500 },
                "options": [{ "timestamps": [1, 2] },
                    { "dss": { "ack": 1, "dsn": 2, "ssn": 1, "len": payload } }] }),
            payload,
        );
    }

    fn entries(&self, map: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.loaded.instance.state(map).unwrap()
    }

    /// Established subflows by client port.
    fn subflows(&self) -> BTreeMap<u16, Subflow> {
        let port = |key: &[u8], at: usize| u16::from_ne_bytes(*key[at..].first_chunk().unwrap());
        self.entries("subflows")
            .into_iter()
            .map(|(key, value)| (port(&key, 32).max(port(&key, 34)), Subflow(value)))
            .collect()
    }

    /// The one connection: its token, and its value.
    fn connection(&self) -> Option<(u32, Vec<u8>)> {
        let entries = self.entries("connections");
        assert!(entries.len() < 2, "{entries:?}");
        let (key, value) = entries.into_iter().next()?;
        Some((u32_at(&key, 0), value))
    }
}

fn everywhere(test: impl Fn(&mut Subject)) {
    let families = match kernel::in_guest() {
        true => &Family::ALL[..1],
        false => &Family::ALL[..],
    };
    for hook in Hook::ALL {
        for family in families.iter().copied() {
            eprintln!("{hook}, {family:?}");
            test(&mut Subject::new(hook, family, None));
        }
    }
}

#[test]
fn root_a_connection_of_both_versions() {
    everywhere(|s| {
        for version in [1, 0] {
            s.loaded.instance.forget().unwrap();
            s.sport = 40000;
            s.connect(version, true);
            s.data(false, 100, 1000);
            s.data(true, 500, 300);
            s.data(true, 500, 300);
            let subflow = s.subflows().remove(&40000).unwrap();
            assert_eq!(subflow.byte(at::STATE), ESTABLISHED);
            assert_eq!(subflow.byte(at::KIND), 1);
            assert_eq!(subflow.byte(at::VERSION), version);
            assert_eq!(subflow.byte(at::FALLBACK), 0);
            assert_eq!(subflow.byte(at::FLAGS) & TIED, TIED);
            assert_eq!(u64_at(subflow.up(), 0), 1000);
            assert_eq!(u64_at(subflow.up(), at::WAY_PACKETS), 3);
            assert_eq!(u64_at(subflow.down(), 0), 600);
            assert_eq!(u64_at(subflow.down(), at::WAY_RETRANSMITTED), 300);
            assert_eq!(subflow.up()[at::WAY_WSCALE], 7);
            assert_eq!(subflow.down()[at::WAY_WSCALE], 9);

            let (server, connection) = s.connection().unwrap();
            assert_eq!(server, token(version, SERVER_KEY));
            assert_eq!(u32_at(&subflow.0, at::CONN), server);
            assert_eq!(
                u32_at(&connection, at::CONN_CLIENT),
                token(version, CLIENT_KEY)
            );
            assert_eq!(u64_at(&connection, at::CONN_BYTES), 1000);
            assert_eq!(u64_at(&connection, at::CONN_BYTES + 8), 300);
            assert_eq!(u32_at(&connection, at::CONN_LIVE), 1);
            assert!(s.entries("half_open").is_empty());
        }
    });
}

/// Where nothing goes by the bytes of connections, their subflows tell them at their end.
#[test]
fn root_bytes_that_are_told_late() {
    for family in Family::ALL {
        let mut s = Subject::with(Hook::TcIngress, family, None, false);
        let carried = |s: &Subject| {
            let (_, connection) = s.connection().unwrap();
            [0, 8].map(|way| u64_at(&connection, at::CONN_BYTES + way))
        };
        let untold = |s: &Subject| {
            let subflow = &s.subflows()[&s.sport];
            [subflow.up(), subflow.down()].map(|way| u32_at(way, at::WAY_UNTOLD))
        };
        let rst = json!({ "flags": "R", "seq": 500, "options": [] });
        s.connect(1, true);
        s.data(false, 100, 1000);
        s.data(true, 500, 300);
        s.data(true, 500, 300);
        assert_eq!((carried(&s), untold(&s)), ([0, 0], [1000, 300]));
        s.join(true, 40001, token(1, CLIENT_KEY));
        s.data(true, 100, 40);
        assert_eq!((carried(&s), untold(&s)), ([0, 0], [0, 40]));
        s.send(true, &rst, 0);
        assert_eq!(carried(&s), [0, 40]);
        // Another subflow of the same ports.
        s.join(true, 40002, token(1, CLIENT_KEY));
        s.data(true, 100, 5);
        s.join(true, 40002, token(1, CLIENT_KEY));
        assert_eq!((carried(&s), untold(&s)), ([0, 45], [0, 0]));
        s.sport = 40000;
        s.send(true, &rst, 0);
        assert_eq!(carried(&s), [1000, 345]);
    }
}

#[test]
fn root_further_subflows_from_both_ends() {
    everywhere(|s| {
        s.connect(1, true);
        s.join(false, 40001, token(1, SERVER_KEY));
        s.data(false, 100, 10);
        // The server opens it: "up" is what the client sends, which accepted it.
        s.join(true, 40002, token(1, CLIENT_KEY));
        s.data(true, 100, 40);
        // Of a connection that nobody has seen.
        s.join(false, 40003, 12345);
        s.data(false, 100, 80);

        let subflows = s.subflows();
        let indexes: Vec<_> = [40000, 40001, 40002]
            .map(|port| subflows[&port].byte(at::INDEX))
            .into();
        assert_eq!(indexes, [0, 1, 2]);
        let second = &subflows[&40001];
        assert_eq!(second.byte(at::KIND), 2);
        assert_eq!(second.up()[at::WAY_ID], 5);
        assert_eq!(second.down()[at::WAY_ID], 6);
        assert_eq!(second.up()[at::WAY_FLAGS] & ASKS_BACKUP, ASKS_BACKUP);
        assert_eq!(second.down()[at::WAY_FLAGS] & ASKS_BACKUP, 0);
        let third = &subflows[&40002];
        assert_eq!(third.down()[at::WAY_ID], 5, "the server opened it");
        assert_eq!(subflows[&40003].byte(at::FLAGS) & TIED, 0);

        let (_, connection) = s.connection().unwrap();
        assert_eq!(u64_at(&connection, at::CONN_BYTES), 10);
        assert_eq!(u64_at(&connection, at::CONN_BYTES + 8), 40);
        assert_eq!(u32_at(&connection, at::CONN_LIVE), 3);
        assert_eq!(u32_at(&connection, at::CONN_EVER), 3);

        // MP_PRIO of the client takes its wish back.
        s.sport = 40001;
        let prio = |backup: bool| {
            json!({ "flags": "A", "seq": 110, "ack": 500, "options":
                [{ "mp_prio": { "backup": backup } }, { "dss": { "ack": 1 } }] })
        };
        s.send(false, &prio(false), 0);
        assert_eq!(s.subflows()[&40001].up()[at::WAY_FLAGS] & ASKS_BACKUP, 0);
        s.send(true, &prio(true), 0);
        assert_ne!(s.subflows()[&40001].down()[at::WAY_FLAGS] & ASKS_BACKUP, 0);
    });
}

/// Client ports that a connection's list has, by their place.
fn listed(s: &Subject) -> Vec<(u32, u16)> {
    let port = |key: &[u8], at: usize| u16::from_ne_bytes(*key[at..].first_chunk().unwrap());
    let places = s.entries("conn_subflows").into_iter();
    let mut listed: Vec<_> = places
        .map(|(place, key)| (u32_at(&place, 8), port(&key, 32).max(port(&key, 34))))
        .collect();
    listed.sort_unstable();
    listed
}

#[test]
fn root_the_subflows_of_a_connection_are_listed() {
    everywhere(|s| {
        let syn = json!({ "flags": "S", "seq": 99, "ack": 0, "options":
            [{ "mp_join_syn": { "id": 5, "token": token(1, SERVER_KEY), "nonce": 3 } }] });
        let rst = json!({ "flags": "RA", "seq": 0, "ack": 100, "options": [] });
        s.connect(1, true);
        assert_eq!(listed(s), [(0, 40000)]);
        // From the SYN on, and once.
        s.sport = 40001;
        s.send(false, &syn, 0);
        assert_eq!(listed(s), [(0, 40000), (1, 40001)]);
        s.join(false, 40001, token(1, SERVER_KEY));
        assert_eq!(listed(s), [(0, 40000), (1, 40001)]);
        // One of nobody's connection.
        s.join(false, 40002, 12345);
        // A place becomes free.
        s.sport = 40000;
        s.send(true, &json!({ "flags": "R", "seq": 500, "options": [] }), 0);
        assert_eq!(listed(s), [(1, 40001)]);
        s.join(true, 40003, token(1, CLIENT_KEY));
        assert_eq!(listed(s), [(0, 40003), (1, 40001)]);
        // Whose handshakes came to nothing leave their places to others, who is there does not.
        for port in 41000..41030 {
            s.sport = port;
            s.send(false, &syn, 0);
            s.send(true, &rst, 0);
        }
        assert_eq!(listed(s).len(), 16);
        s.join(false, 42000, token(1, SERVER_KEY));
        let ports: Vec<u16> = listed(s).into_iter().map(|(_, port)| port).collect();
        assert_eq!(ports[..2], [40003, 40001]);
        assert!(ports.len() == 16 && ports.contains(&42000), "{ports:?}");
    });
}

#[test]
fn root_why_a_connection_is_plain_tcp() {
    everywhere(|s| {
        let capable = json!({ "mp_capable": {} });
        let syn = json!({ "flags": "S", "seq": 99, "ack": 0, "options": [capable] });
        let ack = json!({ "flags": "A", "seq": 100, "ack": 500, "options": [] });
        // Cause, sequence number and whether the server sent the packet.
        let fallback = |s: &Subject| {
            let subflow = &s.subflows()[&40000];
            let from_client = subflow.byte(at::FALLBACK_WAY) == subflow.byte(at::CLIENT);
            (
                subflow.byte(at::FALLBACK),
                u32_at(&subflow.0, at::FALLBACK_SEQ),
                !from_client,
            )
        };
        s.send(false, &syn, 0);
        s.send(
            true,
            &json!({ "flags": "SA", "seq": 499, "ack": 100, "options": [] }),
            0,
        );
        s.send(false, &ack, 0);
        assert_eq!(fallback(s), (1, 499, true), "SYN/ACK");
        assert!(s.connection().is_none());

        s.loaded.instance.forget().unwrap();
        s.connect(1, false);
        assert_eq!(fallback(s), (2, 100, false), "third ACK");

        s.loaded.instance.forget().unwrap();
        s.connect(1, true);
        s.send(
            true,
            &json!({ "flags": "PA", "seq": 500, "ack": 100, "options": [] }),
            5,
        );
        assert_eq!(fallback(s), (3, 500, true), "data");

        s.loaded.instance.forget().unwrap();
        s.connect(1, true);
        s.data(false, 100, 10);
        s.send(
            false,
            &json!({ "flags": "A", "seq": 110, "ack": 500, "options": [{ "mp_fail": 1 }] }),
            0,
        );
        assert_eq!(fallback(s), (4, 110, false), "MP_FAIL");

        // Data that an earlier mapping covers.
        s.loaded.instance.forget().unwrap();
        s.connect(1, true);
        s.data(false, 100, 10);
        s.send(
            false,
            &json!({ "flags": "PA", "seq": 110, "ack": 500, "options": [] }),
            5,
        );
        assert_eq!(fallback(s).0, 0);
    });
}

#[test]
fn root_what_has_ended_is_forgotten() {
    everywhere(|s| {
        let fin = |seq: u32, ack: u32| json!({ "flags": "FA", "seq": seq, "ack": ack, "options": [{ "dss": { "ack": 1 } }] });
        let end = json!({ "flags": "A", "seq": 100, "ack": 500, "options":
            [{ "dss": { "ack": 1, "dsn": 2, "ssn": 0, "len": 1, "fin": true } }] });
        // A connection that ends: the last subflow takes it along.
        s.connect(1, true);
        s.send(false, &end, 0);
        s.send(false, &fin(100, 500), 0);
        s.send(true, &fin(500, 101), 0);
        assert_eq!(s.subflows().len(), 1);
        s.send(
            false,
            &json!({ "flags": "A", "seq": 101, "ack": 501, "options": [] }),
            0,
        );
        for map in KEPT {
            assert!(s.entries(map).is_empty(), "{map}");
        }

        // One that may go on with other subflows.
        s.connect(1, true);
        s.send(true, &json!({ "flags": "R", "seq": 500, "options": [] }), 0);
        assert!(s.subflows().is_empty());
        let (_, connection) = s.connection().unwrap();
        assert_eq!(u32_at(&connection, at::CONN_LIVE), 0);
        s.join(false, 40001, token(1, SERVER_KEY));
        let (_, connection) = s.connection().unwrap();
        assert_eq!(u32_at(&connection, at::CONN_LIVE), 1);
        assert_eq!(s.subflows()[&40001].byte(at::INDEX), 1);
    });
}

/// Maps of what is established: nothing that is not proven may come into them.
const KEPT: [&str; 5] = [
    "subflows",
    "connections",
    "client_tokens",
    "secrets",
    "conn_subflows",
];

/// How many packets of a flood.
fn flood() -> u32 {
    let given = std::env::var("EMPTCP_FLOOD").ok();
    given.map_or(100_000, |n| n.parse().unwrap())
}

#[test]
fn root_floods_push_nobody_out() {
    let mut s = Subject::new(Hook::TcIngress, Family::Ip4, None);
    let living = 10_000..11_000_u16;
    let keys = |port: u16| [CLIENT_KEY, SERVER_KEY].map(|key| key ^ u64::from(port) << 20);
    let mut tokens = BTreeSet::new();
    for port in living.clone() {
        s.sport = port;
        s.connect_by(keys(port), 1, true);
        tokens.extend(keys(port).map(|key| token(1, key)));
    }
    // All but the half open, with what they say.
    let known = |s: &Subject| KEPT.map(|map| BTreeMap::from_iter(s.entries(map)));
    let before = known(&s);
    assert_eq!(before.each_ref().map(BTreeMap::len), [living.len(); 5]);
    let syn = json!({ "flags": "S", "seq": 99, "ack": 0, "options": [{ "mp_capable": {} }] });
    let join = json!({ "flags": "S", "seq": 99, "ack": 0, "options":
        [{ "mp_join_syn": { "id": 5, "token": 1, "nonce": 3 } }] });
    let random = |n: u32| n.wrapping_mul(0x9e37_79b9);
    // Who guesses a token gets a place in that connection's list, until another one needs it.
    let guessed = (0..flood())
        .filter(|n| tokens.contains(&random(*n)))
        .count();
    for (what, tcp) in [("SYN", syn), ("MP_JOIN", join)] {
        let mut packet = s.packet(false, &tcp, 0);
        let start = Instant::now();
        for n in 0..flood() {
            // Source address, and the token or what stands there: whichever is random.
            packet[26..30].copy_from_slice(&(0x0b00_0000 + n).to_be_bytes());
            let end = packet.len();
            packet[end - 8..end - 4].copy_from_slice(&random(n).to_be_bytes());
            s.loaded.instance.run(&packet, Some(0), 1).unwrap();
        }
        let half_open = s.entries("half_open").len();
        eprintln!(
            "{} x {what}: {half_open} half open, {guessed} tokens guessed, {:?}",
            flood(),
            start.elapsed()
        );
        assert!((1..=16384).contains(&half_open));
        for ((map, before), after) in KEPT.iter().zip(&before).zip(&known(&s)) {
            let more = match (what, *map) {
                ("MP_JOIN", "conn_subflows") => guessed,
                _ => 0,
            };
            assert_eq!(after.len(), before.len() + more, "{what}: {map}");
            let stays = |(key, value): (&Vec<u8>, &Vec<u8>)| after.get(key) == Some(value);
            assert!(before.iter().all(stays), "{what}: {map} has changed");
        }
    }
    // They are tracked as before.
    for port in living.clone() {
        s.sport = port;
        s.data(false, 100, 77);
    }
    let subflows = s.subflows();
    assert!(
        living
            .clone()
            .all(|port| u64_at(subflows[&port].up(), 0) == 77)
    );
    let connections = s.entries("connections");
    let carried = |(_, value): &(_, Vec<u8>)| u64_at(value, at::CONN_BYTES) == 77;
    assert!(connections.len() == living.len() && connections.iter().all(carried));
}

/// The packets of a client, with addresses and keys of connection n.
fn of_connection(packet: &[u8], n: u32, back: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let at = if back { 30 } else { 26 };
    packet[at..at + 4].copy_from_slice(&(0x0b00_0000 + n).to_be_bytes());
    for key in [CLIENT_KEY, SERVER_KEY] {
        let found = packet
            .windows(8)
            .position(|bytes| bytes == key.to_be_bytes());
        if let Some(at) = found {
            packet[at..at + 8].copy_from_slice(&(key ^ u64::from(n) << 20).to_be_bytes());
        }
    }
    packet
}

/// What the kernel says that the maps of this process take, in bytes (`memlock` of fdinfo).
fn memory_of_maps() -> u64 {
    let mut maps = BTreeMap::new();
    for fd in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        // That of the folder itself has gone.
        let Ok(text) = std::fs::read_to_string(fd.unwrap().path()) else {
            continue;
        };
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        if let (Some(id), Some(memory)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, memory);
        }
    }
    maps.values().sum()
}

#[test]
#[ignore = "a measurement: scripts/bench.sh tracker"]
fn root_bench_tracker() {
    let packets: u32 = if kernel::in_guest() { 2_000 } else { 20_000 };
    let median = |mut times: Vec<u32>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let random = |n: u32| n.wrapping_mul(0x9e37_79b9);
    let registry = Registry::builtin().unwrap();
    let plain = json!({ "name": "plain", "select": { "mptcp": {} }, "act": [{ "accept": {} }] });
    let plain = Loaded::new(&registry, Hook::TcIngress, &[plain], Options::default()).unwrap();
    // Emulated, all takes longer: what counts is how it compares.
    let loads: &[(u32, u8)] = match kernel::in_guest() {
        true => &[(1, 1), (500, 1), (500, 0)],
        false => &[(1, 1), (10_000, 1), (10_000, 0), (100_000, 1)],
    };
    let kinds = [false, true].map(|totals| loads.iter().map(move |load| (*load, totals)));
    for ((connections, version), totals) in kinds.into_iter().flatten() {
        let s = Subject::with(Hook::TcIngress, Family::Ip4, Some(262_144), totals);
        let empty = memory_of_maps();
        let run = |loaded: &Loaded, packet: &[u8], n: u32, back: bool| {
            let packet = of_connection(packet, n, back);
            loaded
                .instance
                .run(&packet, Some(0), 1)
                .unwrap()
                .1
                .nanoseconds
        };
        let capable = |mut keys: Value| {
            keys["version"] = version.into();
            json!([{ "timestamps": [1, 2] }, { "mp_capable": keys }])
        };
        let [client, server] = [CLIENT_KEY, SERVER_KEY].map(|key| format!("{key:#x}"));
        let first = match version {
            0 => json!({ "sender_key": client }),
            _ => json!({}),
        };
        let syn = s.packet(
            false,
            &json!({ "flags": "S", "seq": 99, "ack": 0, "options": capable(first) }),
            0,
        );
        let synack = s.packet(
            true,
            &json!({ "flags": "SA", "seq": 499, "ack": 100,
                "options": capable(json!({ "sender_key": server })) }),
            0,
        );
        let ack = s.packet(
            false,
            &json!({ "flags": "A", "seq": 100, "ack": 500,
                "options": capable(json!({ "sender_key": client, "receiver_key": server })) }),
            0,
        );
        let mut handshakes = [Vec::new(), Vec::new(), Vec::new()];
        for n in 0..connections {
            for (times, (packet, back)) in
                handshakes
                    .iter_mut()
                    .zip([(&syn, false), (&synack, true), (&ack, false)])
            {
                times.push(run(&s.loaded, packet, n, back));
            }
        }
        let tied = s.entries("connections").len();
        let used = memory_of_maps() - empty;
        let data = s.packet(
            false,
            &json!({ "flags": "PA", "seq": 100, "ack": 500, "options": [{ "timestamps": [1, 2] },
                { "dss": { "ack": 1, "dsn": 2, "ssn": 1, "len": 100 } }] }),
            100,
        );
        let time = |loaded: &Loaded| {
            median(
                (0..packets)
                    .map(|n| run(loaded, &data, random(n) % connections, false))
                    .collect(),
            )
        };
        let (tracked, untracked) = (time(&s.loaded), time(&plain));
        let [syn, synack, ack] = handshakes.map(median);
        eprintln!(
            "version {version}, totals {totals}, tracked connections: {tied}, {} bytes each; data {tracked} ns (untracked {untracked} ns); \
             SYN {syn}, SYN/ACK {synack}, third ACK with both hashes {ack} ns",
            used / u64::from(connections)
        );
        assert_eq!(tied, connections as usize);
    }
}

#[test]
fn root_ports_that_are_used_again() {
    everywhere(|s| {
        // The first connection is not seen to end; the second one has its ports.
        s.connect(1, true);
        let (first, _) = s.connection().unwrap();
        s.send(
            false,
            &json!({ "flags": "S", "seq": 7099, "ack": 0, "options": [{ "mp_capable": {} }] }),
            0,
        );
        assert_eq!(s.subflows().len(), 1, "nobody has proven it");
        let (_, connection) = s.connection().unwrap();
        assert_eq!(u32_at(&connection, at::CONN_LIVE), 1);
        s.send(
            true,
            &json!({ "flags": "SA", "seq": 7499, "ack": 7100,
                "options": [{ "mp_capable": { "sender_key": "0x1" } }] }),
            0,
        );
        s.send(
            false,
            &json!({ "flags": "A", "seq": 7100, "ack": 7500, "options":
                [{ "mp_capable": { "sender_key": "0x2", "receiver_key": "0x1" } }] }),
            0,
        );
        assert_eq!(s.subflows().len(), 1);
        let live: BTreeMap<u32, u32> = s
            .entries("connections")
            .into_iter()
            .map(|(key, value)| (u32_at(&key, 0), u32_at(&value, at::CONN_LIVE)))
            .collect();
        assert_eq!(live, [(first, 0), (token(1, 1), 1)].into());
    });
}

/// Segments of one direction, by what lies before them and their length, and how much of each is
/// taken for sent again: what lies below a number that came by before, whether it was sent twice or
/// overtaken (docs/limitations.md).
const SEGMENTS: [(u32, usize, u64, &str); 9] = [
    (0, 100, 0, "first"),
    (200, 100, 0, "ahead of a hole"),
    (300, 100, 0, "behind that"),
    (100, 100, 100, "it fills the hole"),
    (100, 100, 100, "sent again"),
    (350, 100, 50, "half of it sent again"),
    (460, 0, 0, "an ACK ahead says nothing of what was sent"),
    (450, 100, 0, "in order"),
    (549, 1, 0, "a keepalive probe"),
];

/// Data that packets overtake, from either end, also where the other direction does not come by.
#[test]
fn root_segments_that_are_overtaken() {
    everywhere(|s| {
        for (seen, back) in [
            (Seen::Both, false),
            (Seen::Both, true),
            (Seen::Client, false),
            (Seen::Server, true),
        ] {
            s.loaded.instance.forget().unwrap();
            let what = format!("{seen:?}, from the server: {back}");
            s.connect_seen([CLIENT_KEY, SERVER_KEY], 1, true, seen);
            let first = if back { 500 } else { 100 };
            let (mut bytes, mut again, mut packets) = (0, 0, None);
            for (before, len, late, name) in SEGMENTS {
                s.data(back, first + before, len);
                bytes += len as u64;
                again += late;
                let subflow = s.subflows().remove(&40000);
                let subflow = subflow.unwrap_or_else(|| panic!("{what}: {name}: no subflow"));
                let (way, other) = match back {
                    false => (subflow.up(), subflow.down()),
                    true => (subflow.down(), subflow.up()),
                };
                let counted = [0, at::WAY_RETRANSMITTED].map(|at| u64_at(way, at));
                assert_eq!(counted, [bytes, again], "{what}: {name}");
                assert_eq!(
                    [0, at::WAY_RETRANSMITTED].map(|at| u64_at(other, at)),
                    [0, 0]
                );
                // One more each.
                let now = u64_at(way, at::WAY_PACKETS);
                assert!(
                    packets.is_none_or(|n| now == n + 1),
                    "{what}: {name}: {now}"
                );
                packets = Some(now);
                // The server alone tells no keys: there is no connection.
                let connection = s
                    .connection()
                    .map(|(_, conn)| [0, 8].map(|at| u64_at(&conn, at::CONN_BYTES + at)));
                let new = bytes - again;
                let expected = match (seen, back) {
                    (Seen::Server, _) => None,
                    (_, false) => Some([new, 0]),
                    (_, true) => Some([0, new]),
                };
                assert_eq!(connection, expected, "{what}: {name}");
            }
        }
    });
}

/// Numbers run over their end while segments overtake each other.
#[test]
fn root_segments_that_are_overtaken_where_numbers_end() {
    everywhere(|s| {
        let key = |key: u64| format!("{key:#x}");
        let first = u32::MAX - 150;
        let ack = |seq: u32, ack: u32, flags: &str, option: Value| json!({ "flags": flags, "seq": seq, "ack": ack, "options": [{ "mp_capable": option }] });
        let (client, server) = (key(CLIENT_KEY), key(SERVER_KEY));
        s.send(false, &ack(first - 1, 0, "S", json!({})), 0);
        s.send(
            true,
            &ack(499, first, "SA", json!({ "sender_key": server })),
            0,
        );
        let keys = json!({ "sender_key": client, "receiver_key": server });
        s.send(false, &ack(first, 500, "A", keys), 0);
        let (mut bytes, mut again) = (0, 0);
        for (before, len, late, name) in SEGMENTS {
            s.data(false, first.wrapping_add(before), len);
            bytes += len as u64;
            again += late;
            let subflow = s.subflows().remove(&40000).unwrap();
            let counted = [0, at::WAY_RETRANSMITTED].map(|at| u64_at(subflow.up(), at));
            assert_eq!(counted, [bytes, again], "{name}");
        }
    });
}

/// The third ACK was lost, or two SYNs were answered: nothing begins anew.
#[test]
fn root_a_synack_once_more() {
    everywhere(|s| {
        s.connect(1, true);
        s.data(false, 100, 1000);
        s.data(true, 500, 300);
        let before = s.subflows().remove(&40000).unwrap();
        s.send(
            true,
            &json!({ "flags": "SA", "seq": 499, "ack": 100,
                "options": [{ "mp_capable": { "sender_key": "0x99aabbccddeeff00" } }] }),
            0,
        );
        assert!(s.entries("half_open").is_empty());
        s.send(
            false,
            &json!({ "flags": "A", "seq": 100, "ack": 500, "options": [{ "mp_capable":
                { "sender_key": "0x1122334455667788", "receiver_key": "0x99aabbccddeeff00" } }] }),
            0,
        );
        s.data(false, 1100, 10);
        s.data(true, 500, 300);

        let after = s.subflows().remove(&40000).unwrap();
        let packets = |s: &Subflow| [s.up(), s.down()].map(|way| u64_at(way, at::WAY_PACKETS));
        assert_eq!(packets(&before), [3, 2]);
        assert_eq!(packets(&after), [5, 4]);
        assert_eq!(u64_at(after.up(), 0), 1010);
        assert_eq!(u64_at(after.down(), at::WAY_RETRANSMITTED), 300);
        // All that does not change: beginning, kind, keys, ids and scales.
        assert_eq!(before.0[..at::WAYS], after.0[..at::WAYS]);
        assert_eq!(after.up()[at::WAY_WSCALE], 7);
        assert_eq!(after.up()[at::WAY_ID], before.up()[at::WAY_ID]);
        let (_, connection) = s.connection().unwrap();
        assert_eq!(u32_at(&connection, at::CONN_EVER), 1);
    });
}
