//! Views, take-over and expiry of made-up subflows.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use serde_json::json;

use super::*;
use crate::abi::ConnFlags;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::SubflowKey;
use crate::abi::TrackKind;
use crate::abi::TrackState;
use crate::abi::TrackWay;
use crate::abi::WSCALE_UNKNOWN;
use crate::abi::WayFlags;
use crate::abi::bytes_of;
use crate::abi::from_bytes;
use crate::interface::Interface;
use crate::interface::Interfaces;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1000 * SECOND;

fn place(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn interfaces() -> Interfaces {
    Interfaces(vec![Interface {
        index: 4,
        name: "eth0".to_owned(),
        altnames: Vec::new(),
        mtu: 1500,
        up: true,
        kind: None,
        raw_ip: false,
        xdp_program: None,
    }])
}

/// A subflow that a client has opened, ten seconds old, of which nothing came by.
fn sub(client: u8) -> TrackSubflow {
    let unknown = TrackWay {
        wscale: WSCALE_UNKNOWN,
        ..TrackWay::default()
    };
    TrackSubflow {
        created: NOW - 10 * SECOND,
        state: TrackState::EMPTCP_TRACK_ESTABLISHED.0 as u8,
        kind: TrackKind::EMPTCP_TRACK_INITIAL.0 as u8,
        version: 1,
        opener: client,
        client,
        way: [unknown; 2],
        ..TrackSubflow::default()
    }
}

fn tied(mut sub: TrackSubflow, key: ConnKey, index: u8) -> TrackSubflow {
    sub.conn = key.into();
    sub.flags |= TrackFlags::EMPTCP_TRACK_TIED.0 as u8;
    sub.index = index;
    sub
}

const KEY: ConnKey = ConnKey {
    zone: 0,
    token: 0x1234_5678,
};

/// Each end of both families comes back as it was, and the lower one is first as in the kernel:
/// by words of this machine, though the bytes are in network order.
#[test]
fn ends_as_the_kernel_orders_them() {
    for (lower, higher) in [
        ("10.0.0.1:40000", "10.0.0.2:80"),
        ("10.0.0.1:80", "10.0.0.1:81"),
        ("[fd00::1]:1", "[fd00::2]:1"),
        #[cfg(target_endian = "little")]
        ("10.9.0.1:1", "10.0.0.2:1"),
        #[cfg(target_endian = "little")]
        ("[fd01::1]:1", "[fd00:1::1]:1"),
    ] {
        let (lower, higher) = (place(lower), place(higher));
        let (ends, direction) = Ends::of(lower, higher, 7);
        assert_eq!((ends.ends, direction), ([lower, higher], 0));
        assert_eq!(Ends::of(higher, lower, 7), (ends, 1));
        let bytes = bytes_of(&SubflowKey::from(&ends)).to_vec();
        assert_eq!(bytes.len(), 40);
        let key: SubflowKey = from_bytes(&bytes).unwrap();
        assert_eq!(Ends::from(&key), ends);
    }
}

/// What nobody saw is null; IPv4 is shown as such.
#[test]
fn unknown_is_null() {
    let (ends, client) = Ends::of(place("10.0.0.9:80"), place("10.0.0.1:999"), 0);
    let mut seen = sub(client);
    seen.way[usize::from(client)] = TrackWay {
        bytes: 700,
        retransmitted: 200,
        packets: 5,
        last: NOW - SECOND,
        ifindex: 4,
        hook: 2,
        wscale: 7,
        flags: WayFlags::EMPTCP_WAY_HAS_ID.0 as u8,
        addr_id: 3,
        ..TrackWay::default()
    };
    seen.way[usize::from(client)].rtt.srtt = 8 * 1500;
    seen.way[usize::from(client)].rtt.min_rtt = 1200;
    let track = Track {
        subflows: [(ends, seen)].into(),
        ..Track::default()
    };
    let views = subflow_views(&track, false, &interfaces(), &[], NOW);
    let shown = serde_json::to_value(&views[0]).unwrap();
    let null = json!(null);
    let unseen = json!({ "address": "10.0.0.1", "port": 999, "address_id": null, "wscale": null,
        "asks_backup": null, "backup_wanted_by": null, "interface": null, "hook": null, "bytes": null,
        "retransmitted_bytes": null, "packets": null, "srtt_us": null, "min_rtt_us": null,
        "idle_ms": null, "kernel": null });
    assert_eq!(
        shown,
        json!({ "token": null, "zone": 0, "index": 0, "kind": "initial", "state": "established",
            "version": 1, "opener_known": true,
            "from": { "address": "10.0.0.9", "port": 80, "address_id": 3, "wscale": 7,
                "asks_backup": false, "backup_wanted_by": null, "interface": "eth0", "hook": "tc-ingress", "bytes": 700,
                "retransmitted_bytes": 200, "packets": 5, "srtt_us": 1500, "min_rtt_us": 1200,
                "idle_ms": 1000, "kernel": null },
            "to": unseen, "client": "from", "fallback": null, "taken_over": false,
            "age_ms": 10_000, "idle_ms": 1000 })
    );
    // Without an opener the lower end is first.
    let mut unknown = seen;
    unknown.opener = DIRECTION_UNKNOWN;
    unknown.client = DIRECTION_UNKNOWN;
    unknown.kind = 0;
    let track = Track {
        subflows: [(ends, unknown)].into(),
        ..Track::default()
    };
    let views = subflow_views(&track, false, &interfaces(), &[], NOW);
    let shown = serde_json::to_value(&views[0]).unwrap();
    assert_eq!(shown["from"]["address"], "10.0.0.1");
    for name in ["kind", "index", "client", "token"] {
        assert_eq!(shown[name], null, "{name}");
    }
    assert!(views[0].is_at("eth0") && !views[0].is_at("eth1"));
}

#[test]
fn order_and_half_open() {
    let other = ConnKey {
        token: 0x1000_0000,
        ..KEY
    };
    let ends = |port| {
        Ends::of(
            place("[fd00::1]:80"),
            place(&format!("[fd00::2]:{port}")),
            0,
        )
        .0
    };
    let mut alone = sub(0);
    alone.kind = TrackKind::EMPTCP_TRACK_JOINED.0 as u8;
    let mut half = sub(0);
    half.state = TrackState::EMPTCP_TRACK_SYN.0 as u8;
    let track = Track {
        subflows: [
            (ends(1), alone),
            (ends(2), tied(sub(0), KEY, 1)),
            (ends(3), tied(sub(0), KEY, 0)),
            (ends(4), tied(sub(0), other, 0)),
        ]
        .into(),
        // The second became established while it was read.
        half_open: [(ends(9), half), (ends(4), half)].into(),
        ..Track::default()
    };
    let ports = |half_open| -> Vec<u16> {
        let views = subflow_views(&track, half_open, &interfaces(), &[], NOW);
        views.iter().map(|v| v.to.port).collect()
    };
    assert_eq!(ports(false), [4, 3, 2, 1]);
    assert_eq!(ports(true), [4, 3, 2, 1, 9]);
}

#[test]
fn connections() {
    let (first, client) = Ends::of(place("10.0.0.9:5000"), place("10.0.0.1:80"), 0);
    let (second, _) = Ends::of(place("10.1.0.9:5001"), place("10.0.0.1:80"), 0);
    let (plain, opener) = Ends::of(place("10.0.0.8:5000"), place("10.0.0.1:80"), 0);
    let mut fell_back = sub(opener);
    fell_back.fallback = 1;
    fell_back.way[usize::from(opener)].last = NOW;
    fell_back.way[usize::from(opener)].bytes = 30;
    fell_back.way[usize::from(opener)].retransmitted = 10;
    let conn = TrackConn {
        created: NOW - 5 * SECOND,
        bytes: [1, 2],
        client_token: 0xabc,
        live: 2,
        ever: 3,
        version: 1,
        flags: ConnFlags::EMPTCP_CONN_HAS_CLIENT_TOKEN.0 as u8,
        ..TrackConn::default()
    };
    let track = Track {
        subflows: [
            (first, tied(sub(client), KEY, 0)),
            (second, tied(sub(client), KEY, 2)),
            (plain, fell_back),
        ]
        .into(),
        connections: [(KEY, conn)].into(),
        ..Track::default()
    };
    let shown = serde_json::to_value(connection_views(&track, NOW)).unwrap();
    assert_eq!(
        shown,
        json!([{ "token": "0x12345678", "client_token": "0x00000abc", "version": 1, "zone": 0,
                "client": "10.0.0.9:5000", "server": "10.0.0.1:80", "state": "open",
                "subflows": 2, "subflows_ever": 3, "bytes_up": 1, "bytes_down": 2,
                "fallback": null, "taken_over": false, "age_ms": 5000 },
            { "token": null, "client_token": null, "version": 1, "zone": 0,
                "client": "10.0.0.8:5000", "server": "10.0.0.1:80", "state": "open",
                "subflows": 1, "subflows_ever": null, "bytes_up": 20, "bytes_down": null,
                "fallback": "synack", "taken_over": false, "age_ms": 10_000 }])
    );
    let state = |flags: u32, live: u32| {
        let conn = TrackConn {
            flags: flags as u8,
            live,
            ..conn
        };
        let track = Track {
            connections: [(KEY, conn)].into(),
            ..Track::default()
        };
        connection_views(&track, NOW)[0].state
    };
    assert_eq!(state(ConnFlags::EMPTCP_CONN_ENDS.0, 1), "closing");
    assert_eq!(state(ConnFlags::EMPTCP_CONN_ENDS.0, 0), "closed");
}

/// A socket of a host, of the first subflow or a joined one.
fn socket(local: &str, remote: &str, token: u32, flags: u32) -> Socket {
    Socket {
        local: place(local),
        remote: place(remote),
        established: true,
        flags: SocketFlags(flags),
        token_local: Some(token),
        wscales: Some([7, 9]),
        ..Socket::default()
    }
}

const CLIENT: u32 = SocketFlags::CAPABLE | SocketFlags::ASKED_CAPABLE;
const CLIENT_JOIN: u32 = SocketFlags::JOIN | SocketFlags::ASKED_JOIN;

#[test]
fn taken_over_by_the_server() {
    let mut joined = socket("10.0.0.1:80", "10.1.0.9:5", 0xaa, SocketFlags::JOIN);
    joined.flags.0 |= SocketFlags::BACKUP_REMOTE;
    joined.id_remote = 4;
    let sockets = [
        joined,
        socket("10.0.0.1:80", "10.0.0.9:5", 0xaa, SocketFlags::CAPABLE),
        // Plain TCP by now, and one that ends.
        socket("10.0.0.1:80", "10.0.0.9:6", 0xab, 0),
        Socket {
            established: false,
            ..socket("10.0.0.1:80", "10.0.0.9:7", 0xac, SocketFlags::CAPABLE)
        },
    ];
    let all = found(0, &sockets, &Track::default(), NOW);
    assert_eq!(all.len(), 1);
    let (key, conn) = all[0].connection.unwrap();
    assert_eq!(
        key,
        ConnKey {
            zone: 0,
            token: 0xaa
        }
    );
    assert_eq!((conn.live, conn.ever, conn.flags), (2, 2, 0));
    let [(first, one), (second, two)] = all[0].subflows[..] else {
        panic!("{all:?}");
    };
    let (ends, from_client) = Ends::of(place("10.0.0.9:5"), place("10.0.0.1:80"), 0);
    assert_eq!(first, ends);
    assert_eq!(
        (one.opener, one.client, one.index),
        (from_client, from_client, 0)
    );
    let (ends, from_client) = Ends::of(place("10.1.0.9:5"), place("10.0.0.1:80"), 0);
    assert_eq!(second, ends);
    assert_eq!(
        (two.opener, two.client, two.index),
        (from_client, from_client, 1)
    );
    assert_eq!((connection_of(&two), two.token), (Some(key), 0xaa));
    let way = &two.way[usize::from(from_client)];
    assert_eq!((way.addr_id, way.wscale), (4, 9));
    assert_ne!(u32::from(way.flags) & WayFlags::EMPTCP_WAY_ASKS_BACKUP.0, 0);
    assert_eq!(two.way[usize::from(1 - from_client)].wscale, 7);

    // What the tracker knows is left as it is.
    let known = Track {
        subflows: [(first, one)].into(),
        connections: [(key, conn)].into(),
        ..Track::default()
    };
    let more = found(0, &sockets, &known, NOW);
    assert_eq!(more[0].subflows.len(), 1);
    assert_eq!(
        (more[0].subflows[0].0, more[0].subflows[0].1.index),
        (second, 2)
    );
    let known = Track {
        subflows: [(first, one)].into(),
        half_open: [(second, two)].into(),
        ..Track::default()
    };
    assert!(found(0, &sockets, &known, NOW).is_empty());
}

#[test]
fn taken_over_by_the_client() {
    let first = socket("10.0.0.9:5", "10.0.0.1:80", 0xc, CLIENT);
    // Nothing tells the token of the server.
    let all = found(0, std::slice::from_ref(&first), &Track::default(), NOW);
    assert!(all[0].connection.is_none());
    let (_, from_client) = Ends::of(first.local, first.remote, 0);
    assert_eq!(all[0].subflows[0].1.client, from_client);
    assert_eq!(connection_of(&all[0].subflows[0].1), None);

    let mut joined = socket("10.1.0.9:5", "10.0.0.1:80", 0xc, CLIENT_JOIN);
    joined.token_remote = Some(0xaa);
    let all = found(0, &[first.clone(), joined.clone()], &Track::default(), NOW);
    let (key, conn) = all[0].connection.unwrap();
    assert_eq!((key.token, conn.client_token), (0xaa, 0xc));
    assert_eq!(all[0].subflows.len(), 2);

    // Who is the client cannot be told without the first subflow.
    let all = found(0, &[joined], &Track::default(), NOW);
    assert!(all[0].connection.is_none());
    assert_eq!(all[0].subflows[0].1.client, DIRECTION_UNKNOWN);
    assert_ne!(all[0].subflows[0].1.opener, DIRECTION_UNKNOWN);

    // Both ends are sockets of this host: taken once, and both tokens are known.
    let peer = socket("10.0.0.1:80", "10.0.0.9:5", 0xaa, SocketFlags::CAPABLE);
    let all = found(0, &[first, peer], &Track::default(), NOW);
    assert_eq!(all.len(), 1);
    let (key, conn) = all[0].connection.unwrap();
    assert_eq!((key.token, conn.client_token, conn.live), (0xaa, 0xc, 1));
}

#[test]
fn expiry() {
    let timeouts = Timeouts::default();
    let mut idle = sub(0);
    idle.way[1].last = NOW;
    assert!(!timeouts.is_over(&idle, NOW + 5 * 86400 * SECOND));
    assert!(timeouts.is_over(&idle, NOW + 5 * 86400 * SECOND + 1));
    idle.way[0].flags = WayFlags::EMPTCP_WAY_FIN.0 as u8;
    assert!(!timeouts.is_over(&idle, NOW + 120 * SECOND));
    assert!(timeouts.is_over(&idle, NOW + 120 * SECOND + 1));
    assert!(timeouts.is_stuck(&sub(0), NOW + 111 * SECOND));
    // The clock of another CPU lies ahead.
    assert!(!timeouts.is_over(&idle, NOW - SECOND));
}

#[test]
fn connections_without_subflows() {
    let timeouts = Timeouts::default();
    let (ends, _) = Ends::of(place("10.0.0.9:5"), place("10.0.0.1:80"), 0);
    let conn = |created: u64, closed: u64, live: u32| TrackConn {
        created,
        closed,
        live,
        ..TrackConn::default()
    };
    let key = |token: u32| ConnKey { zone: 0, token };
    let track = Track {
        subflows: [(ends, tied(sub(0), key(1), 0))].into(),
        connections: [
            (key(1), conn(1, 1, 0)),
            (key(2), conn(1, NOW - 61 * SECOND, 0)),
            (key(3), conn(1, NOW - 59 * SECOND, 0)),
            (key(4), conn(1, 0, 1)),
            (key(5), conn(NOW - SECOND, 0, 1)),
        ]
        .into(),
        ..Track::default()
    };
    let (gone, lost) = unused_connections(&track, &timeouts, NOW);
    assert_eq!(gone, [key(2)]);
    assert_eq!(lost, [key(4)]);
}

#[test]
fn the_zone_of_a_socket() {
    let zones = |all: &[(u32, &[u32])]| {
        let all = all
            .iter()
            .map(|(index, zones)| (*index, zones.iter().copied().collect()));
        all.collect()
    };
    let of =
        |all: &[(u32, &[u32])], has: &[u32]| zone_of(&zones(all), &has.iter().copied().collect());
    // One zone is everybody's, also where the address is on no interface that is tracked.
    assert_eq!(of(&[(1, &[7])], &[]), Some(7));
    assert_eq!(of(&[(1, &[7]), (2, &[7])], &[3]), Some(7));
    // Of several that of the interface with the address.
    assert_eq!(of(&[(1, &[7]), (2, &[0])], &[1]), Some(7));
    assert_eq!(of(&[(1, &[7]), (2, &[0])], &[2]), Some(0));
    assert_eq!(of(&[(1, &[7]), (2, &[0])], &[3]), Some(0));
    assert_eq!(of(&[(1, &[7, 0])], &[1]), Some(0));
    assert_eq!(of(&[(1, &[7]), (2, &[8])], &[3]), None);
    assert_eq!(of(&[(1, &[7, 8])], &[1]), None);
    assert_eq!(of(&[], &[1]), None);
}
