//! Frames of made-up subflows, and what tshark reads in them.

#![allow(clippy::unwrap_used)]

use emptcp_test::Framing;
use emptcp_test::tshark;
use emptcp_test::tshark::Checksum;

use super::*;
use crate::abi::WSCALE_UNKNOWN;
use crate::abi::hook_number;
use crate::interface::Interface;
use crate::module::Hook;

const NOW: u64 = 1_000_000_000;

const VLAN: [u8; 18] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 7, 0x86, 0xdd,
];

fn interfaces() -> Interfaces {
    let interface = |index, name: &str, raw_ip| Interface {
        index,
        name: name.to_owned(),
        altnames: Vec::new(),
        mtu: 1500,
        kind: None,
        raw_ip,
        xdp_program: None,
        up: true,
    };
    Interfaces(vec![
        interface(4, "eth0", false),
        interface(5, "tun0", true),
    ])
}

fn way(hook: Hook, l2: &[u8]) -> TrackWay {
    let mut way = TrackWay {
        last: 1,
        ifindex: 4,
        hook: hook_number(hook) + 1,
        wscale: WSCALE_UNKNOWN,
        flags: WayFlags::EMPTCP_WAY_DSS.0 as u8,
        ttl: 61,
        // ECT(0) of a packet with data.
        tos: 0x2a,
        window: 501,
        ack: 0x0102_0304,
        ts_ecr: 70,
        ..TrackWay::default()
    };
    way.sequence.known = 1;
    way.sequence.end = 0xffff_fffe;
    way.rtt.known = 1;
    way.rtt.latest = 90;
    way.l2_len = l2.len() as u8;
    way.l2[..l2.len()].copy_from_slice(l2);
    way
}

/// An established subflow whose packets from the lower end come in, and whose others go out.
fn made(v6: bool) -> (Ends, TrackSubflow) {
    let (from, to) = match v6 {
        true => ("[fd00::1]:999", "[fd00::2]:80"),
        false => ("10.0.0.1:999", "10.0.0.2:80"),
    };
    let (ends, direction) = Ends::of(from.parse().unwrap(), to.parse().unwrap(), 0);
    assert_eq!(direction, 0);
    let mut l2 = VLAN.to_vec();
    if !v6 {
        l2.drain(12..16);
        l2[12..].copy_from_slice(&[8, 0]);
    }
    let mut sub = TrackSubflow {
        state: TrackState::EMPTCP_TRACK_ESTABLISHED.0 as u8,
        version: 1,
        opener: 0,
        client: 0,
        way: [way(Hook::TcIngress, &l2), way(Hook::TcEgress, &l2)],
        ..TrackSubflow::default()
    };
    sub.way[1].rtt.latest = 80;
    (ends, sub)
}

#[test]
fn every_field() {
    for v6 in [false, true] {
        let (ends, sub) = made(v6);
        let made = frame(&ends, &sub, 0, &interfaces(), NOW).unwrap();
        assert!(matches!(made.place, Place::Arrives { ifindex: 4, .. }));
        let bytes = made.ack.bytes(&Opt::prio(true)).unwrap();
        let decoded = tshark::decode([(Framing::Ethernet, bytes.as_slice())]).unwrap();
        let decoded = &decoded[0];
        assert!(
            decoded.complaints.is_empty() && !decoded.malformed,
            "{decoded:?}"
        );
        assert_eq!(decoded.vlan, if v6 { vec![7] } else { vec![] });
        let ip = decoded.ip.as_ref().unwrap();
        assert_eq!((ip.src, ip.dst), (ends.ends[0].ip(), ends.ends[1].ip()));
        assert_eq!((ip.ttl, ip.tos), (61, 0x28), "not ECN-capable");
        assert_eq!(ip.checksum, (!v6).then_some(Checksum::Good));
        assert_eq!(ip.len, if v6 { 76 } else { 56 });
        let tcp = decoded.tcp.as_ref().unwrap();
        assert_eq!((tcp.sport, tcp.dport, tcp.flags), (999, 80, 0x10));
        assert_eq!((tcp.seq, tcp.ack), (0xffff_fffe, 0x0102_0304));
        assert_eq!((tcp.window, tcp.payload_len), (501, Some(0)));
        assert_eq!(tcp.checksum, Checksum::Good);
        let options = &bytes[bytes.len() - 16..];
        assert_eq!(
            options,
            [1, 1, 8, 10, 0, 0, 0, 90, 0, 0, 0, 80, 30, 3, 0x51, 1]
        );
        let [option] = &decoded.mptcp[..] else {
            panic!("{decoded:?}")
        };
        assert_eq!((option.subtype, option.len), (Some(5), 3));
    }
}

#[test]
fn without_timestamps() {
    let (ends, mut sub) = made(false);
    let options = |sub: &TrackSubflow| {
        let made = frame(&ends, sub, 1, &interfaces(), NOW).unwrap();
        assert!(matches!(made.place, Place::Leaves { .. }));
        let bytes = made.ack.bytes(&Opt::prio(false)).unwrap();
        bytes[14 + 40..].to_vec()
    };
    assert_eq!(options(&sub).len(), 16);
    // The other end has none: they were not agreed on.
    sub.way[0].rtt.known = 0;
    assert_eq!(options(&sub), [30, 3, 0x50, 1]);
    // Nothing of the other end was seen: what this one has echoed last.
    sub.way[0].last = 0;
    assert_eq!(options(&sub)[8..12], 70u32.to_be_bytes());
}

#[test]
fn what_would_do_harm_is_refused() {
    let refused = |change: &dyn Fn(&mut TrackSubflow), words: &str| {
        let (ends, mut sub) = made(false);
        change(&mut sub);
        let error = frame(&ends, &sub, 0, &interfaces(), NOW).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    let state = |state: TrackState| move |s: &mut TrackSubflow| s.state = state.0 as u8;
    refused(&state(TrackState::EMPTCP_TRACK_SYNACK), "not over");
    refused(&state(TrackState::EMPTCP_TRACK_CLOSING), "is closing");
    refused(&|s| s.fallback = 1, "plain TCP");
    refused(&|s| s.way[0].last = 0, "no packet from 10.0.0.1:999");
    refused(&|s| s.way[0].sequence.known = 0, "sequence numbers");
    refused(&|s| s.way[0].flags = 0, "no DSS");
    refused(&|s| s.way[0].hook = 0, "was counted here");
    refused(&|s| s.way[0].ifindex = 9, "has gone");
    refused(&|s| s.way[0].l2_len = 0, "link-layer header");
    refused(&|s| s.way[0].ifindex = 5, "tun0 has no Ethernet headers");
}

/// Of a subflow that has carried nothing since it joined.
#[test]
fn a_data_ack_may_be_the_first() {
    let (ends, mut sub) = made(false);
    sub.way[0].flags = 0;
    sub.way[1].flags |= WayFlags::EMPTCP_WAY_DSS.0 as u8;
    let make = |sub: &TrackSubflow| frame_of_data_ack(&ends, sub, 0, &interfaces(), NOW);
    assert!(make(&sub).is_ok());
    // Nobody has answered the third ACK.
    sub.way[1].flags = 0;
    let error = make(&sub).unwrap_err();
    assert!(error.to_string().contains("no DSS"), "{error}");
}

/// Out of an interface without Ethernet headers it goes as it is.
#[test]
fn without_ethernet() {
    let (ends, mut sub) = made(true);
    (sub.way[1].ifindex, sub.way[1].l2_len) = (5, 0);
    let made = frame(&ends, &sub, 1, &interfaces(), NOW).unwrap();
    sub.way[1].data_ack = 0x0102_0304_0506_0708;
    assert!(Opt::data_ack(&sub.way[1]).is_none());
    sub.way[1].flags |= WayFlags::EMPTCP_WAY_DATA_ACK.0 as u8;
    let narrow = Opt::data_ack(&sub.way[1]).unwrap();
    assert_eq!(narrow.bytes(), [30, 8, 0x20, 1, 5, 6, 7, 8]);
    sub.way[1].flags |= WayFlags::EMPTCP_WAY_DATA_ACK64.0 as u8;
    let wide = Opt::data_ack(&sub.way[1]).unwrap();
    assert_eq!(wide.bytes(), [30, 12, 0x20, 3, 1, 2, 3, 4, 5, 6, 7, 8]);
    let bytes = made.ack.bytes(&wide).unwrap();
    let decoded = tshark::decode([(Framing::RawIp, bytes.as_slice())]).unwrap();
    assert_eq!(decoded[0].tcp.as_ref().unwrap().checksum, Checksum::Good);
    assert!(decoded[0].complaints.is_empty(), "{decoded:?}");
}

#[test]
fn who_gets_it() {
    let (ends, mut sub) = made(false);
    let directions = |to: To, sub: &TrackSubflow| to.directions(&ends, sub);
    assert_eq!(directions(To::Server, &sub).unwrap(), [0]);
    assert_eq!(directions(To::Client, &sub).unwrap(), [1]);
    sub.client = 1;
    assert_eq!(directions(To::Server, &sub).unwrap(), [1]);
    assert_eq!(role(&sub, 1), Some("client"));
    assert_eq!(role(&sub, 0), Some("server"));
    sub.client = DIRECTION_UNKNOWN;
    assert_eq!(directions(To::Both, &sub).unwrap(), [0, 1]);
    assert_eq!(role(&sub, 0), None);
    let error = directions(To::Client, &sub).unwrap_err();
    assert!(error.to_string().contains("is not known"), "{error}");
}

#[test]
fn options_in_json() {
    let bytes = |json: &str| Opt::parse(json).unwrap().bytes().to_vec();
    assert_eq!(bytes(r#"{"option": "mp_prio"}"#), [30, 3, 0x50]);
    let prio = r#"{"option": "mp_prio", "backup": true}"#;
    assert_eq!(bytes(prio), [30, 3, 0x51]);
    let remove = r#"{"option": "remove_addr", "addr_ids": [9, 1]}"#;
    assert_eq!(bytes(remove), [30, 5, 0x40, 9, 1]);
    let fail = r#"{"option": "mp_fail", "number": 258}"#;
    assert_eq!(bytes(fail), [30, 12, 0x60, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    let experimental = r#"{"option": "mp_experimental", "flags": 8, "data": [1, 2]}"#;
    assert_eq!(bytes(experimental), [30, 5, 0xf8, 1, 2]);
    assert_eq!(bytes(r#"{"option": "subtype_9"}"#), [30, 3, 0x90]);

    for (json, words) in [
        (r#"{"option": "mp_proi"}"#, "did you mean \"mp_prio\"?"),
        (r#"{"option": "dss"}"#, "no option \"dss\""),
        (
            r#"{"option": "mp_prio", "number": 1}"#,
            "mp_prio has no \"number\"; it has backup",
        ),
        (
            r#"{"option": "mp_prio", "once": true}"#,
            "unknown field `once`",
        ),
        (r#"{"option": "remove_addr"}"#, "1 to 8 \"addr_ids\""),
        (r#"{"option": "mp_fastclose"}"#, "needs \"number\""),
        (r#"{"option": "subtype_9", "flags": 16}"#, "at most 15"),
        (r#"{"option": }"#, "is not right"),
    ] {
        let error = Opt::parse(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}

/// A key is sent, and shown nowhere.
#[test]
fn keys_are_not_shown() {
    let json = r#"{"option": "mp_fastclose", "number": "0x1122334455667788"}"#;
    let option = Opt::parse(json).unwrap();
    assert_eq!(option.bytes()[4..], 0x1122_3344_5566_7788u64.to_be_bytes());
    let shown = option.without_key();
    assert_eq!(shown.bytes(), [30, 12, 0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for text in [option.text().to_owned(), format!("{option:?} {shown:?}")] {
        assert!(!text.contains("11223344") && !text.contains("1234605616436508552"));
    }
    let wrong = r#"{"option": "mp_fastclose", "number": "0x11223344556677889"}"#;
    let error = Opt::parse(wrong).unwrap_err().to_string();
    assert!(!error.contains("11223344"), "{error}");
}

#[test]
fn an_option_that_does_not_fit() {
    let (ends, sub) = made(false);
    let made = frame(&ends, &sub, 0, &interfaces(), NOW).unwrap();
    let option = |count: usize| {
        let data = vec![7; count];
        Opt::parse(&format!(r#"{{"option": "subtype_9", "data": {data:?}}}"#))
    };
    let full = made.ack.bytes(&option(25).unwrap()).unwrap();
    assert_eq!(full.len(), 14 + 20 + 60);
    assert!(option(26).is_err());
}

/// While packets come a frame goes ahead of them, in the window.
#[test]
fn of_a_direction_that_moves() {
    let (ends, mut sub) = made(false);
    sub.way[1].ack = sub.way[0].sequence.end.wrapping_sub(1000);
    sub.way[1].last = NOW;
    let ahead = |sub: &TrackSubflow| {
        let ack = frame(&ends, sub, 0, &interfaces(), NOW).unwrap().ack;
        let latest = sub.way[0].rtt.latest;
        let ticks = ack.timestamps.unwrap().0 - latest;
        (ack.seq.wrapping_sub(sub.way[0].sequence.end), ticks)
    };
    assert_eq!(ahead(&sub), (0, 0), "it does not move");
    sub.way[0].last = NOW - 1_000_000;
    // The window of 501 bytes is full.
    assert_eq!(ahead(&sub), (0, 0));
    sub.way[1].wscale = 4;
    assert_eq!(ahead(&sub), ((501 * 16 - 1000) / 2, TICKS));
    sub.way[1].wscale = 14;
    assert_eq!(ahead(&sub), (AHEAD, TICKS));
    sub.way[0].window = 0;
    assert_eq!(ahead(&sub), (0, 0), "its own window is closed");
}
