//! The helpers of the public headers, one by one, against what the standards say, on random
//! options: well-formed ones, and such as no sender of good will makes.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::ops::Range;

use emptcp::datapath::Options;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp_test::csum::sums;
use emptcp_test::hosts::Family;
use emptcp_test::options::Opt;
use emptcp_test::packet::Built;
use emptcp_test::packet::Checksum;
use emptcp_test::packet::Packet;
use emptcp_test::packet::Tcp;
use fastrand::Rng;
use hmac::Hmac;
use hmac::KeyInit as _;
use hmac::Mac as _;
use kernel::Loaded;
use serde_json::json;
use sha1::Sha1;
use sha2::Digest as _;
use sha2::Sha256;

const MPTCP: u8 = 30;
const DSS: u8 = 2;

/// Packets that are the same in each run.
struct Random(Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    /// Up to 40 bytes of options, in words of four.
    fn options(&mut self) -> Vec<u8> {
        let space = 4 * self.below(11) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < space {
            let left = space - bytes.len();
            let kind =
                [0, 1, 1, 2, 5, 8, 19, 29, MPTCP, MPTCP, MPTCP, MPTCP][self.below(12) as usize];
            let len = match self.below(16) {
                0 => self.below(4) as usize,
                1 => self.below(256) as usize,
                _ => 3 + self.below(22) as usize,
            };
            if kind == 0 && self.below(4) > 0 {
                continue;
            }
            bytes.push(kind);
            if kind > 1 {
                bytes.push(len as u8);
                bytes.push((self.below(9) << 4 | self.below(16)) as u8);
                bytes.extend((3..len.min(left)).map(|_| self.next() as u8));
            }
        }
        bytes.truncate(space);
        bytes
    }

    fn packet(&mut self) -> (Built, Vec<u8>) {
        let options = self.options();
        let family = [Family::Ip4, Family::Ip6][self.below(2) as usize];
        let flags = ["A", "A", "A", "PA", "S", "SA", "FA", "RA"][self.below(8) as usize];
        let mut tcp = Tcp::new(40000, 80)
            .flags(flags)
            .opt(Opt::Raw(options.clone()));
        // A wrong checksum must stay as wrong as it was.
        if self.below(4) == 0 {
            tcp = tcp.checksum(Checksum::Off(1 + self.below(0xfffd) as u16));
        }
        let mut packet = Packet::new().tcp(tcp);
        for _ in 0..self.below(3) {
            packet = packet.vlan(7);
        }
        if self.below(2) == 0 {
            packet = packet.payload(self.below(60) as usize);
        }
        (packet.build(family).unwrap(), options)
    }
}

/// The options that a receiver sees, as tcp_parse_options() of the kernel goes: where they are.
fn walk(options: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 1 < options.len() {
        let len = match options[at] {
            0 => break,
            1 => {
                at += 1;
                continue;
            }
            _ => usize::from(options[at + 1]),
        };
        if len < 2 || at + len > options.len() {
            break;
        }
        found.push(at..at + len);
        at += len;
    }
    found
}

fn set(bytes: Range<usize>) -> u64 {
    bytes.fold(0, |set, byte| set | 1 << byte)
}

/// What `toolkit_look` must write down.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    walked: u64,
    wanted: u64,
    others: u32,
    found: u32,
    mptcp: u32,
    subtype: u32,
    pure_ack: u32,
    ip_len: u32,
    payload_len: u32,
}

impl Seen {
    fn expected(built: &Built, options: &[u8], kind: u8, least: usize, subtype: u8) -> Self {
        let all = walk(options);
        let offset = |option: Option<&Range<usize>>| option.map_or(0, |o| 20 + o.start as u32);
        let is = |o: &&Range<usize>| (kind == 0 || options[o.start] == kind) && o.len() >= least;
        let mptcp: Vec<_> = all
            .iter()
            .filter(|o| options[o.start] == MPTCP && o.len() >= 3)
            .collect();
        let of = |o: &Range<usize>| options[o.start + 2] >> 4;
        let mut others = 0;
        for option in &all {
            if [19, 29].contains(&options[option.start]) {
                others |= 1 << 17;
            }
        }
        for option in mptcp.iter().filter(|o| of(o) != subtype) {
            others |= 1 << of(option);
            if of(option) == DSS && option.len() >= 4 && options[option.start + 3] & 1 > 0 {
                others |= 1 << 16;
            }
        }
        let ip = built.bytes.len() - built.layers.ip;
        let tcp = built.layers.tcp;
        let payload = built.bytes.len() - tcp - 20 - options.len();
        let flags = built.bytes[tcp + 13];
        Self {
            walked: all.iter().filter(is).fold(0, |s, o| s | 1 << o.start),
            wanted: mptcp
                .iter()
                .filter(|o| of(o) == subtype)
                .fold(0, |s, o| s | set((*o).clone())),
            others,
            found: offset(all.iter().find(is)),
            mptcp: offset(mptcp.first().copied()),
            subtype: offset(mptcp.iter().rfind(|o| of(o) == subtype).copied()),
            pure_ack: u32::from(payload == 0 && flags & 0x17 == 0x10),
            ip_len: ip as u32,
            payload_len: payload as u32,
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        Self {
            walked: long(0),
            wanted: long(8),
            others: word(16),
            found: word(20),
            mptcp: word(24),
            subtype: word(28),
            pure_ack: word(32),
            ip_len: word(36),
            payload_len: word(40),
        }
    }
}

#[test]
fn root_helpers_that_read() {
    let registry = kernel::registry_with(&["toolkit_look"]);
    let mut random = Random::new(1);
    for hook in [Hook::Xdp, Hook::TcIngress] {
        for (kind, least, subtype) in [
            (0, 2, 3),
            (MPTCP, 2, 0),
            (MPTCP, 12, 2),
            (8, 3, 1),
            (19, 2, 8),
        ] {
            let step =
                json!({ "toolkit_look": { "kind": kind, "least": least, "subtype": subtype } });
            let chain = json!({ "name": "look", "act": [step] });
            let loaded = Loaded::new(&registry, hook, &[chain], Options::default()).unwrap();
            for _ in 0..2000 {
                let (built, options) = random.packet();
                loaded.instance.run(&built.bytes, None, 1).unwrap();
                let seen = &loaded.instance.state("seen").unwrap()[0].1;
                let expected = Seen::expected(&built, &options, kind, least, subtype);
                assert_eq!(
                    Seen::read(seen),
                    expected,
                    "{hook}: {step} in {options:02x?}"
                );
            }
            let seen = &loaded.instance.state("seen").unwrap()[0].1;
            assert_eq!(seen[44..48], 2000_u32.to_ne_bytes(), "each of them ran");
        }
    }
}

#[test]
fn root_helpers_that_write() {
    let registry = kernel::registry_with(&["toolkit_put"]);
    let mut random = Random::new(2);
    let mut changed = 0;
    for hook in [Hook::Xdp, Hook::TcEgress] {
        for _ in 0..40 {
            let (bytes, blank) = (random.next() & random.next(), random.next() & random.next());
            let (mask, value) = (random.next() as u8, random.next() as u8);
            let step = json!({ "toolkit_put":
                { "bytes": bytes, "mask": mask, "value": value, "blank": blank } });
            let chain = json!({ "name": "put", "act": [step] });
            let loaded = Loaded::new(&registry, hook, &[chain], Options::default()).unwrap();
            for _ in 0..100 {
                let (built, options) = random.packet();
                let (_, run) = loaded.instance.run(&built.bytes, None, 1).unwrap();
                let at = built.layers.tcp + 20;
                let mut expected = built.bytes.clone();
                for (i, byte) in expected[at..at + options.len()].iter_mut().enumerate() {
                    if bytes >> i & 1 > 0 {
                        *byte = *byte & !mask | value & mask;
                    }
                    if blank >> i & 1 > 0 {
                        *byte = 1;
                    }
                }
                changed += u32::from(expected != built.bytes);
                // The checksum is as right or as wrong as it was, all else is as expected.
                let (before, after) = (
                    sums(&built.bytes, built.framing),
                    sums(&run.packet, built.framing),
                );
                assert_eq!(
                    after.tcp.unwrap().off(),
                    before.tcp.unwrap().off(),
                    "{hook}: {step}"
                );
                let checksum = built.layers.tcp + 16..built.layers.tcp + 18;
                expected[checksum.clone()].copy_from_slice(&run.packet[checksum]);
                assert_eq!(run.packet, expected, "{hook}: {step} in {options:02x?}");
            }
        }
    }
    assert!(changed > 1000, "{changed}");
}

/// What `toolkit_sha` writes down: tokens and first sequence numbers of both versions, HMAC.
fn hashes(registry: &Registry, hook: Hook, keys: [u64; 2], message: &[u8]) -> Vec<u8> {
    let step = json!({ "toolkit_sha":
        { "first": keys[0], "second": keys[1], "message": message } });
    let chain = json!({ "name": "sha", "act": [step] });
    let loaded = Loaded::new(registry, hook, &[chain], Options::default()).unwrap();
    let packet = Packet::new().build(Family::Ip4).unwrap().bytes;
    // Twice: nothing of the first time is in the way.
    loaded.instance.run(&packet, None, 2).unwrap();
    loaded.instance.state("hashes").unwrap().remove(0).1
}

#[test]
fn root_hashes() {
    let registry = kernel::registry_with(&["toolkit_sha"]);
    let mut random = Random::new(3);
    for hook in [Hook::Xdp, Hook::TcIngress] {
        for len in 0..=24 {
            let keys = [random.next(), random.next()];
            let message: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            let found = hashes(&registry, hook, keys, &message);
            let (sha1, sha256) = (
                Sha1::digest(keys[0].to_be_bytes()),
                Sha256::digest(keys[0].to_be_bytes()),
            );
            let mut hmac =
                Hmac::<Sha256>::new_from_slice(&keys.map(u64::to_be_bytes).concat()).unwrap();
            hmac.update(&message);
            let mut expected = Vec::new();
            let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()).to_ne_bytes();
            let long = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap()).to_ne_bytes();
            expected.extend(word(&sha1[..4]));
            expected.extend(word(&sha256[..4]));
            expected.extend(long(&sha1[12..]));
            expected.extend(long(&sha256[24..]));
            expected.extend(hmac.finalize().into_bytes().chunks(4).flat_map(word));
            assert_eq!(found, expected, "{hook}: {keys:x?} {message:02x?}");
        }
    }
}

/// What each hash costs of its own, in ns: the figures of docs/performance.md.
#[test]
#[ignore = "a measurement: cargo test --test toolkit -- --ignored --nocapture root_bench_hashes"]
fn root_bench_hashes() {
    const ROUNDS: usize = 41;
    const RUNS: u32 = 10_000;
    let registry = kernel::registry_with(&["toolkit_sha_cost"]);
    let packet = Packet::new().build(Family::Ip4).unwrap().bytes;
    let kinds = ["none", "sha1", "sha256", "hmac"];
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let loaded = kinds.map(|kind| {
            let step = json!({ "toolkit_sha_cost": { "hash": kind } });
            let chain = json!({ "name": "sha", "act": [step] });
            Loaded::new(&registry, hook, &[chain], Options::default()).unwrap()
        });
        let mut times = kinds.map(|_| Vec::new());
        for round in 0..ROUNDS {
            for n in 0..kinds.len() {
                // None is always behind the same one.
                let at = (n * (1 + 2 * (round / 4 % 2)) + round) % kinds.len();
                let run = loaded[at].instance.run(&packet, None, RUNS).unwrap().1;
                times[at].push(run.nanoseconds);
            }
        }
        for all in &mut times {
            all.sort_unstable();
        }
        for (kind, all) in kinds.iter().zip(&times).skip(1) {
            let part = |percent: usize| {
                let at = (ROUNDS - 1) * percent / 100;
                all[at].saturating_sub(times[0][at])
            };
            println!(
                "{hook}: {kind}: median {} ns, fastest {} ns, quartile {} ns (floor {} ns)",
                part(50),
                part(0),
                part(75),
                times[0][ROUNDS / 2]
            );
        }
        // Four blocks: were one left out by the compiler, the figures would mean nothing.
        let median = |at: usize| times[at][ROUNDS / 2] - times[0][ROUNDS / 2];
        assert!(median(3) > 3 * median(2), "{hook}");
    }
}

/// What real ends made of their keys, from `tests/pcaps`.
#[test]
fn root_hashes_of_captures() {
    let registry = kernel::registry_with(&["toolkit_sha"]);
    // mptcp-v0.pcap: the token of the MP_JOIN in frame 8.
    let v0 = hashes(
        &registry,
        Hook::TcIngress,
        [10_843_866_842_831_127_890, 0],
        &[],
    );
    assert_eq!(v0[..4], 3_833_528_642_u32.to_ne_bytes());
    // mptcp-aa-v1.pcap: the HMAC of the ADD_ADDR of id 1, 192.168.136.225. Who sent it took the
    // leftmost 64 bits; RFC 8684 (3.4.1) and Linux take the rightmost.
    let keys = [8_339_282_239_122_616_011, 10_307_750_418_878_507_713];
    let v1 = hashes(&registry, Hook::Xdp, keys, &[1, 192, 168, 136, 225, 0, 0]);
    let left: Vec<u8> = v1[24..32]
        .chunks(4)
        .flat_map(|w| w.iter().rev().copied())
        .collect();
    assert_eq!(left, 7_392_984_743_117_484_396_u64.to_be_bytes());
}
