// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Actors that put an option into an ACK, on connections of Multipath TCP between real stacks:
//! with complete and incomplete checksums, in both families, at both hooks. The policy is at the
//! client; which end sends the data says whose ACKs are pure.

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::mptcp::subflows;
use super::raw;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::often;
use super::rig::wait_for;

pub(super) const PORT: u16 = 5001;
pub(super) const LIMIT: Duration = Duration::from_secs(15);
/// Bytes of a transfer.
pub(super) const SIZE: usize = 1 << 20;

/// A connection with two subflows, one on each link; `near` is the client.
pub(super) struct Connection {
    near: TcpStream,
    far: TcpStream,
    /// Differs from transfer to transfer.
    seed: u64,
}

/// Two ends, and a policy at the client.
pub(super) struct Ends(pub(super) Rig);

/// Who sends the data; the other one's ACKs are pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Near,
    Far,
}

impl Sender {
    pub(super) fn other(self) -> Self {
        match self {
            Sender::Near => Sender::Far,
            Sender::Far => Sender::Near,
        }
    }
}

impl Ends {
    pub(super) fn new() -> Self {
        let rig = Rig::new(2, Tc::Tcx);
        for netns in [&rig.near, &rig.far] {
            netns.sh(
                "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
                 ip mptcp limits set subflow 4 add_addr_accepted 4",
            );
        }
        Self(rig)
    }

    pub(super) fn netns(&self, end: Sender) -> &Netns {
        match end {
            Sender::Near => &self.0.near,
            Sender::Far => &self.0.far,
        }
    }

    fn offload(&self, state: &str) {
        for netns in [&self.0.near, &self.0.far] {
            netns.sh(&format!(
                "ethtool -K p0 tx {state}; ethtool -K p1 tx {state}"
            ));
        }
    }

    pub(super) fn connect(&self, v6: bool) -> Connection {
        let address = |link| match v6 {
            true => format!("fd77:{link}::1"),
            false => format!("10.77.{link}.1"),
        };
        let second = address(1);
        self.0.far.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        let any: IpAddr = match v6 {
            true => std::net::Ipv6Addr::UNSPECIFIED.into(),
            false => std::net::Ipv4Addr::UNSPECIFIED.into(),
        };
        let listener = (self.0.far).within(|| TcpListener::from(raw::mptcp_listener(any, PORT)));
        let to = SocketAddr::new(address(0).parse().unwrap(), PORT);
        let near = (self.0.near).within(|| TcpStream::from(raw::mptcp_connect(to)));
        let (far, _) = listener.accept().unwrap();
        let mut connection = Connection { near, far, seed: 1 };
        for stream in [&connection.near, &connection.far] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        // Nothing comes of an ADD_ADDR before the first data.
        connection.send(Sender::Near, 4096);
        connection.send(Sender::Far, 4096);
        // While there is a listener: MP_JOIN needs it.
        wait_for("the second subflow", LIMIT, || subflows(&self.0.near) == 2);
        // The server may be one packet behind.
        std::thread::sleep(Duration::from_millis(20));
        drop(listener);
        connection
    }

    /// Bytes that an end has sent on a link, with all headers.
    pub(super) fn sent(&self, end: Sender, link: usize) -> u64 {
        let all = self.netns(end).sh("cat /proc/net/dev");
        let line = all
            .lines()
            .find_map(|l| l.trim().strip_prefix(&format!("p{link}:")));
        let words = line.unwrap().split_whitespace();
        words.skip(8).map(|w| w.parse().unwrap()).next().unwrap()
    }

    pub(super) fn apply(&self, chains: &[Value]) {
        self.0.apply(&json!(chains)).ok();
    }

    /// How many packets a step of this name treated, and how many it refused.
    pub(super) fn treated(&self, module: &str) -> (u64, u64) {
        let status = self.0.status();
        let chains = status["chains"].as_array().unwrap();
        let steps = chains.iter().flat_map(|c| c["steps"].as_array().unwrap());
        let counts = steps.filter(|s| s["module"] == module).map(|s| {
            (
                s["matched"].as_u64().unwrap(),
                s["errors"].as_u64().unwrap(),
            )
        });
        counts.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
    }

    /// What no edit may cause, at both ends.
    pub(super) fn errors(&self) -> Vec<u64> {
        let names = [
            "TcpInCsumErrors",
            "TcpInErrs",
            "IpInHdrErrors",
            "IpExtInCsumErrors",
            "IpExtInTruncatedPkts",
            "Ip6InHdrErrors",
            "MPTcpExtDataCsumErr",
            "MPTcpExtMPRstTx",
            "MPTcpExtDSSCorruptionReset",
        ];
        let ends = [&self.0.near, &self.0.far];
        let all = ends
            .iter()
            .flat_map(|end| names.map(|name| counter(end, name)));
        all.collect()
    }
}

impl Connection {
    /// Sends so many bytes one way, and compares what arrives.
    pub(super) fn send(&mut self, sender: Sender, size: usize) {
        let mut state = self.seed;
        self.seed += 1;
        let bytes: Vec<u8> = (0..size)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let (mut from, mut to) = match sender {
            Sender::Near => (&self.near, &self.far),
            Sender::Far => (&self.far, &self.near),
        };
        let mut got = vec![0; size];
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&bytes).unwrap());
            to.read_exact(&mut got).unwrap();
        });
        assert!(got == bytes, "{sender:?}: not what was sent");
    }

    /// The server asks on each idle subflow whether it lives, as often as its sysctls say.
    pub(super) fn probe_idle(&self) {
        setsockopt(&self.far, sockopt::KeepAlive, &true).unwrap();
    }

    pub(super) fn fell_back(&self) -> bool {
        raw::mptcp_fell_back(&self.near)
    }
}

pub(super) fn chain(name: &str, hook: &str, interfaces: &[&str], act: &Value) -> Value {
    json!({ "name": name, "hook": hook, "interfaces": interfaces, "select": { "mptcp": {} },
        "act": [act] })
}

/// Every way on which an option is injected: checksum offload, family, some connections each.
fn runs(ends: &Ends, run: impl FnMut(&str, bool)) {
    runs_of(ends, often(2, 5), run);
}

/// The same, so many connections each.
pub(super) fn runs_of(ends: &Ends, connections: usize, mut run: impl FnMut(&str, bool)) {
    for offload in ["on", "off"] {
        ends.offload(offload);
        for v6 in [false, true] {
            for n in 0..connections {
                run(&format!("tx {offload}, IPv6 {v6}, run {n}"), v6);
            }
        }
    }
}

/// The second subflow becomes backup for `sender`, whose peer's ACKs pass `hook` of the client.
fn set_flow_prio(hook: &str, sender: Sender) {
    let ends = Ends::new();
    let prio = chain(
        "prio",
        hook,
        &["p1"],
        &json!({ "set_flow_prio": { "backup": true } }),
    );
    let other = sender.other();
    runs(&ends, |what, v6| {
        let what = format!("{hook}, {what}");
        let mut connection = ends.connect(v6);
        let errors = ends.errors();
        let received = |end| counter(ends.netns(end), "MPTcpExtMPPrioRx");
        let before = (received(sender), received(other));
        let start = ends.sent(sender, 1);
        connection.send(sender, 2 * SIZE);
        let used = ends.sent(sender, 1) - start;

        ends.apply(std::slice::from_ref(&prio));
        connection.send(sender, SIZE);
        wait_for("MP_PRIO", LIMIT, || {
            connection.send(sender, 4096);
            received(sender) > before.0
        });
        // What was queued drains.
        std::thread::sleep(Duration::from_millis(20));
        let start = ends.sent(sender, 1);
        connection.send(sender, 2 * SIZE);
        let left = ends.sent(sender, 1) - start;
        connection.send(sender, SIZE);
        connection.send(other, SIZE);

        let (treated, refused) = ends.treated("set_flow_prio");
        println!("{what}: {used} bytes before, {left} after; {treated} ACKs, {refused} refused");
        assert_eq!(received(sender), before.0 + 1, "{what}");
        assert_eq!(received(other), before.1, "{what}: the wrong end");
        assert!(used > SIZE as u64 / 8, "{what}: {used} bytes before");
        assert!(left < SIZE as u64 / 64, "{what}: {left} bytes after");
        assert_eq!(treated, 1, "{what}");
        assert!(!connection.fell_back(), "{what}");
        assert_eq!(subflows(&ends.0.near), 2, "{what}");
        assert_eq!(ends.errors(), errors, "{what}");
        drop(connection);
        ends.0.run(&["delete"]).ok();
    });
}

#[test]
fn root_grow_set_flow_prio_at_egress() {
    set_flow_prio("tc-egress", Sender::Far);
}

#[test]
fn root_grow_set_flow_prio_at_ingress() {
    set_flow_prio("tc-ingress", Sender::Near);
}

/// Once for each subflow and change, over every apply: of subflows that stay in use.
#[test]
fn root_grow_set_flow_prio_is_kept_over_applies() {
    let ends = Ends::new();
    let wish = |name, backup| {
        let act = json!({ "set_flow_prio": { "backup": backup } });
        chain(name, "tc-egress", &["p0", "p1"], &act)
    };
    let mut connection = ends.connect(false);
    let received = || counter(&ends.0.far, "MPTcpExtMPPrioRx");
    let before = received();
    // One of the subflows may have no packets for a while.
    let mut both = |number: u64| {
        wait_for("MP_PRIO on both subflows", LIMIT, || {
            connection.send(Sender::Far, SIZE / 4);
            received() >= before + number
        });
        connection.send(Sender::Far, 2 * SIZE);
        assert_eq!(received(), before + number);
    };
    ends.apply(&[wish("prio", false)]);
    both(2);
    let more = chain("more", "tc-egress", &["p0"], &json!({ "record": {} }));
    ends.apply(&[wish("prio", false), more]);
    both(2);
    ends.apply(&[wish("renamed", false)]);
    both(2);
    ends.apply(&[wish("prio", true)]);
    both(4);
    assert!(!connection.fell_back());
    let state = ends.0.run(&["status", "--state"]).ok().out;
    assert!(
        state.contains("prio_wishes of module set_flow_prio"),
        "{state}"
    );
}

/// REMOVE_ADDR takes the second subflow away, at the end that it is injected to.
fn inject_remove_addr(hook: &str, sender: Sender, ids: &[u8]) {
    let ends = Ends::new();
    let act = json!({ "inject": { "option": "remove_addr", "addr_ids": ids } });
    runs(&ends, |what, v6| {
        let what = format!("{hook}, {what}");
        let mut connection = ends.connect(v6);
        let removed = || counter(ends.netns(sender), "MPTcpExtRmAddr");
        let before = removed();
        let errors = ends.errors();
        // On the first link: what carries the option goes on.
        ends.apply(&[chain("remove", hook, &["p0"], &act)]);
        wait_for("REMOVE_ADDR", LIMIT, || {
            connection.send(sender, 65536);
            subflows(&ends.0.near) == 1
        });
        connection.send(sender, SIZE);
        connection.send(sender.other(), SIZE);
        let (treated, refused) = ends.treated("inject");
        println!("{what}: {treated} ACKs, {refused} refused");
        assert_eq!(removed(), before + ids.len() as u64, "{what}");
        assert_eq!(treated, 1, "{what}");
        assert!(!connection.fell_back(), "{what}");
        assert_eq!(ends.errors(), errors, "{what}");
        drop(connection);
        ends.0.run(&["delete"]).ok();
    });
}

#[test]
fn root_grow_inject_remove_addr_at_ingress() {
    // The id of the address that the server has announced.
    inject_remove_addr("tc-ingress", Sender::Near, &[9]);
}

#[test]
fn root_grow_inject_remove_addr_at_egress() {
    // Whichever the kernel gave the client's second address.
    inject_remove_addr("tc-egress", Sender::Far, &[1, 2, 3, 4]);
}

/// What the receiver does not know goes into every ACK, and changes nothing.
#[test]
fn root_grow_inject_into_every_ack() {
    let ends = Ends::new();
    let act = json!({ "inject": { "option": "mp_experimental", "flags": 8, "data": [1, 2, 3, 4, 5],
        "once": false } });
    for (hook, sender) in [("tc-egress", Sender::Far), ("tc-ingress", Sender::Near)] {
        runs(&ends, |what, v6| {
            let what = format!("{hook}, {what}");
            let mut connection = ends.connect(v6);
            let errors = ends.errors();
            ends.apply(&[chain("every", hook, &["p0", "p1"], &act)]);
            connection.send(sender, 2 * SIZE);
            let (treated, refused) = ends.treated("inject");
            println!("{what}: {treated} ACKs, {refused} refused");
            assert!(treated >= 2, "{what}");
            assert!(!connection.fell_back(), "{what}");
            assert_eq!(subflows(&ends.0.near), 2, "{what}");
            assert_eq!(ends.errors(), errors, "{what}");
            drop(connection);
            ends.0.run(&["delete"]).ok();
        });
    }
}
