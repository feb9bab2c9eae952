// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Many connections, of two to four subflows, with resets and fallbacks in between: what the tracker
//! says of each beside what the kernels of both ends say, and how many of a kind there were beside
//! their counters. `EMPTCP_CONNECTIONS` of them, if not 60; `compare` is what must be so of them.

mod compare;
mod sweep;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use nix::sys::socket::Backlog;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use serde_json::json;

use self::compare::assert_connections;
use self::compare::assert_counted;
use self::compare::assert_same;
use self::compare::at_rest;
use super::pair::LIMIT;
use super::pair::connect;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::reader::Reader;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::ss::Socket;
use super::ss::all_sockets;

/// Of Multipath TCP; of a server that does not know it; where the options are lost that the client
/// ends the handshake with.
const PORTS: [u16; 3] = [5001, PLAIN, 5003];
const PLAIN: u16 = 5002;
/// At which the client takes subflows.
const BACK_PORT: u16 = 7000;
/// Payload of a connection, each way.
const UP: usize = 48 << 10;
const DOWN: usize = 80 << 10;
/// After which no subflow comes any more.
const SETTLED: Duration = Duration::from_millis(500);

/// What connections have beside their first subflow. The limits of the kernels' path managers say
/// so: an endpoint that is taken away would take its subflows along.
#[derive(Clone, Copy, Debug)]
enum More {
    /// The client opens one from an address of its own, as backup; what goes back comes by another
    /// interface.
    Own,
    /// The server announces an address as well.
    Announced,
    /// And another one, as backup.
    AnnouncedTwice,
    /// The client announces an address and port, and the server opens one there; the server also
    /// announces one.
    Back,
}

impl More {
    const ALL: [More; 4] = [More::Own, More::Announced, More::AnnouncedTwice, More::Back];

    /// Subflows, and announced addresses that the client takes, that the server takes.
    fn limits(self) -> [usize; 3] {
        match self {
            More::Own => [1, 0, 0],
            More::Announced => [2, 1, 0],
            More::AnnouncedTwice => [3, 2, 0],
            More::Back => [3, 1, 1],
        }
    }

    /// From here on connections have these.
    fn begin(self, rig: &Rig, v6: bool) {
        let [subflows, client, server] = self.limits();
        for (netns, accepted) in [(&rig.far, client), (&rig.near, server)] {
            netns.sh(&format!(
                "ip mptcp limits set subflow {subflows} add_addr_accepted {accepted}"
            ));
        }
        // Beside timestamps there is no room for an address of IPv6 and a port.
        let timestamps = !(v6 && matches!(self, More::Back));
        let timestamps = u8::from(timestamps);
        rig.far
            .sh(&format!("sysctl -qw net.ipv4.tcp_timestamps={timestamps}"));
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// Both ends close.
    Closes,
    /// The client aborts it: MP_FASTCLOSE, and a RST on each subflow.
    Aborts,
    /// An end resets one of its subflows.
    LosesOne,
    /// Plain TCP, because of the server, of the third ACK.
    FallsBack(u16),
}

fn fate(number: usize) -> Fate {
    match number % 10 {
        5 => Fate::Closes,
        6 => Fate::Aborts,
        7 => Fate::LosesOne,
        8 => Fate::FallsBack(PORTS[1 + number / 10 % 2]),
        _ => Fate::Stays,
    }
}

/// The server, where the tracker is, is `near`; the client `far`.
fn rig(v6: bool) -> Rig {
    let rig = Rig::new(4, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 net.ipv4.conf.all.rp_filter=0 && \
             for n in 0 1 2 3; do sysctl -qw net.ipv4.conf.p$n.rp_filter=0; done",
        );
    }
    // Another window scale.
    rig.far
        .sh("sysctl -qw net.ipv4.tcp_rmem='4096 131072 6291456'");
    rig.near.sh(&format!(
        "ip mptcp endpoint add {} signal && ip mptcp endpoint add {} signal backup",
        address(v6, 1, 2),
        address(v6, 2, 2)
    ));
    let own = address(v6, 3, 1);
    rig.far.sh(&format!(
        "ip addr add {0}{1} dev p3 {2} && ip mptcp endpoint add {own} subflow backup && \
         ip mptcp endpoint add {0} port {BACK_PORT} signal",
        address(v6, 3, 3),
        if v6 { "/64" } else { "/24" },
        if v6 { "nodad" } else { "" },
    ));
    // Neighbours are known: no SYN waits for them.
    for link in 0..4 {
        for (netns, host, mac) in [(&rig.far, 2, 2), (&rig.near, 1, 1), (&rig.near, 3, 1)] {
            netns.sh(&format!(
                "ip neigh replace {} lladdr 02:00:00:00:00:0{mac} dev p{link} nud permanent",
                address(v6, link, host)
            ));
        }
    }
    let track = json!({ "version": 1, "track": ["p*"], "chains": [] });
    let path = rig.folder.write("track.json", track.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    // What takes options away is at the client.
    let chains = json!([{ "name": "third-ack", "hook": "tc-egress", "interfaces": ["p*"],
        "select": { "all": [{ "dport": { "in": [PORTS[2].to_string()] } },
            { "tcp": { "not_flags": ["syn", "rst"] } }] },
        "act": [{ "rm_option": { "options": ["mp_capable"], "force": true } }] }]);
    let path = rig.policy("lose.json", &chains);
    crate::rig::Ran::from(rig.emptcp_in(&rig.far, &["apply", &path]).output().unwrap()).ok();
    rig
}

fn address(v6: bool, link: usize, host: usize) -> String {
    match v6 {
        false => format!("10.77.{link}.{host}"),
        true => format!("fd77:{link}::{host}"),
    }
}

/// A connection that is there.
struct Open {
    client: TcpStream,
    server: TcpStream,
    fate: Fate,
    subflows: usize,
}

impl Open {
    fn carry(&self, number: usize) {
        send(&self.client, &self.server, &fill(number, UP));
        send(&self.server, &self.client, &fill(number, DOWN));
    }
}

/// Waits until each end has so many subflows, or as long as some come or go: a kernel may lose an
/// announcement in its own queue.
fn settle(rig: &Rig, expected: usize) -> usize {
    let count = |netns: &Netns| netns.sh("ss -Htn state established").lines().count();
    let counts = || [&rig.near, &rig.far].map(count);
    let mut last = (counts(), Instant::now());
    loop {
        let now = counts();
        if now == [expected; 2] {
            return expected;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        if now[0] == now[1] && last.1.elapsed() > SETTLED {
            println!("{} subflows where {expected} were expected", now[0]);
            return now[0];
        }
        assert!(last.1.elapsed() < LIMIT, "{now:?}, not {expected}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Resets the first subflow of a connection, or another one; the end that is `netns` does.
fn reset_one(netns: &Netns, end: &TcpStream, first: bool) {
    let all = all_sockets(netns);
    let local = end.local_addr().unwrap().to_string();
    let remote = end.peer_addr().unwrap().to_string();
    let is_first = |s: &&Socket| s.local == local && s.remote == remote;
    let token = all.iter().find(is_first).unwrap().token(false).0;
    let mut of = all
        .iter()
        .filter(|s| s.is_subflow() && s.token(false).0 == token);
    let victim = of.find(|s| is_first(s) == first).unwrap();
    let out = netns.sh(&format!(
        "ss -KHtn src {} dst {}",
        victim.local, victim.remote
    ));
    assert_eq!(out.lines().count(), 1, "{out}");
}

/// Opens connections of one kind; those that are there at the end.
fn open(rig: &Rig, v6: bool, more: More, numbers: std::ops::Range<usize>) -> Vec<Open> {
    more.begin(rig, v6);
    let any: IpAddr = if v6 { "::" } else { "0.0.0.0" }.parse().unwrap();
    let listeners: BTreeMap<u16, TcpListener> = PORTS
        .map(|port| match port {
            PLAIN => {
                let plain = || TcpListener::bind(SocketAddr::new(any, port)).unwrap();
                (port, rig.near.within(plain))
            }
            _ => (port, listen(&rig.near, v6, port)),
        })
        .into();
    for listener in listeners.values() {
        // Subflows join that the test has not accepted yet.
        nix::sys::socket::listen(listener, Backlog::new(64).unwrap()).unwrap();
    }
    let list = rig.near.sh("ss -Htn state established");
    let mut expected = list.lines().count();
    let mut all = Vec::new();
    for number in numbers.clone() {
        let fate = fate(number);
        let (port, subflows) = match fate {
            Fate::FallsBack(port) => (port, 1),
            _ => (PORTS[0], 1 + more.limits()[0]),
        };
        let to = SocketAddr::new(address(v6, 0, 2).parse().unwrap(), port);
        let (client, server) = connect(&rig.far, to, &listeners[&port]);
        // Nobody joins before this.
        send(&client, &server, &fill(number, 1));
        send(&server, &client, &fill(number, 1));
        expected += subflows;
        all.push(Open {
            client,
            server,
            fate,
            subflows,
        });
    }
    settle(rig, expected);
    for (number, one) in numbers.clone().zip(&all) {
        one.carry(number);
    }
    for (number, one) in numbers.zip(&all) {
        if one.fate == Fate::LosesOne {
            let turn = number / 10;
            let first = turn % 3 == 1;
            match turn % 2 {
                0 => reset_one(&rig.near, &one.server, first),
                _ => reset_one(&rig.far, &one.client, first),
            }
            expected -= 1;
        }
    }
    let (gone, stay): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|one| matches!(one.fate, Fate::Closes | Fate::Aborts));
    for one in gone {
        expected -= one.subflows;
        if one.fate == Fate::Aborts {
            let abort = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&one.client, Linger, &abort).unwrap();
        }
        drop(one.client);
        drop(one.server);
    }
    settle(rig, expected);
    stay
}

fn many_are_as_the_kernels(v6: bool) {
    let given = std::env::var("EMPTCP_CONNECTIONS").ok();
    let connections: usize = given.map_or(60, |n| n.parse().unwrap()) / 2;
    let rig = rig(v6);
    let monitor = Reader::start(&rig, "monitor", &["--json", "monitor"]);
    let start = Instant::now();
    let groups = More::ALL.len();
    let mut all = Vec::new();
    for (group, more) in More::ALL.into_iter().enumerate() {
        let numbers = connections * group / groups..connections * (group + 1) / groups;
        all.extend(open(&rig, v6, more, numbers));
    }
    let opened = start.elapsed();
    let rest = at_rest(&rig);
    println!(
        "{connections} connections in {opened:?}; {} subflows are left",
        rest.subflows.len()
    );
    assert_same(&rest);
    assert_connections(&rig, &rest, all.len());
    let aborted = (0..connections).filter(|n| fate(*n) == Fate::Aborts);
    assert_counted(&rig, aborted.count(), &monitor.end());
}

#[test]
fn root_many_of_ipv4_are_as_the_kernels() {
    many_are_as_the_kernels(false);
}

#[test]
fn root_many_of_ipv6_are_as_the_kernels() {
    many_are_as_the_kernels(true);
}
