// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What `announce` signs, against HMACs of RustCrypto: random keys, addresses, ports and ids, in the
//! name of either end.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use hmac::Hmac;
use hmac::KeyInit as _;
use hmac::Mac as _;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;
use sha2::Sha256;

/// Bytes before the TCP options: Ethernet, IPv4, TCP.
const OPTIONS: usize = 14 + 20 + 20;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn address(&mut self) -> IpAddr {
        match self.next() % 2 {
            0 => Ipv4Addr::from_bits(self.next() as u32).into(),
            _ => {
                Ipv6Addr::from_bits(u128::from(self.next()) << 64 | u128::from(self.next())).into()
            }
        }
    }
}

/// What the step announces.
#[derive(Clone, Copy, Debug)]
struct Announced {
    address: IpAddr,
    port: u16,
    id: u8,
}

impl Announced {
    /// A step of its own, behind the tracker.
    fn load(&self) -> Loaded {
        let mut step = json!({ "address": self.address, "addr_id": self.id });
        if self.port != 0 {
            step["port"] = self.port.into();
        }
        let chain = json!({ "name": "announce", "act": [{ "announce": step }] });
        let registry = Registry::builtin().unwrap();
        Loaded::new(&registry, Hook::TcEgress, &[chain], Options::default()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(v4) => v4.octets().into(),
            IpAddr::V6(v6) => v6.octets().into(),
        }
    }

    /// The option (RFC 8684, 3.4.1). keys: that of who announces first.
    fn option(&self, version: u8, keys: [u64; 2]) -> Vec<u8> {
        let address = self.bytes();
        let family = if address.len() == 4 { 4 } else { 6 };
        let mut option = vec![30, 0, 0x30 | [family, 0][usize::from(version)], self.id];
        option.extend(&address);
        if self.port != 0 {
            option.extend(self.port.to_be_bytes());
        }
        if version == 1 {
            let key = keys.map(u64::to_be_bytes).concat();
            let mut hmac: Hmac<Sha256> = Hmac::new_from_slice(&key).unwrap();
            hmac.update(&[self.id]);
            hmac.update(&address);
            hmac.update(&self.port.to_be_bytes());
            option.extend(&hmac.finalize().into_bytes()[24..]);
        }
        option[1] = option.len() as u8;
        option
    }
}

/// A packet of the client with this port, or of the server.
fn packet(port: u16, from_server: bool, flags: &str, seq: u32, options: &Value) -> Vec<u8> {
    let ack = if flags == "S" { 0 } else { 1000 };
    let (here, there) = if from_server { ("b", "a") } else { ("a", "b") };
    let [sport, dport] = if from_server { [80, port] } else { [port, 80] };
    let packet: Packet = serde_json::from_value(json!({
        "ip": { "src": here, "dst": there }, "payload": 0,
        "tcp": { "sport": sport, "dport": dport, "flags": flags, "seq": seq, "ack": ack,
            "options": options },
    }))
    .unwrap();
    packet.build(Family::Ip4).unwrap().bytes
}

/// What comes out, and how long that took in ns.
fn run(loaded: &Loaded, packet: &[u8]) -> (Vec<u8>, u32) {
    let (_, run) = loaded.instance.run(packet, Some(0), 1).unwrap();
    (run.packet, run.nanoseconds)
}

/// The handshake of a connection; keys: of client and server.
fn connect(loaded: &Loaded, port: u16, version: u8, keys: [u64; 2]) {
    let [client, server] = keys.map(|key| format!("{key:#x}"));
    let mut first = json!({ "version": version });
    if version == 0 {
        first["sender_key"] = json!(client);
    }
    let second = json!({ "version": version, "sender_key": server });
    let third = json!({ "version": version, "sender_key": client, "receiver_key": server });
    for (from_server, flags, option) in [
        (false, "S", first),
        (true, "SA", second),
        (false, "A", third),
    ] {
        let seq = if flags == "A" { 1000 } else { 999 };
        let packet = packet(
            port,
            from_server,
            flags,
            seq,
            &json!([{ "mp_capable": option }]),
        );
        run(loaded, &packet);
    }
}

fn ack(port: u16, from_server: bool) -> Vec<u8> {
    packet(
        port,
        from_server,
        "A",
        1000,
        &json!([{ "dss": { "ack": 1 } }]),
    )
}

#[test]
fn root_announcements_are_signed() {
    let mut random = Random(1);
    let mut signed = 0;
    for n in 0..24 {
        let announced = Announced {
            address: random.address(),
            port: if n % 3 == 0 { random.next() as u16 } else { 0 },
            id: (random.next() % 255 + 1) as u8,
        };
        if announced.port != 0 && announced.address.is_ipv6() {
            continue;
        }
        let loaded = announced.load();
        for port in 20_000..20_040 {
            let keys = [random.next(), random.next()];
            let version = u8::from(!random.next().is_multiple_of(8));
            connect(&loaded, port, version, keys);
            // Either end, once.
            for from_server in [true, false] {
                let ack = ack(port, from_server);
                let (out, _) = run(&loaded, &ack);
                let mut keys = keys;
                if from_server {
                    keys.reverse();
                }
                let option = announced.option(version, keys);
                let what = format!("{announced:?}, version {version}, server {from_server}");
                assert_eq!(out[OPTIONS..][..option.len()], option, "{what}");
                assert_eq!(run(&loaded, &ack).0, ack, "{what}: twice");
                signed += 1;
            }
        }
    }
    assert!(signed > 1000, "{signed}");
}

#[test]
#[ignore = "a measurement: cargo test --test announce -- --ignored --nocapture"]
fn root_bench_announce() {
    let connections: u16 = if kernel::in_guest() { 200 } else { 2000 };
    let median = |mut times: Vec<u32>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let announced = Announced {
        address: Ipv4Addr::new(192, 0, 2, 7).into(),
        port: 0,
        id: 200,
    };
    let chain =
        json!({ "name": "tracked", "select": { "conn_bytes": {} }, "act": [{ "accept": {} }] });
    let registry = Registry::builtin().unwrap();
    let tracked = Loaded::new(&registry, Hook::TcEgress, &[chain], Options::default()).unwrap();
    for version in [1, 0] {
        let loaded = announced.load();
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        let mut random = Random(2);
        for port in 20_000..20_000 + connections {
            let keys = [random.next(), random.next()];
            connect(&tracked, port, version, keys);
            connect(&loaded, port, version, keys);
            let ack = ack(port, true);
            run(&tracked, &ack);
            times[0].push(run(&tracked, &ack).1);
            times[1].push(run(&loaded, &ack).1);
            run(&loaded, &ack);
            times[2].push(run(&loaded, &ack).1);
        }
        let [tracked, carries, once] = times.map(median);
        eprintln!(
            "version {version}: an ACK behind the tracker and conn_bytes {tracked} ns, \
             with the announcement {carries} ns, after it {once} ns"
        );
    }
}
