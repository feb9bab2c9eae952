// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! One place counts: the same transfer, watched at the client, at the server, and on the router
//! between them, where each packet meets the tracker once, twice, three or four times.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::pair::LIMIT;
use super::pair::connect;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::rig::Netns;
use super::rig::Ran;
use super::rig::chain_packets;
use super::rig::wait_for;
use super::ss::place;
use super::ss::sockets;
use super::tenant::Stand;

const PORT: u16 = 5001;
/// Payload, each way.
const UP: usize = 1 << 20;
const DOWN: usize = 3 << 20;

/// Applies a policy in a network namespace.
fn apply(stand: &Stand, netns: &Netns, track: &Value, chains: &Value) {
    let policy = json!({ "version": 1, "track": track, "chains": chains });
    let name = format!("{}.json", netns.name);
    let path = stand.rig.folder.write(&name, policy.to_string());
    let args = ["apply", path.to_str().unwrap()];
    Ran::from(stand.rig.emptcp_in(netns, &args).output().unwrap()).ok();
}

/// Bytes and packets of each direction of each subflow, by its two ends.
fn seen(stand: &Stand, netns: &Netns) -> BTreeMap<[String; 2], [u64; 2]> {
    let args = ["--json", "subflows"];
    let views = Ran::from(stand.rig.emptcp_in(netns, &args).output().unwrap()).json();
    let mut seen = BTreeMap::new();
    for v in views.as_array().unwrap() {
        let (from, to) = (&v["from"], &v["to"]);
        for (this, other) in [(from, to), (to, from)] {
            let counted = ["bytes", "packets"].map(|name| this[name].as_u64().unwrap());
            seen.insert([place(this), place(other)], counted);
        }
    }
    seen
}

/// Puts a bridge between the router and its first uplink: what leaves by one leaves by the other, too.
fn bridge(stand: &Stand) {
    stand.rig.near.sh(
        "ip link add br0 type bridge && ip addr flush dev p0 && ip link set p0 master br0 && \
         ip addr add 10.77.0.2/24 dev br0 && ip addr add fd77:0::2/64 dev br0 nodad && \
         ip link set br0 up",
    );
}

/// Places that a packet of the client meets on the router with a bridge, and one of the server.
const FOUR: [[(&str, &str); 4]; 2] = [
    [
        ("xdp", "t0"),
        ("tc-ingress", "t0"),
        ("tc-egress", "br0"),
        ("tc-egress", "p0"),
    ],
    [
        ("xdp", "p0"),
        ("tc-ingress", "p0"),
        ("tc-ingress", "br0"),
        ("tc-egress", "t0"),
    ],
];

/// A chain at each of these places, which goes by what is tracked.
fn at_four() -> Value {
    let ways = FOUR.iter().zip(["dport", "sport"]);
    let chain = |(hook, interface): &(&str, &str), port: &str| {
        json!({ "name": format!("{hook}-{interface}-{port}"), "hook": hook,
            "interfaces": [interface], "act": [{ "record": {} }],
            "select": { "all": [{ (port): { "in": [PORT] } }, { "conn_bytes": { "min": 1 } }] } })
    };
    ways.flat_map(|(places, port)| places.iter().map(move |place| chain(place, port)))
        .collect()
}

/// How many packets each place has met: of the client, of the server.
fn met(stand: &Stand) -> [[u64; 4]; 2] {
    let status = stand.rig.status();
    let packets = |port: &str, (hook, interface): (&str, &str)| {
        chain_packets(&status, &format!("{hook}-{interface}-{port}")).unwrap()
    };
    let [up, down] = FOUR;
    [
        up.map(|place| packets("dport", place)),
        down.map(|place| packets("sport", place)),
    ]
}

#[test]
fn root_one_place_counts() {
    let stand = Stand::new();
    let (client, router, server) = (&stand.tenant, &stand.rig.near, &stand.rig.far);
    apply(&stand, client, &json!(["t0"]), &json!([]));
    apply(&stand, server, &json!(["p*"]), &json!([]));
    let at_xdp = json!([{ "name": "xdp", "hook": "xdp", "interfaces": ["t0", "p0", "p1"],
        "select": { "conn_bytes": { "min": "1" } }, "act": [{ "record": {} }] }]);
    for (what, track, chains) in [
        ("one interface", json!(["t0"]), json!([])),
        ("all interfaces", json!(["t0", "p*"]), json!([])),
        ("XDP as well", json!(["t0", "p*"]), at_xdp),
        ("four places", json!(["t0", "p0", "br0"]), at_four()),
    ] {
        let four = what == "four places";
        if four {
            stand.rig.run(&["delete"]).ok();
            bridge(&stand);
        }
        apply(&stand, router, &track, &chains);
        for (address, second) in [("10.77.0.1", "10.77.0.100"), ("fd77:0::1", "fd77:0::100")] {
            let what = format!("{what}, {address}");
            server.sh(&format!(
                "ip mptcp endpoint flush; ip mptcp endpoint add {second} signal"
            ));
            let address: std::net::IpAddr = address.parse().unwrap();
            let listener = listen(server, address.is_ipv6(), PORT);
            let (near, far) = connect(client, (address, PORT).into(), &listener);
            send(&near, &far, &fill(0, 1000));
            wait_for("two subflows", LIMIT, || sockets(client).len() == 2);
            send(&near, &far, &fill(1, UP));
            send(&far, &near, &fill(2, DOWN));
            // The last ACKs.
            std::thread::sleep(Duration::from_millis(200));
            let at_client = seen(&stand, client);
            println!("{what}: {at_client:?}");
            assert_eq!(at_client.len(), 4, "{what}");
            assert_eq!(seen(&stand, router), at_client, "{what}: router");
            assert_eq!(seen(&stand, server), at_client, "{what}: server");
            for socket in [sockets(client), sockets(server)].into_iter().flatten() {
                let [bytes, _] = at_client[&[socket.local.clone(), socket.remote.clone()]];
                assert_eq!(bytes, socket.number("bytes_sent"), "{what}: {socket:?}");
            }
            if four {
                let met = met(&stand);
                println!("{what}: {met:?}");
                // A packet at tc may be many at XDP.
                for [xdp, tc @ ..] in met {
                    assert!(xdp > 0 && tc[0] > 0 && tc == [tc[0]; 3], "{what}: {met:?}");
                }
            }
            drop((near, far));
            wait_for("its end", LIMIT, || {
                sockets(client).is_empty() && seen(&stand, router).is_empty()
            });
        }
    }
}
