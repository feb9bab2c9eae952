// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What the tracker says of subflows and connections, beside what the kernels of both ends say.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::DOWN;
use super::UP;
use crate::pair::LIMIT;
use crate::reader;
use crate::rig::Netns;
use crate::rig::Rig;
use crate::ss::Socket;
use crate::ss::all_sockets;
use crate::ss::place;

/// What there is to see at a time when nothing was under way.
pub(super) struct Rest {
    pub(super) subflows: Vec<Value>,
    pub(super) connections: Vec<Value>,
    /// Of both ends.
    pub(super) sockets: [Vec<Socket>; 2],
}

/// Waits for such a time: long after its last byte a kernel may send some once more, on another
/// subflow.
pub(super) fn at_rest(rig: &Rig) -> Rest {
    let moving = |all: &[Vec<Socket>; 2]| -> Vec<_> {
        let names = ["bytes_sent", "bytes_retrans", "segs_out", "segs_in"];
        let all = all.iter().flatten();
        all.map(|s| {
            (
                s.local.clone(),
                s.remote.clone(),
                names.map(|n| s.number(n)),
            )
        })
        .collect()
    };
    let sockets = || [&rig.near, &rig.far].map(all_sockets);
    let mut before = sockets();
    let end = Instant::now() + LIMIT;
    loop {
        let [subflows, connections] = ["subflows", "connections"].map(|what| {
            let list = rig.run(&["--json", what]).ok().json();
            list.as_array().unwrap().clone()
        });
        let after = sockets();
        if moving(&before) == moving(&after) {
            return Rest {
                subflows,
                connections,
                sockets: after,
            };
        }
        assert!(Instant::now() < end, "it never rests");
        before = after;
    }
}

/// What differs of one end of a subflow from what the kernel of that end says. `opened`: this end
/// has sent the SYN.
fn differences(
    view: &Value,
    this: &Value,
    other: &Value,
    socket: &Socket,
    peer: &Socket,
    opened: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut is = |what: &str, got: &Value, kernel: Value| {
        if *got != kernel {
            wrong.push(format!("{what}: {got}, kernel {kernel}"));
        }
    };
    is("bytes", &this["bytes"], socket.number("bytes_sent").into());
    let again = socket.number("bytes_retrans");
    // What comes late is taken for what is sent again.
    let is_late = peer.number("rcv_ooopack") > 0;
    if !is_late || this["retransmitted_bytes"].as_u64() < Some(again) {
        is("retransmitted", &this["retransmitted_bytes"], again.into());
    }
    // A SYN/ACK goes out before there is a socket that counts; one that is sent again is not known
    // at all.
    let (_, resent) = socket
        .field("retrans")
        .and_then(|r| r.split_once('/'))
        .unwrap_or_default();
    if opened || again > 0 || resent.is_empty() {
        let out = socket.number("segs_out") + u64::from(!opened);
        is("packets", &this["packets"], out.into());
        is(
            "packets in",
            &other["packets"],
            socket.number("segs_in").into(),
        );
    }
    if let Some((send, receive)) = socket.field("wscale").and_then(|w| w.split_once(',')) {
        is("wscale", &this["wscale"].to_string().into(), receive.into());
        is(
            "wscale of the other end",
            &other["wscale"].to_string().into(),
            send.into(),
        );
    }
    if !view["fallback"].is_null() {
        return wrong;
    }
    let flags = socket.field("flags").unwrap();
    let joined = flags.contains(['j', 'J']);
    let kind = if joined { "joined" } else { "initial" };
    is("kind", &view["kind"], kind.into());
    is("opener", &opened.into(), flags.contains(['m', 'j']).into());
    is("backup", &this["asks_backup"], flags.contains('b').into());
    is("id", &this["address_id"], socket.token(false).1.into());
    // Of the other end, a kernel knows the id where it opened the subflow.
    if opened && joined {
        is(
            "id of the other end",
            &other["address_id"],
            socket.token(true).1.into(),
        );
    }
    let server = (view["client"] == "from") != opened;
    let of_server = match server {
        true => socket.token(false).0,
        false => socket.token(true).0,
    };
    if let Some(token) = of_server {
        is("token", &view["token"], token.into());
    }
    wrong
}

/// Each subflow of the tracker is one of the kernels', with all that both know.
pub(super) fn assert_same(rest: &Rest) {
    let (views, sockets) = (&rest.subflows, &rest.sockets);
    let mut by_ends = BTreeMap::new();
    for (end, all) in sockets.iter().enumerate() {
        assert_eq!(all.len(), views.len(), "sockets and views");
        for socket in all {
            by_ends.insert((end, socket.local.clone(), socket.remote.clone()), socket);
        }
    }
    let mut wrong = Vec::new();
    let mut seen = 0;
    for view in views {
        let (from, to) = (&view["from"], &view["to"]);
        for end in [0, 1] {
            for (this, other, opened) in [(from, to, true), (to, from, false)] {
                if let Some(socket) = by_ends.get(&(end, place(this), place(other))) {
                    let peer = by_ends[&(1 - end, place(other), place(this))];
                    seen += 1;
                    let found = differences(view, this, other, socket, peer, opened);
                    if !found.is_empty() {
                        wrong.push(format!("{found:?} of {view}\n{socket:?}"));
                    }
                }
            }
        }
    }
    assert_eq!(seen, by_ends.len(), "sockets that a view has");
    let few = &wrong[..wrong.len().min(5)];
    assert!(wrong.is_empty(), "{} wrong, such as {few:#?}", wrong.len());
}

/// All counters of a network namespace that are not 0.
pub(super) fn counters(netns: &Netns) -> BTreeMap<String, u64> {
    let all = netns.sh("nstat -as");
    let lines = all.lines().map(|l| l.split_whitespace());
    lines
        .filter_map(|mut words| Some((words.next()?.to_owned(), words.next()?.parse().ok()?)))
        .collect()
}

/// Connections have the subflows that stand under their token, and carried what was sent.
pub(super) fn assert_connections(rig: &Rig, rest: &Rest, count: usize) {
    let (views, connections) = (&rest.subflows, &rest.connections);
    assert_eq!(connections.len(), count);
    let mut subflows: BTreeMap<&str, u64> = BTreeMap::new();
    for token in views.iter().filter_map(|v| v["token"].as_str()) {
        *subflows.entry(token).or_default() += 1;
    }
    let mut open = 0;
    for c in connections {
        if let Some(token) = c["token"].as_str() {
            assert_eq!(c["subflows"], subflows[token], "{c}");
            assert_eq!(c["state"], "open", "{c}");
            open += 1;
        }
        assert_eq!(c["token"].is_null(), !c["fallback"].is_null(), "{c}");
        // More where a kernel has sent some once more on another subflow.
        for (bytes, of_client, sent) in [("bytes_up", true, UP), ("bytes_down", false, DOWN)] {
            let bytes = c[bytes].as_u64().unwrap();
            let [first, again] = carried(c, views, of_client);
            // Else some went by a subflow that is there no more.
            if c["token"].is_null() || c["subflows"] == c["subflows_ever"] {
                assert!(first > sent as u64, "{c}");
                assert_eq!(bytes, first - again, "{c}");
            }
        }
    }
    assert_eq!(open, counters(&rig.near)["MPTcpExtMPCurrEstab"]);
}

/// Payload of the subflows of a connection in one direction, and of that what was sent again.
fn carried(connection: &Value, views: &[Value], of_client: bool) -> [u64; 2] {
    let is = |v: &&Value| match connection["token"].as_str() {
        Some(token) => v["token"] == token,
        None => {
            place(&v["from"]) == connection["client"] && place(&v["to"]) == connection["server"]
        }
    };
    let mut sum = [0; 2];
    for v in views.iter().filter(is) {
        let end = if (v["client"] == "from") == of_client {
            &v["from"]
        } else {
            &v["to"]
        };
        sum[0] += end["bytes"].as_u64().unwrap();
        sum[1] += end["retransmitted_bytes"].as_u64().unwrap();
    }
    sum
}

/// What was told while it happened is what the kernels of both ends have counted.
pub(super) fn assert_counted(rig: &Rig, aborted: usize, (out, err): &(String, String)) {
    assert_eq!(reader::counts(err).1, 0, "events are lost: {err}");
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for line in out.lines() {
        let e: Value = serde_json::from_str(line).unwrap();
        let words = ["type", "event", "kind", "by", "cause"].map(|name| e[name].as_str());
        let words: Vec<_> = words.into_iter().flatten().collect();
        *told.entry(words.join(" ")).or_default() += 1;
    }
    println!("{told:#?}");
    let counters = [&rig.near, &rig.far].map(counters);
    // Which of the ways a handshake ends there were, where a number differs.
    for (end, all) in ["server", "client"].iter().zip(&counters) {
        let tells = |name: &str| {
            ["MPJoin", "MPRst", "SubflowStale"]
                .iter()
                .any(|w| name.contains(w))
        };
        let all: Vec<_> = all.iter().filter(|(name, _)| tells(name)).collect();
        println!("{end}: {all:?}");
    }
    let of = |end: usize, name: &str| {
        let name = format!("MPTcpExt{name}");
        counters[end].get(&name).copied().unwrap_or(0)
    };
    let server = |name: &str| of(0, name);
    let client = |name: &str| of(1, name);
    let both = |name: &str| server(name) + client(name);
    for (what, kernel) in [
        (
            &["subflow opened initial"] as &[&str],
            client("MPCapableSYNTX"),
        ),
        (&["connection opened"], server("MPCapableACKRX")),
        (&["subflow opened joined"], both("MPJoinAckRx")),
        (&["fallback ack"], server("MPCapableFallbackACK")),
        (&["fallback synack"], client("MPCapableFallbackSYNACK")),
        (
            &["subflow closed initial rst", "subflow closed joined rst"],
            both("MPRstRx"),
        ),
        (&["connection closed fastclose"], aborted as u64),
        (&["add_addr"], both("AddAddrTx") + both("EchoAddTx")),
    ] {
        let found: u64 = what.iter().filter_map(|w| told.get(*w)).sum();
        assert_eq!(found, kernel, "{what:?}: told, counted by the kernels");
    }
}
