//! What steps copy of packets into the ring (`include/emptcp/capture.h`), byte for byte:
//! above all that no key and no HMAC is in it.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use emptcp::datapath::Options;
use emptcp::module::Family as HookFamily;
use emptcp::module::Hook;
use emptcp::module::Kind;
use emptcp::module::Registry;
use emptcp_test::Framing;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Built;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use libbpf_rs::RingBuffer;
use libbpf_rs::RingBufferBuilder;
use serde_json::Value;
use serde_json::json;

/// `EMPTCP_RING_READS_KEYS`.
const READS_KEYS: u64 = 1;
/// Bytes of `struct emptcp_ring_packet`.
const HEAD: usize = 64;

/// A record, as far as it is looked at here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    hook: u8,
    framing: u8,
    len: u32,
    no_keys: bool,
    ip_off: u16,
    tcp_off: u16,
    ip_version: u8,
    bytes: Vec<u8>,
}

impl Record {
    fn of(record: &[u8]) -> Self {
        let u16_at = |at: usize| u16::from_ne_bytes(*record[at..].first_chunk().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(*record[at..].first_chunk().unwrap());
        assert_eq!((record[0], record[1]), (1, 1), "version and type");
        assert_eq!(usize::from(u16_at(2)), HEAD);
        assert!(u32_at(16) > 0, "interface");
        let captured = u32_at(36) as usize;
        assert_eq!(record.len(), HEAD + captured);
        Self {
            hook: record[24],
            framing: record[25],
            len: u32_at(32),
            no_keys: u32_at(40) == 1,
            ip_off: u16_at(52),
            tcp_off: u16_at(54),
            ip_version: record[56],
            bytes: record[HEAD..].to_vec(),
        }
    }
}

/// A step that copies, and the reader of its ring.
struct Subject {
    loaded: Loaded,
    node: usize,
    ring: RingBuffer<'static>,
    records: Rc<RefCell<Vec<Record>>>,
}

impl Subject {
    fn new(registry: &Registry, hook: Hook, params: &Value, options: Options) -> Self {
        let chain = json!({ "name": "tested", "act": [{ "copy_pkt": params }] });
        let loaded = Loaded::new(registry, hook, &[chain], options).unwrap();
        let records = Rc::new(RefCell::new(Vec::new()));
        let mut builder = RingBufferBuilder::new();
        let to = Rc::clone(&records);
        let map = loaded.instance.state_map("capture_ring").unwrap();
        builder
            .add(map, move |record| {
                to.borrow_mut().push(Record::of(record));
                0
            })
            .unwrap();
        Self {
            node: loaded.nodes(0, Kind::Actor)[0],
            ring: builder.build().unwrap(),
            loaded,
            records,
        }
    }

    /// A reader, for so long; `flags`: what it asks for.
    fn read_for(&self, time: Duration, flags: u64) {
        assert!(kernel::captures_are_read(
            &self.loaded.instance,
            time,
            flags
        ));
    }

    /// Whether the step counts the packet as copied, and what is in the ring then.
    fn run(&mut self, packet: &[u8]) -> (bool, Vec<Record>) {
        let done = self.loaded.run(packet, 0).unwrap();
        assert_eq!(done.run.packet, packet, "an observer has changed it");
        assert_eq!(done.counters[self.node].errors, 0, "{:?}", done.reasons);
        self.ring.consume().unwrap();
        (done.counters[self.node].matched == 1, self.records.take())
    }
}

/// Options, and how they must arrive.
fn rows() -> Vec<(&'static str, Value, Value)> {
    let key = "0x0123456789abcdef";
    let other = "0xfedcba9876543210";
    let same = |name, options: Value| (name, options.clone(), options);
    vec![
        same("none", json!([])),
        same(
            "SYN of version 1",
            json!([{ "mss": 1460 }, "sackok", { "wscale": 7 }, { "mp_capable": {} }]),
        ),
        (
            "SYN of version 0",
            json!([{ "mss": 1460 }, { "mp_capable": { "version": 0, "sender_key": key } }]),
            json!([{ "mss": 1460 }, { "mp_capable": { "version": 0, "sender_key": 0 } }]),
        ),
        (
            "SYN/ACK",
            json!([{ "mp_capable": { "sender_key": key } }]),
            json!([{ "mp_capable": { "sender_key": 0 } }]),
        ),
        (
            "third ACK",
            json!([{ "mp_capable": { "sender_key": key, "receiver_key": other } }]),
            json!([{ "mp_capable": { "sender_key": 0, "receiver_key": 0 } }]),
        ),
        (
            "first data",
            json!([{ "mp_capable": { "sender_key": key, "receiver_key": other, "data_len": 100 } }]),
            json!([{ "mp_capable": { "sender_key": 0, "receiver_key": 0, "data_len": 100 } }]),
        ),
        (
            "first data with a checksum",
            json!([{ "mp_capable": { "sender_key": key, "receiver_key": other, "data_len": 100, "checksum": "0xabcd" } }]),
            json!([{ "mp_capable": { "sender_key": 0, "receiver_key": 0, "data_len": 100, "checksum": "0xabcd" } }]),
        ),
        same(
            "MP_JOIN, SYN",
            json!([{ "mp_join_syn": { "id": 1, "token": 2, "nonce": 3 } }]),
        ),
        (
            "MP_JOIN, SYN/ACK",
            json!([{ "mp_join_synack": { "id": 1, "hmac": key, "nonce": 3 } }]),
            json!([{ "mp_join_synack": { "id": 1, "hmac": 0, "nonce": 3 } }]),
        ),
        (
            "MP_JOIN, third ACK",
            json!([{ "mp_join_ack": "0102030405060708090a0b0c0d0e0f1011121314" }]),
            json!([{ "mp_join_ack": "0000000000000000000000000000000000000000" }]),
        ),
        (
            "ADD_ADDR",
            json!([{ "add_addr": { "addr": "10.1.0.1", "hmac": key } }]),
            json!([{ "add_addr": { "addr": "10.1.0.1", "hmac": 0 } }]),
        ),
        (
            "ADD_ADDR with a port",
            json!([{ "add_addr": { "addr": "10.1.0.1", "port": 81, "hmac": key } }]),
            json!([{ "add_addr": { "addr": "10.1.0.1", "port": 81, "hmac": 0 } }]),
        ),
        same(
            "ADD_ADDR, echo",
            json!([{ "add_addr": { "addr": "10.1.0.1", "echo": true, "port": 81 } }]),
        ),
        same(
            "ADD_ADDR of version 0",
            json!([{ "add_addr": { "addr": "10.1.0.1", "version": 0, "port": 81 } }]),
        ),
        (
            "MP_FASTCLOSE",
            json!([{ "mp_fastclose": key }]),
            json!([{ "mp_fastclose": 0 }]),
        ),
        same(
            "the others",
            json!([{ "mp_prio": { "backup": true } }, { "remove_addr": [1, 2] }, { "mp_fail": key }, { "mp_tcprst": { "reason": 3 } }]),
        ),
        same(
            "DSS",
            json!([{ "dss": { "ack64": key, "dsn64": other, "ssn": 3, "len": 100, "checksum": "0xabcd" } }]),
        ),
        (
            "several, options full",
            json!([{ "mp_fastclose": key }, { "mp_prio": { "backup": true } }, { "mp_join_ack": "0102030405060708090a0b0c0d0e0f1011121314" }]),
            json!([{ "mp_fastclose": 0 }, { "mp_prio": { "backup": true } }, { "mp_join_ack": "0000000000000000000000000000000000000000" }]),
        ),
        (
            "on an odd offset",
            json!(["nop", { "mp_capable": { "sender_key": key } }]),
            json!(["nop", { "mp_capable": { "sender_key": 0 } }]),
        ),
        // Forms that no version knows.
        (
            "MP_CAPABLE of 10 bytes",
            json!([{ "raw": "1e0a0181aabbccddeeff" }]),
            json!([{ "raw": "1e0a0181000000000000" }]),
        ),
        (
            "MP_CAPABLE of 30 bytes",
            json!([{ "raw": "1e1e01810102030405060708090a0b0c0d0e0f10a1a2a3a4a5a6a7a8a9aa" }]),
            json!([{ "raw": "1e1e018100000000000000000000000000000000a1a2a3a4a5a6a7a8a9aa" }]),
        ),
        (
            "MP_JOIN of 20 bytes",
            json!([{ "raw": "1e1410010102030405060708090a0b0c0d0e0f10" }]),
            json!([{ "raw": "1e14100100000000000000000000000000000000" }]),
        ),
        (
            "ADD_ADDR of 12 bytes",
            json!([{ "raw": "1e0c30010102030405060708" }]),
            json!([{ "raw": "1e0c30010000000000000000" }]),
        ),
        (
            "echo that is too long",
            json!([{ "raw": "1e1031010a0100010102030405060708" }]),
            json!([{ "raw": "1e103101000000000000000000000000" }]),
        ),
        // What stands behind the end of the options.
        (
            "past the end",
            json!([{ "raw": "01011e140181010203040506070809aa" }]),
            json!([{ "raw": "01011e14000000000000000000000000" }]),
        ),
        (
            "length 1",
            json!([{ "raw": "1e0101811e0c01810102030405060708" }]),
            json!([{ "raw": "1e010000000000000000000000000000" }]),
        ),
        (
            "behind EOL",
            json!([{ "raw": "010101001e0c01810102030405060708" }]),
            json!([{ "raw": "01010100000000000000000000000000" }]),
        ),
    ]
}

/// What the frames of a row may be.
fn frames() -> Vec<(&'static str, Value)> {
    let mut frames = vec![
        ("plain", json!({})),
        ("vlan", json!({ "vlan": [5] })),
        ("qinq", json!({ "vlan": [100, 5] })),
        ("raw_ip", json!({ "raw_ip": true })),
        ("ip_options", json!({ "ip": { "options": true } })),
    ];
    if kernel::in_guest() {
        // Each takes programs of its own, which an emulated machine verifies for seconds.
        frames.drain(1..4);
    }
    frames
}

fn build(frame: &Value, tcp: &Value, payload: usize, family: Family) -> Built {
    let mut packet = frame.clone();
    packet["tcp"] = tcp.clone();
    packet["payload"] = payload.into();
    let packet: Packet = serde_json::from_value(packet).unwrap();
    packet.build(family).unwrap()
}

fn raw_ip(frame: &Value) -> Options {
    Options {
        raw_ip: frame["raw_ip"] == true,
        ..Options::default()
    }
}

const LONG: Duration = Duration::from_secs(600);

#[test]
fn root_secrets_do_not_leave_the_kernel() {
    let registry = Registry::builtin().unwrap();
    let mut compared = 0;
    for hook in Hook::ALL {
        for (variant, frame) in frames() {
            let mut subjects = [None, None];
            // Both must want them.
            for (gives, asks) in [(false, READS_KEYS), (true, 0), (true, READS_KEYS)] {
                if subjects[usize::from(gives)].is_none() {
                    let params = json!({ "keys": gives });
                    let subject = Subject::new(&registry, hook, &params, raw_ip(&frame));
                    subjects[usize::from(gives)] = Some(subject);
                }
                let subject = subjects[usize::from(gives)].as_mut().unwrap();
                subject.read_for(LONG, asks);
                for (name, options, zeroed) in rows() {
                    for family in Family::ALL {
                        let what = format!("{name}, {variant}, {family:?}, {hook}, {gives} {asks}");
                        let tcp = |options: &Value| json!({ "options": options, "pad": "nop" });
                        let sent = build(&frame, &tcp(&options), 8, family);
                        let mut expected = build(&frame, &tcp(&zeroed), 8, family).bytes;
                        // The checksum stays that of the packet.
                        let at = sent.layers.tcp + 16;
                        expected[at..at + 2].copy_from_slice(&sent.bytes[at..at + 2]);
                        let with_keys = gives && asks != 0;
                        if with_keys {
                            expected.clone_from(&sent.bytes);
                        }
                        expected.truncate(128);
                        let (copied, records) = subject.run(&sent.bytes);
                        assert!(copied, "{what}");
                        let [record] = &records[..] else {
                            panic!("{what}: {} records", records.len());
                        };
                        let numbers = Hook::ALL.iter().position(|h| *h == hook).unwrap();
                        let wanted = Record {
                            hook: numbers as u8,
                            framing: u8::from(sent.framing == Framing::RawIp),
                            len: sent.bytes.len() as u32,
                            no_keys: !with_keys,
                            ip_off: sent.layers.ip as u16,
                            tcp_off: sent.layers.tcp as u16,
                            ip_version: if family == Family::Ip4 { 4 } else { 6 },
                            bytes: expected,
                        };
                        assert_eq!(*record, wanted, "{what}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(
        compared > if kernel::in_guest() { 900 } else { 2000 },
        "{compared}"
    );
}

#[test]
fn root_as_many_bytes_as_asked_for() {
    let registry = Registry::builtin().unwrap();
    for hook in Hook::ALL {
        for (snap, given) in [
            (json!(16), 16),
            (json!(61), 61),
            (json!(128), 128),
            (json!("2KiB"), 2048),
        ] {
            let params = json!({ "snap": snap });
            let mut subject = Subject::new(&registry, hook, &params, Options::default());
            subject.read_for(LONG, 0);
            let tcp = json!({ "options": [{ "mp_fastclose": "0x0123456789abcdef" }] });
            for payload in (0..70).chain([1000, 1900, 1976, 1977, 1978, 2000, 3000]) {
                let sent = build(&json!({}), &tcp, payload, Family::Ip4).bytes;
                let (copied, records) = subject.run(&sent);
                assert!(copied);
                let bytes = &records[0].bytes;
                assert_eq!(
                    bytes.len(),
                    given.min(sent.len()),
                    "{snap} of {}",
                    sent.len()
                );
                assert_eq!(records[0].len as usize, sent.len());
                // The key, as far as it is there.
                let mut expected = sent[..bytes.len()].to_vec();
                for byte in expected.iter_mut().take(66).skip(58) {
                    *byte = 0;
                }
                assert_eq!(*bytes, expected, "{snap} of {}", sent.len());
            }
        }
    }
}

#[test]
fn root_nothing_is_copied_while_nobody_reads() {
    let registry = Registry::builtin().unwrap();
    let packet = Packet::new().build(Family::Ip4).unwrap().bytes;
    for hook in Hook::ALL {
        let mut subject = Subject::new(&registry, hook, &json!({}), Options::default());
        assert_eq!(subject.run(&packet), (false, Vec::new()));
        subject.read_for(LONG, 0);
        assert_eq!(subject.run(&packet).1.len(), 1);
        // A reader that has gone away without a word.
        subject.read_for(Duration::from_millis(20), 0);
        assert_eq!(subject.run(&packet).1.len(), 1);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(subject.run(&packet), (false, Vec::new()));
    }
}

#[test]
fn root_what_the_ring_has_no_room_for_is_counted() {
    let registry = Registry::builtin().unwrap();
    for hook in Hook::ALL {
        let params = json!({ "snap": 2048 });
        let mut subject = Subject::new(&registry, hook, &params, Options::default());
        subject.read_for(LONG, 0);
        let packet = build(&json!({}), &json!({}), 3000, Family::Ip4).bytes;
        const SENT: u64 = 1000;
        // The kernel's own repetition: nobody takes anything out meanwhile.
        let mark = (HookFamily::from(hook) == HookFamily::Tc).then_some(0);
        subject
            .loaded
            .instance
            .run(&packet, mark, SENT as u32)
            .unwrap();
        subject.ring.consume().unwrap();
        let copied = subject.records.take().len() as u64;
        // 64 bytes of head, 8 of the ring's own.
        assert_eq!(copied, (1 << 20) / (2048 + 64 + 8), "{hook}");
        let lost = subject.loaded.instance.state("capture_lost").unwrap();
        let [(_, lost)] = &lost[..] else {
            panic!("{lost:?}");
        };
        let lost = u64::from_ne_bytes(*lost.first_chunk().unwrap());
        assert_eq!(copied + lost, SENT, "{hook}");
        let counters = subject.loaded.instance.counters().unwrap()[subject.node];
        assert_eq!((counters.matched, counters.errors), (SENT, 0), "{hook}");
        // There is room again.
        assert_eq!(subject.run(&packet).1.len(), 1, "{hook}");
    }
}
