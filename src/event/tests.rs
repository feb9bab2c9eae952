//! Records as the data plane makes them.

use serde_json::json;

use super::*;
use crate::capture::Source;

fn word(last: [u8; 4]) -> abi::Addr {
    abi::Addr {
        w: [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(last)],
    }
}

/// What every record of these tests begins with.
fn begin(r#type: u8, size: usize) -> abi::Event {
    let mut event = abi::Event {
        token: 1,
        client_token: 2,
        flags: abi::EVENT_HAS_TOKEN | abi::EVENT_HAS_CLIENT_TOKEN | abi::EVENT_FROM_SERVER,
        ..Default::default()
    };
    event.head.version = abi::RING_VERSION;
    event.head.r#type = r#type;
    event.head.size = size as u16;
    event.head.step = 3;
    event.head.time = 7;
    event.head.ifindex = 2;
    event.head.hook = abi::hook_number(Hook::TcEgress);
    event.subflow.src = word([10, 0, 0, 1]);
    event.subflow.dst = word([10, 0, 0, 2]);
    event.subflow.sport = 5001;
    event.subflow.dport = 40000;
    event
}

fn add_addr_record() -> Vec<u8> {
    let addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9).octets();
    let mut raw = abi::EventAddAddr {
        event: begin(abi::RING_ADD_ADDR, size_of::<abi::EventAddAddr>()),
        port: 8080,
        addr_id: 4,
        flags: abi::EVENT_HAS_PORT,
        ..Default::default()
    };
    for (word, bytes) in raw.addr.w.iter_mut().zip(addr.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap());
    }
    abi::bytes_of(&raw).to_vec()
}

/// ADD_ADDR of a server: 10.0.0.1:5001 to 10.0.0.2:40000, tokens 1 and 2, fd00::9.
pub(crate) fn add_addr() -> Event {
    Event::parse(&add_addr_record(), 1000).unwrap()
}

pub(crate) fn subflow(what: u8, end: u8) -> Event {
    let raw = abi::EventSubflow {
        event: begin(abi::RING_SUBFLOW, size_of::<abi::EventSubflow>()),
        bytes: [5, 6],
        retransmitted: [1, 0],
        duration: 1_234_567_890,
        what,
        end,
        kind: 2,
        version: 1,
        index: 1,
        flags: abi::EVENT_SRC_HAS_ID | abi::EVENT_DST_ASKS_BACKUP,
        addr_id: [9, 8],
    };
    Event::parse(abi::bytes_of(&raw), 0).unwrap()
}

#[test]
fn an_event() {
    let event = add_addr();
    assert_eq!((event.time, event.step, event.ifindex), (1007, 3, 2));
    assert_eq!((event.token, event.client_token), (Some(1), Some(2)));
    assert_eq!(event.side, Some(Side::Server));
    let source = Source {
        chain: "c".to_owned(),
        step: "c/act[0]".to_owned(),
    };
    assert_eq!(
        line(&event, "eth0", Some(&source)),
        "0.000001007 add_addr id 4 fd00::9 port 8080 token 00000001 client-token 00000002 \
         server 10.0.0.1:5001 > 10.0.0.2:40000 dev eth0 (c/act[0])"
    );
    assert_eq!(
        object(&event, "eth0", None),
        json!({
            "time": 1007, "type": "add_addr", "interface": "eth0", "hook": "tc-egress",
            "chain": null, "step": "step 3, gone", "zone": 0,
            "token": "0x00000001", "client_token": "0x00000002",
            "src": "10.0.0.1", "sport": 5001, "dst": "10.0.0.2", "dport": 40000,
            "src_is": "server",
            "addr": "fd00::9", "port": 8080, "addr_id": 4, "echo": false,
        })
    );
}

#[test]
fn what_is_no_event() {
    let whole = add_addr_record();
    // A later version has more members; what it has not is not there.
    let mut longer = whole.clone();
    longer.extend([9; 8]);
    let size = longer.len() as u16;
    longer[2..4].copy_from_slice(&size.to_ne_bytes());
    assert_eq!(Event::parse(&longer, 1000), Some(add_addr()));
    assert_eq!(Event::parse(&whole[..whole.len() - 1], 0), None);
    let mut short = whole.clone();
    short[2..4].copy_from_slice(&8u16.to_ne_bytes());
    assert_eq!(Event::parse(&short, 0), None);
    for (at, byte) in [(0, 2), (1, 1), (1, 99), (24, 9)] {
        let mut other = whole.clone();
        other[at] = byte;
        assert_eq!(Event::parse(&other, 0), None, "{at}: {byte}");
    }
    assert_eq!(Event::parse(&[], 0), None);
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut raw = abi::EventPrio {
        event: begin(abi::RING_PRIO, size_of::<abi::EventPrio>()),
        backup: 1,
        ..Default::default()
    };
    raw.event.flags = 0;
    let event = Event::parse(abi::bytes_of(&raw), 0).unwrap();
    assert_eq!(
        line(&event, "eth0", None),
        "0.000000007 prio backup on 10.0.0.1:5001 > 10.0.0.2:40000 dev eth0 (step 3, gone)"
    );
    let json = object(&event, "eth0", None);
    assert_eq!(
        (&json["token"], &json["src_is"]),
        (&json!(null), &json!(null))
    );
}

#[test]
fn subflows() {
    let said = |event: &Event| {
        let line = line(event, "e", None);
        line.split_once(" token").unwrap().0.to_owned()
    };
    let opened = subflow(0, 0);
    assert_eq!(
        said(&opened),
        "0.000000007 subflow opened joined index 1 ids 9-- backup-by-peer"
    );
    assert_eq!(object(&opened, "e", None).get("src_bytes"), None);
    let closed = subflow(1, 2);
    assert_eq!(
        said(&closed),
        "0.000000007 subflow closed by rst joined index 1 after 1.234 s, bytes 5 back 6, \
         retransmitted 1 back 0 ids 9-- backup-by-peer"
    );
    let json = object(&closed, "e", None);
    assert_eq!(
        (
            &json["event"],
            &json["by"],
            &json["dst_bytes"],
            &json["dst_addr_id"]
        ),
        (&json!("closed"), &json!("rst"), &json!(6), &json!(null))
    );
}

#[test]
fn names_of_enums() {
    let ends: Vec<_> = (0..6).map(abi::end_name).collect();
    assert_eq!(ends, ["none", "fin", "rst", "data_fin", "fastclose", "max"]);
    assert_eq!(abi::end_name(99), "unknown");
    let causes: Vec<_> = (0..6).map(abi::fallback_name).collect();
    assert_eq!(causes, ["none", "synack", "ack", "data", "fail", "unknown"]);
    let kinds: Vec<_> = (0..4).map(abi::kind_name).collect();
    assert_eq!(kinds, ["unknown", "initial", "joined", "unknown"]);
}

#[test]
fn removed_addresses() {
    let mut raw = abi::EventRemoveAddr {
        event: begin(abi::RING_REMOVE_ADDR, size_of::<abi::EventRemoveAddr>()),
        addr_id: [1, 2, 3, 4, 5, 6, 7, 8],
        count: 2,
        ..Default::default()
    };
    let event = Event::parse(abi::bytes_of(&raw), 0).unwrap();
    assert!(line(&event, "e", None).contains(" remove_addr ids 1,2 token "));
    raw.count = 20;
    let event = Event::parse(abi::bytes_of(&raw), 0).unwrap();
    let line = line(&event, "e", None);
    assert!(line.contains(" ids 1,2,3,4,5,6,7,8 of 20 "), "{line}");
}

#[test]
fn a_quota_is_used_up() {
    let mut raw = abi::EventQuota {
        event: begin(abi::RING_QUOTA, size_of::<abi::EventQuota>()),
        bytes: 120,
        limit: 100,
        period: 90_000_000_000,
        ..Default::default()
    };
    for (to, from) in raw.name.bytes.iter_mut().zip(b"lte") {
        *to = *from as _;
    }
    let event = Event::parse(abi::bytes_of(&raw), 0).unwrap();
    let line = super::text::line(&event, "wwan0", None);
    assert!(
        line.contains(r#" quota "lte" used up, bytes 120 of 100 in 90.000 s token"#),
        "{line}"
    );
    let object = super::text::object(&event, "wwan0", None);
    assert_eq!(object["type"], "quota");
    let said = ["name", "bytes", "limit", "period"].map(|field| object[field].clone());
    assert_eq!(
        said,
        [
            json!("lte"),
            json!(120),
            json!(100),
            json!(90_000_000_000_u64)
        ]
    );
}
