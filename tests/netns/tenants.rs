// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Two tenants with the same addresses behind one router with two uplinks, told apart by the zone of
//! their chains: to `tests/netns/tenant.rs` and `uplinks.rs`, which have one tenant.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::mptcp::subflows;
use super::mptcp::transfer;
use super::pair;
use super::pair::LIMIT;
use super::raw;
use super::reader::Reader;
use super::rig::Netns;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::sh;
use super::rig::wait_for;
use super::ss::place;
use super::ss::sockets;

/// Addresses of the servers, of which the second one is announced.
const FAMILIES: [(&str, &str); 2] = [("10.99.0.1", "10.99.0.100"), ("fd99::1", "fd99::100")];
const ZONES: [u32; 2] = [7, 8];

/// A tenant, and the server that it talks to.
struct Tenant {
    /// Of its interfaces at the router: `ta` to it, `a0` and `a1` on the uplinks.
    letter: char,
    tenant: Netns,
    server: Netns,
}

/// `near` of the rig is the router. Both tenants have the same addresses, and so have both servers;
/// each pair has interfaces of its own on both uplinks (macvlan, as VLANs would be).
struct Stand {
    rig: Rig,
    tenants: [Tenant; 2],
}

impl Stand {
    fn new() -> Self {
        let rig = Rig::new(2, Tc::Tcx);
        let router = &rig.near;
        router.sh(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
             net.ipv4.conf.all.arp_ignore=1",
        );
        for netns in [router, &rig.far] {
            netns.sh("ip addr flush dev p0; ip addr flush dev p1");
        }
        let tenants = [('a', 1), ('b', 2)].map(|(letter, number)| {
            let (tenant, server) = (Netns::new(), Netns::new());
            for link in 0..2 {
                for (netns, end) in [(router, &router.name), (&rig.far, &server.name)] {
                    netns.sh(&format!(
                        "ip link add link p{link} name {letter}{link} netns {end} type macvlan mode private"
                    ));
                }
                // Next hops have addresses of their own: uplinks have both tenants'.
                for (netns, host) in [(router, 10 + number), (&server, 20 + number)] {
                    netns.sh(&format!(
                        "ip addr add 10.77.{link}.{host}/24 dev {letter}{link} && \
                         ip addr add fd77:{link}::{host}/64 dev {letter}{link} nodad && \
                         ip link set {letter}{link} up"
                    ));
                }
                // What comes back is for the tenant of this interface.
                for ip in ["ip", "ip -6"] {
                    router.sh(&format!("{ip} rule add iif {letter}{link} lookup {number}"));
                }
            }
            sh(&format!(
                "ip link add name t{letter} netns {} type veth peer name t0 netns {}",
                router.name, tenant.name
            ));
            for (netns, name, host) in [(router, format!("t{letter}"), 1), (&tenant, "t0".into(), 2)] {
                netns.sh(&format!(
                    "ip addr add 10.88.0.{host}/24 dev {name} && \
                     ip addr add fd88::{host}/64 dev {name} nodad && ip link set {name} up"
                ));
            }
            router.sh(&format!(
                "ip route add 10.88.0.0/24 dev t{letter} table {number} && \
                 ip -6 route add fd88::/64 dev t{letter} table {number}"
            ));
            tenant.sh("ip route add default via 10.88.0.1; ip -6 route add default via fd88::1");
            let hop = 10 + number;
            server.sh(&format!(
                "ip route add 10.88.0.0/24 via 10.77.0.{hop} && \
                 ip -6 route add fd88::/64 via fd77:0::{hop}"
            ));
            for (first, second) in FAMILIES {
                for address in [first, second] {
                    server.sh(&format!("ip addr add {address} dev lo"));
                }
            }
            for netns in [&tenant, &server] {
                netns.sh(
                    "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
                     ip mptcp limits set subflow 4 add_addr_accepted 4 && \
                     sysctl -qw net.ipv4.tcp_syn_retries=3",
                );
            }
            Tenant {
                letter,
                tenant,
                server,
            }
        });
        for netns in [router, &tenants[0].server, &tenants[1].server] {
            netns.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done");
        }
        let stand = Self { rig, tenants };
        stand.meet();
        stand
    }

    /// Neighbours are known: no handshake waits for them, and none begins a second time.
    fn meet(&self) {
        let router = &self.rig.near;
        let known = |netns: &Netns, name: &str, other: (&Netns, &str), addresses: [String; 2]| {
            let (end, of) = other;
            let links = end.sh(&format!("ip -j link show {of}"));
            let links: Value = serde_json::from_str(&links).unwrap();
            let mac = links[0]["address"].as_str().unwrap();
            for address in addresses {
                netns.sh(&format!(
                    "ip neigh replace {address} dev {name} nud permanent lladdr {mac}"
                ));
            }
        };
        for (t, number) in self.tenants.iter().zip(1..) {
            let (name, at) = (format!("t{}", t.letter), |host| {
                [format!("10.88.0.{host}"), format!("fd88::{host}")]
            });
            known(router, &name, (&t.tenant, "t0"), at(2));
            known(&t.tenant, "t0", (router, &name), at(1));
            for link in 0..2 {
                let (name, at) = (format!("{}{link}", t.letter), |host| {
                    let host = host + number;
                    [
                        format!("10.77.{link}.{host}"),
                        format!("fd77:{link}::{host}"),
                    ]
                });
                known(router, &name, (&t.server, &name), at(20));
                known(&t.server, &name, (router, &name), at(10));
            }
        }
    }

    /// Servers announce the second address of a family.
    fn announce(&self, second: &str) {
        for tenant in &self.tenants {
            tenant.server.sh(&format!(
                "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
            ));
        }
    }

    /// The same ports for both tenants: one for the first subflow, one for the other.
    fn same_ports(&self, round: u32) {
        let low = 40_000 + 2 * round;
        for tenant in &self.tenants {
            tenant.tenant.sh(&format!(
                "sysctl -qw net.ipv4.ip_local_port_range='{low} {}'",
                low + 1
            ));
        }
    }

    /// A connection of each tenant, both at the same time; when both have two subflows, `meanwhile`.
    fn both(&self, what: &str, address: &str, meanwhile: impl FnOnce() + Send) {
        let errors = || {
            let ends = self.tenants.iter().flat_map(|t| [&t.tenant, &t.server]);
            ends.map(|n| {
                ["TcpInCsumErrors", "TcpInErrs", "MPTcpExtDataCsumErr"].map(|c| counter(n, c))
            })
            .collect::<Vec<_>>()
        };
        let wrong = errors();
        let (ready, is_ready) = mpsc::channel();
        let go = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads = self.tenants.each_ref().map(|t| {
                let (ready, go) = (ready.clone(), &go);
                scope.spawn(move || {
                    transfer(&t.tenant, &t.server, address.parse().unwrap(), || {
                        wait_for("two subflows", LIMIT, || subflows(&t.tenant) == 2);
                        ready.send(()).unwrap();
                        wait_for("the other tenant", LIMIT, || go.load(Ordering::Relaxed));
                    })
                })
            });
            for _ in &threads {
                is_ready.recv_timeout(LIMIT).unwrap();
            }
            meanwhile();
            go.store(true, Ordering::Relaxed);
            for thread in threads {
                let done = thread.join().unwrap();
                assert!(!done.fell_back, "{what}: fell back");
                assert_eq!(done.subflows, 2, "{what}");
            }
        });
        assert_eq!(errors(), wrong, "{what}");
    }

    fn ends(&self) -> [(&Netns, &Netns, u16); 2] {
        let all = self.tenants.each_ref();
        all.map(|t| (&t.tenant, &t.server, 5001))
    }

    fn packets(&self, chain: &str) -> u64 {
        chain_packets(&self.rig.status(), chain).unwrap()
    }
}

/// What a tenant sends goes by one of two uplinks in turn.
fn outward(zones: [u32; 2]) -> Vec<Value> {
    let chain = |tenant: usize, link: usize, select: Value| {
        let letter = ["a", "b"][tenant];
        json!({ "name": format!("{letter}-out-{link}"), "hook": "tc-ingress",
            "interfaces": [format!("t{letter}")], "zone": zones[tenant], "select": select,
            "act": [{ "redirect": { "to": format!("{letter}{link}"),
                "via": format!("fd77:{link}::{}", 21 + tenant) } }] })
    };
    let each = [0, 1].map(|tenant| {
        [
            chain(tenant, 0, json!({ "turn": { "of": 2, "max": 0 } })),
            chain(tenant, 1, json!({ "turn": { "of": 2, "min": 1 } })),
        ]
    });
    each.concat()
}

/// The tracker has for each zone what the kernels of that tenant have.
fn assert_zones(stand: &Stand, what: &str) {
    let view = |verb: &str| stand.rig.run(&["--json", verb]).ok().json();
    let (all, connections) = (view("subflows"), view("connections"));
    let mut ends = Vec::new();
    for (tenant, zone) in stand.tenants.iter().zip(ZONES) {
        let server = sockets(&tenant.server)[0].token(false).0;
        let of_zone = |list: &Value| {
            let list = list.as_array().unwrap().iter();
            list.filter(|v| v["zone"] == zone)
                .cloned()
                .collect::<Vec<_>>()
        };
        let (subflows, connections) = (of_zone(&all), of_zone(&connections));
        assert_eq!(
            (subflows.len(), connections.len()),
            (2, 1),
            "{what}: {all:#}"
        );
        for v in subflows.iter().chain(&connections) {
            assert_eq!(v["token"].as_str(), server.as_deref(), "{what}: {v:#}");
        }
        let of: BTreeSet<_> = subflows
            .iter()
            .map(|v| [place(&v["from"]), place(&v["to"])])
            .collect();
        let kernel = sockets(&tenant.tenant);
        let kernel: BTreeSet<_> = kernel.into_iter().map(|s| [s.local, s.remote]).collect();
        assert_eq!(of, kernel, "{what}");
        ends.push(of);
    }
    assert_eq!(ends[0], ends[1], "{what}: addresses and ports overlap");
}

/// Each tenant has its own turns: its two subflows take both uplinks, however the other one's go.
#[test]
fn root_tenants_with_the_same_addresses() {
    let stand = Stand::new();
    stand.rig.apply(&outward(ZONES).into()).ok();
    let mut round = 0;
    for (address, second) in FAMILIES {
        stand.announce(second);
        for _ in 0..6 {
            round += 1;
            stand.same_ports(round);
            let what = format!("{address}, round {round}");
            let chains = ["a-out-0", "a-out-1", "b-out-0", "b-out-1"];
            let read = || chains.map(|chain| stand.packets(chain));
            let before = read();
            stand.both(&what, address, || assert_zones(&stand, &what));
            let now = read();
            let carried = [0, 1, 2, 3].map(|i| now[i] - before[i]);
            println!("{what}: {carried:?} packets by {chains:?}");
            assert!(carried.iter().all(|n| *n >= 8), "{what}: {carried:?}");
        }
    }
    assert_eq!(stand.rig.status()["reasons"], json!({}));
}

/// The way back, too: servers send on the uplink whose turn it is, and the router hands over to the
/// tenant what comes by that one.
#[test]
fn root_tenants_both_ways() {
    let stand = Stand::new();
    // Nothing is routed.
    stand.rig.near.sh(
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; \
         for ip in ip 'ip -6'; do for n in 1 2; do $ip route flush table $n; done; done",
    );
    let back = |tenant: usize, name: &str, links: &[usize], priority: u32, select: Value| {
        let letter = ["a", "b"][tenant];
        let links: Vec<_> = links.iter().map(|link| format!("{letter}{link}")).collect();
        json!({ "name": format!("{letter}-{name}"), "hook": "tc-ingress", "interfaces": links,
            "priority": priority, "zone": ZONES[tenant], "select": select,
            "act": [{ "redirect": { "to": format!("t{letter}"), "via": "fd88::2" } }] })
    };
    let mut chains = outward(ZONES);
    for (number, tenant) in stand.tenants.iter().enumerate() {
        chains.push(back(
            number,
            "back-0",
            &[0],
            0,
            json!({ "turn": { "of": 2, "max": 0 } }),
        ));
        chains.push(back(
            number,
            "back-1",
            &[1],
            0,
            json!({ "turn": { "of": 2, "min": 1 } }),
        ));
        chains.push(back(number, "stray", &[0, 1], 10, json!({})));
        let other = |link: usize, select: Value| {
            json!({ "name": format!("to-{link}"), "hook": "tc-egress",
                "interfaces": [format!("{}{}", tenant.letter, 1 - link)], "select": select,
                "act": [{ "redirect": { "to": format!("{}{link}", tenant.letter),
                    "via": format!("fd77:{link}::{}", 11 + number) } }] })
        };
        let chains = json!([
            other(0, json!({ "turn": { "of": 2, "max": 0 } })),
            other(1, json!({ "turn": { "of": 2, "min": 1 } })),
        ]);
        let path = stand.rig.policy("server.json", &chains);
        let apply = stand
            .rig
            .emptcp_in(&tenant.server, &["apply", &path])
            .output();
        Ran::from(apply.unwrap()).ok();
    }
    stand.rig.apply(&chains.into()).ok();
    let names = ["a", "b"].map(|letter| {
        ["out-0", "out-1", "back-0", "back-1", "stray"].map(|name| format!("{letter}-{name}"))
    });
    let mut round = 0;
    for (address, second) in FAMILIES {
        stand.announce(second);
        for _ in 0..4 {
            round += 1;
            stand.same_ports(round);
            let what = format!("{address}, round {round}");
            let read = || {
                names
                    .each_ref()
                    .map(|of| of.each_ref().map(|name| stand.packets(name)))
            };
            let before = read();
            stand.both(&what, address, || assert_zones(&stand, &what));
            let now = read();
            for tenant in 0..2 {
                let packets = [0, 1, 2, 3, 4].map(|i| now[tenant][i] - before[tenant][i]);
                println!("{what}: {packets:?} packets by {:?}", names[tenant]);
                assert!(packets[..4].iter().all(|n| *n >= 8), "{what}: {packets:?}");
                assert_eq!(packets[4], 0, "{what}: by the uplink of the other one");
            }
        }
    }
    assert_eq!(stand.rig.status()["reasons"], json!({}));
}

/// What a limited tenant sends, bits per second, and how much of it.
const RATE: f64 = 40e6;
const UPLOAD: usize = 10 << 20;
/// Bytes that a token bucket passes at once: what the rate carries in 250 ms.
const BURST: f64 = RATE / 32.0;

/// A tenant sends so many bytes over two subflows; how long that took.
fn upload([tenant, server]: [&Netns; 2], to: SocketAddr, count: usize) -> Duration {
    let listener = pair::listen(server, to.is_ipv6(), to.port());
    let (client, server) = pair::connect(tenant, to, &listener);
    // BBR takes losses for nothing.
    raw::set_congestion(&client, "cubic");
    pair::send(&client, &server, &pair::fill(1, 4096));
    pair::send(&server, &client, &pair::fill(2, 4096));
    let all = || tenant.sh(&format!("ss -Htn state established dport = :{}", to.port()));
    wait_for("two subflows", LIMIT, || all().lines().count() == 2);
    let (bytes, mut got) = (pair::fill(3, count), vec![0; count]);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| (&client).write_all(&bytes).unwrap());
        (&server).read_exact(&mut got).unwrap();
    });
    let took = start.elapsed();
    assert!(got == bytes, "not what was sent");
    assert!(!raw::mptcp_fell_back(&client));
    took
}

/// Both tenants send at the same time; how long each took.
fn uploads(ends: [(&Netns, &Netns, u16); 2], address: &str) -> [Duration; 2] {
    std::thread::scope(|scope| {
        let threads = ends.map(|(tenant, server, port)| {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            scope.spawn(move || upload([tenant, server], to, UPLOAD))
        });
        threads.map(|thread| thread.join().unwrap())
    })
}

/// What it is good for: two uplinks of 20 Mbit/s, of which routing gives a connection one. Short
/// transfers take no longer.
#[test]
fn root_tenants_gain() {
    const SHORT: usize = 100 << 10;
    const TRIALS: usize = 7;
    let stand = Stand::new();
    let (router, tenant) = (&stand.rig.near, &stand.tenants[0]);
    for link in 0..2 {
        router.sh(&format!(
            "tc qdisc add dev a{link} root tbf rate 20mbit burst 16k latency 50ms"
        ));
    }
    router
        .sh("ip route add 10.99.0.0/24 via 10.77.0.21 && ip -6 route add fd99::/64 via fd77:0::21");
    for (address, second) in FAMILIES {
        stand.announce(second);
        let to = SocketAddr::new(address.parse().unwrap(), 5001);
        let send = |count: usize| upload([&tenant.tenant, &tenant.server], to, count).as_secs_f64();
        let measured = || {
            let mut short = [0.0; TRIALS].map(|_: f64| send(SHORT));
            short.sort_by(f64::total_cmp);
            [send(UPLOAD), short[TRIALS / 2]]
        };
        let without = measured();
        stand.rig.apply(&outward(ZONES).into()).ok();
        let with = measured();
        stand.rig.run(&["delete"]).ok();
        println!("{address}: bulk, short: {without:.3?} s by one uplink, {with:.3?} s by both");
        assert!(
            with[0] < 0.7 * without[0],
            "{address}: {with:?} of {without:?}"
        );
        assert!(
            with[1] < 1.2 * without[1],
            "{address}: {with:?} of {without:?}"
        );
    }
}

/// A limit for one tenant, over both uplinks, leaves the other one alone, though their addresses are
/// the same: each has a table of its own.
#[test]
fn root_tenants_one_is_limited() {
    let stand = Stand::new();
    let mut chains = outward(ZONES);
    for (letter, zone) in [("a", ZONES[0]), ("b", ZONES[1])] {
        let table = format!("limits-{letter}");
        chains.push(
            json!({ "name": format!("limit-{letter}"), "hook": "tc-ingress",
            "interfaces": [format!("t{letter}")], "zone": zone, "priority": -10,
            "select": { "src": { "table": table } },
            "act": [{ "police": { "rate": { "table": table }, "per": "entry" } }] }),
        );
    }
    let table = json!({ "type": "prefix", "value": "rate" });
    let policy = json!({ "version": 1, "chains": chains,
        "tables": { "limits-a": table, "limits-b": table } });
    let path = stand.rig.folder.write("policy.json", policy.to_string());
    stand.rig.run(&["apply", path.to_str().unwrap()]).ok();
    let least = (UPLOAD as f64 - BURST) * 8.0 / RATE;
    let mut round = 0;
    for ((address, second), tenant) in FAMILIES.into_iter().zip(["10.88.0.2/32", "fd88::2/128"]) {
        stand.announce(second);
        for limited in [Some(0), Some(1), None] {
            let table = limited.map(|n| ["limits-a", "limits-b"][n]);
            if let Some(table) = table {
                stand
                    .rig
                    .run(&["table", "add", table, tenant, "40Mbit"])
                    .ok();
            }
            round += 1;
            stand.same_ports(round);
            let took = uploads(stand.ends(), address).map(|t| t.as_secs_f64());
            println!("{address}, limited: {limited:?}: {took:.3?} s, at least {least:.3} s");
            for (number, took) in took.into_iter().enumerate() {
                if limited == Some(number) {
                    assert!(took > least, "{address}: {took} s, faster than the limit");
                    assert!(
                        took < 4.0 * least,
                        "{address}: {took} s, far below the limit"
                    );
                } else {
                    assert!(took < least, "{address}: {took} s, without a limit");
                }
            }
            if let Some(table) = table {
                stand.rig.run(&["table", "del", table, tenant]).ok();
            }
        }
    }
    assert_eq!(stand.rig.status()["reasons"], json!({}));
}

/// By which uplink the server of a tenant gets each subflow now, and its number among the turns.
fn uplinks(
    rig: &Rig,
    server: &Netns,
    links: [&str; 2],
    streams: &[(TcpStream, TcpStream)],
) -> BTreeMap<String, (usize, u64)> {
    let at_server = |args: &[&str]| Ran::from(rig.emptcp_in(server, args).output().unwrap()).ok();
    // A tracker that is new sees each where its next packets come in.
    at_server(&["delete"]);
    let track = json!({ "version": 1, "track": links, "chains": [] });
    let path = rig.folder.write("track.json", track.to_string());
    at_server(&["apply", path.to_str().unwrap()]);
    let mut all = json!([]);
    // Not each transfer takes both subflows.
    wait_for("packets of each subflow", 2 * LIMIT, || {
        for (client, server) in streams {
            pair::send(client, server, &pair::fill(1, 1 << 20));
            pair::send(server, client, &pair::fill(2, 1 << 20));
        }
        all = at_server(&["--json", "subflows"]).json();
        let mut seen = all.as_array().unwrap().iter();
        seen.all(|v| !v["from"]["interface"].is_null())
    });
    let state = rig.run(&["--json", "status", "--state"]).ok().json();
    let maps = state["state"].as_array().unwrap();
    let turns = maps.iter().find(|m| m["map"] == "turns").unwrap();
    let turns = turns["entries"].as_array().unwrap();
    let all = all.as_array().unwrap().iter();
    all.map(|v| {
        let link = links
            .iter()
            .position(|link| v["from"]["interface"] == *link);
        let link = link.unwrap_or_else(|| panic!("{v:#}"));
        let (port, ends) = (&v["from"]["port"], [place(&v["from"]), place(&v["to"])]);
        let is = |t: &&Value| t["sport"] == *port || t["dport"] == *port;
        let turn = turns
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("{turns:#?}"));
        (ends.join(" "), (link, turn["number"].as_u64().unwrap()))
    })
    .collect()
}

/// So many of three turns have the first uplink.
fn assert_share(share: u64, all: &BTreeMap<String, (usize, u64)>) {
    for (subflow, (link, number)) in all {
        let expected = usize::from(number % 3 >= share);
        assert_eq!(*link, expected, "{subflow}, number {number}, {share} of 3");
    }
}

/// An apply leaves the subflows that there are on their uplinks, unless it gives their turn another
/// one; and no process is needed for that.
#[test]
fn root_tenants_policy_changes() {
    let stand = Stand::new();
    // So many of three turns by the first uplink.
    let policy = |share: u64| {
        let chain = |link: usize, select: Value| {
            json!({ "name": format!("out-{link}"), "hook": "tc-ingress", "interfaces": ["ta"],
                "zone": 7, "select": select, "act": [{ "redirect": {
                    "to": format!("a{link}"), "via": format!("fd77:{link}::21") } }] })
        };
        vec![
            chain(0, json!({ "turn": { "of": 3, "max": share - 1 } })),
            chain(1, json!({ "turn": { "of": 3, "min": share } })),
        ]
    };
    for (address, second) in FAMILIES {
        stand.announce(second);
        stand.rig.run(&["delete"]).ok();
        stand.rig.apply(&policy(2).into()).ok();
        let run = Reader::start(&stand.rig, "run", &["run"]);
        let to = SocketAddr::new(address.parse().unwrap(), 5001);
        let listener = pair::listen(&stand.tenants[0].server, to.is_ipv6(), to.port());
        let mut streams = Vec::new();
        let mut more = |count: usize| {
            for _ in 0..count {
                let (client, server) = pair::connect(&stand.tenants[0].tenant, to, &listener);
                pair::send(&client, &server, &pair::fill(1, 1000));
                pair::send(&server, &client, &pair::fill(2, 1000));
                streams.push((client, server));
                wait_for("a further subflow", LIMIT, || {
                    subflows(&stand.tenants[0].tenant) == 2 * streams.len()
                });
            }
            let server = &stand.tenants[0].server;
            let now = uplinks(&stand.rig, server, ["a0", "a1"], &streams);
            assert_eq!(now.len(), 2 * streams.len());
            assert!(streams.iter().all(|s| !raw::mptcp_fell_back(&s.0)));
            now
        };
        let first = more(6);
        assert_share(2, &first);
        // Both are in use, or nothing is shown.
        assert!((0..2).all(|link| first.values().any(|v| v.0 == link)));
        // Something else in the policy; and `run` dies.
        let mut chains = policy(2);
        chains.push(
            json!({ "name": "other", "hook": "tc-ingress", "interfaces": ["ta"],
            "zone": 7, "priority": -1, "act": [{ "record": {} }] }),
        );
        stand.rig.apply(&chains.into()).ok();
        assert_eq!(more(0), first);
        run.signal(Signal::SIGKILL);
        wait_for("the end of run", LIMIT, || run_is_over(&run));
        assert_eq!(more(0), first);
        // Another share, also for what there is: but nobody has another turn.
        stand.rig.apply(&policy(1).into()).ok();
        let second = more(2);
        assert_share(1, &second);
        for (subflow, (_, number)) in &first {
            assert_eq!(second[subflow].1, *number, "{subflow}");
        }
        // And back.
        stand.rig.apply(&policy(2).into()).ok();
        let last = more(0);
        assert_share(2, &last);
        assert!(first.iter().all(|(subflow, was)| last[subflow] == *was));
    }
    assert_eq!(stand.rig.status()["reasons"], json!({}));
}

fn run_is_over(run: &Reader) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", run.child.0.id()));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// `examples/tenants.json` as it is: its interfaces, next hops, turns, and limit.
#[test]
fn root_tenants_example() {
    let rig = Rig::new(0, Tc::Tcx);
    let (router, server) = (&rig.near, &rig.far);
    let tenants = [Netns::new(), Netns::new()];
    let link = |ends: [(&Netns, &str); 2], macs: [&str; 2]| {
        let ends = [0, 1].map(|end| {
            let (netns, name) = ends[end];
            format!("{name} netns {} address {}", netns.name, macs[end])
        });
        sh(&format!(
            "ip link add {} type veth peer name {}",
            ends[0], ends[1]
        ));
    };
    for (number, netns) in (0..).zip(&tenants) {
        let (name, host) = (format!("tap{number}"), 5 + number);
        let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
        link([(router, &name), (netns, "eth0")], macs);
        netns.sh(&format!(
            "ip addr add 10.0.0.{host}/32 dev eth0 && ip addr add fd88::{host}/128 dev eth0 nodad && \
             ip link set eth0 up && \
             ip route add 10.0.0.1 dev eth0 && ip route add default via 10.0.0.1 && \
             ip -6 route add fd88::1 dev eth0 && ip -6 route add default via fd88::1"
        ));
        router.sh(&format!(
            "ip link set {name} up && ip route add 10.0.0.{host} dev {name} && \
             ip -6 route add fd88::{host} dev {name}"
        ));
        for gateway in ["10.0.0.1", "fd88::1"] {
            netns.sh(&format!(
                "ip neigh replace {gateway} dev eth0 lladdr {} nud permanent",
                macs[0]
            ));
        }
        for prefix in ["10.0.0.", "fd88::"] {
            router.sh(&format!(
                "ip neigh replace {prefix}{host} dev {name} lladdr {} nud permanent",
                macs[1]
            ));
        }
    }
    for number in 1..3 {
        let name = format!("eth{number}");
        let macs = ["02:00:00:00:01:01", "02:00:00:00:01:02"];
        link([(router, &name), (server, &name)], macs);
        for (netns, host) in [(router, 9), (server, number)] {
            netns.sh(&format!(
                "ip addr add fe80::{host}/64 dev {name} nodad && ip link set {name} up"
            ));
        }
        router.sh(&format!(
            "sysctl -qw net.ipv6.conf.{name}.keep_addr_on_down=1"
        ));
    }
    server.sh("ip route add 10.0.0.0/24 via inet6 fe80::9 dev eth1 && \
         ip -6 route add fd88::/64 via fe80::9 dev eth1");
    for (first, second) in FAMILIES {
        server.sh(&format!(
            "ip addr add {first} dev lo && ip addr add {second} dev lo"
        ));
    }
    router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    for netns in [router, server] {
        netns.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done");
    }
    for netns in tenants.iter().chain([server]) {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
             ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tenants.json");
    rig.run(&["apply", example]).ok();
    let _run = Reader::start(&rig, "run", &["run"]);
    let packets = |chain: &str| chain_packets(&rig.status(), chain).unwrap();
    let least = (UPLOAD as f64 - BURST) * 8.0 / RATE;
    for ((address, second), prefix) in FAMILIES.into_iter().zip(["10.0.0.5/32", "fd88::5/128"]) {
        server.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        let mut streams = Vec::new();
        let listener = pair::listen(server, address.contains(':'), 5001);
        for (count, tenant) in (1..=3).flat_map(|n| tenants.each_ref().map(|t| (n, t))) {
            let to = SocketAddr::new(address.parse().unwrap(), 5001);
            let (near, far) = pair::connect(tenant, to, &listener);
            pair::send(&near, &far, &pair::fill(1, 1000));
            pair::send(&far, &near, &pair::fill(2, 1000));
            streams.push((near, far));
            wait_for("a further subflow", LIMIT, || subflows(tenant) == 2 * count);
        }
        let all = uplinks(&rig, server, ["eth1", "eth2"], &streams);
        assert_eq!(all.len(), 12, "{all:#?}");
        println!("{address}: {:?}", all.values().collect::<Vec<_>>());
        assert_share(2, &all);
        // One is down: all goes by the other one, and comes back with it.
        let other = packets("else-first");
        router.sh("ip link set eth2 down");
        wait_for("the chain waits", LIMIT, || {
            let status = rig.status();
            let mut all = status["attachments"].as_array().unwrap().iter();
            all.all(|a| {
                !a["chains"]
                    .as_array()
                    .unwrap()
                    .contains(&json!("second-uplink"))
            })
        });
        let without = uplinks(&rig, server, ["eth1", "eth2"], &streams);
        assert!(without.values().all(|(link, _)| *link == 0), "{without:#?}");
        assert!(packets("else-first") > other || all.values().all(|v| v.0 == 0));
        router.sh("ip link set eth2 up");
        wait_for("the uplink is back", LIMIT, || {
            uplinks(&rig, server, ["eth1", "eth2"], &streams) == all
        });
        assert!(streams.iter().all(|s| !raw::mptcp_fell_back(&s.0)));
        drop((streams, listener));

        rig.run(&["table", "add", "tenants", prefix, "40Mbit"]).ok();
        let ends = [(&tenants[0], server, 5001), (&tenants[1], server, 5002)];
        let took = uploads(ends, address).map(|t| t.as_secs_f64());
        println!("{address}, the first one limited: {took:.3?} s, at least {least:.3} s");
        assert!(took[0] > least && took[0] < 4.0 * least, "{took:?}");
        assert!(took[1] < least, "{took:?}");
    }
    let status = rig.status();
    assert_eq!(status["reasons"], json!({}));
    assert_eq!(packets("else-second"), 0);
}
