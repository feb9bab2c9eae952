// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `examples/path-manager.json` at a client, on emulated links: short connections keep to one path,
//! long ones have both; nothing is lost when the policy is changed, removed, or an apply is killed
//! meanwhile. And the figures of docs/policies.md.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::connect;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::raw;
use super::rig::Rig;
use super::rig::wait_for;

/// Of the first connection; each has its own, as those of the one before may not be free yet.
const PORT: u16 = 5001;
/// Between the first exchange of a connection and the one that counts: a further subflow has come.
const PAUSE: Duration = Duration::from_millis(120);
const EQUAL: Link = Link("20Mbit", "10ms");
const SLOW: Link = Link("2Mbit", "25ms");

/// Rate of a link, and its delay, one way.
#[derive(Clone, Copy)]
struct Link(&'static str, &'static str);

/// A client with a policy, or without one, and a server that announces a second address.
struct Stand {
    // Removed first: the namespaces are its own, the rig finds them gone.
    lab: Lab,
    /// The client is `near`.
    rig: Rig,
    connections: u16,
    bytes: Vec<u8>,
    /// Nothing else makes a further subflow pay: neither age nor round-trip time nor loss.
    bytes_only: bool,
}

/// A connection: the client's end, the server's, and what subflows come to.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    _listener: TcpListener,
}

/// What was counted.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// SYNs of further subflows that came to the server.
    joins: u64,
    /// Frames on both links, in both directions.
    frames: u64,
    /// Bytes of frames that came from the server on each link.
    sent: [u64; 2],
}

impl Stand {
    fn new(second: Link) -> Self {
        let link = |n: u8, Link(rate, delay): Link| {
            json!({ "name": format!("path{n}"), "rate": rate, "delay": delay, "queue": "64KiB",
                "a": { "host": "client", "dev": format!("c{n}"), "addresses": [format!("10.0.{n}.2/24")],
                    "gateways": [format!("10.0.{n}.1")] },
                "b": { "host": "server", "dev": format!("s{n}"), "addresses": [format!("10.0.{n}.1/24")] } })
        };
        let limits = json!({ "subflows": 4, "add_addr_accepted": 4 });
        let announced = json!([{ "address": "10.0.2.1", "flags": ["signal"] }]);
        let text = json!({ "version": 1,
            "hosts": { "client": { "mptcp": { "limits": limits } },
                "server": { "mptcp": { "limits": limits, "endpoints": announced } } },
            "links": [link(1, EQUAL), link(2, second)] });
        let lab = Lab::from_json(&text.to_string()).unwrap();
        Self {
            rig: Rig::in_lab(&lab, "client", "server"),
            lab,
            connections: 0,
            bytes: fill(1, 10_000_000),
            bytes_only: false,
        }
    }

    /// Writes the example with this threshold; its path.
    fn policy(&self, threshold: &str) -> String {
        let text = include_str!("../../examples/path-manager.json")
            .replace("eth*", "c*")
            .replace("wlan*", "w*");
        let mut policy: Value = serde_json::from_str(&text).unwrap();
        let pays = &mut policy["selectors"]["pays"]["any"];
        pays[0]["conn_bytes"]["min"] = threshold.into();
        if self.bytes_only {
            pays.as_array_mut().unwrap().truncate(1);
        }
        let path = self.rig.folder.write(
            &format!("path-manager-{threshold}.json"),
            policy.to_string(),
        );
        path.to_str().unwrap().to_owned()
    }

    /// The example with this threshold, or no policy.
    fn put(&self, threshold: Option<&str>) {
        match threshold {
            Some(threshold) => self.rig.run(&["apply", &self.policy(threshold)]).ok(),
            None => self.rig.run(&["delete"]).ok(),
        };
    }

    fn connect(&mut self) -> Connection {
        let port = PORT + self.connections;
        self.connections += 1;
        let listener = listen(&self.rig.far, false, port);
        let to = SocketAddr::new("10.0.1.1".parse().unwrap(), port);
        let (client, server) = connect(&self.rig.near, to, &listener);
        raw::set_congestion(&server, "cubic");
        Connection {
            client,
            server,
            _listener: listener,
        }
    }

    /// Sends so much to the client.
    #[track_caller]
    fn send(&self, connection: &Connection, bytes: usize) {
        send(&connection.server, &connection.client, &self.bytes[..bytes]);
        assert!(!raw::mptcp_fell_back(&connection.client), "fell back");
    }

    /// A connection of its own with one transfer to the client; from its SYN on.
    fn short(&mut self, bytes: usize) -> Duration {
        let start = Instant::now();
        let connection = self.connect();
        self.send(&connection, bytes);
        let took = start.elapsed();
        // As long as a page takes to be read by a program.
        std::thread::sleep(PAUSE);
        took
    }

    /// A transfer to the client on a connection that has exchanged 1 KB before.
    fn later(&mut self, bytes: usize) -> Duration {
        let connection = self.connect();
        self.send(&connection, 1_000);
        send(&connection.client, &connection.server, &self.bytes[..1_000]);
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        self.send(&connection, bytes);
        start.elapsed()
    }

    fn counts(&self) -> Counts {
        let all = self.lab.report().directions;
        let sent = ["path1", "path2"].map(|link| {
            let direction = all.iter().find(|d| d.link == link && d.from == "server");
            direction.unwrap().bytes
        });
        Counts {
            joins: counter(&self.rig.far, "MPTcpExtMPJoinSynRx"),
            frames: all.iter().map(|d| d.frames).sum(),
            sent,
        }
    }

    /// What was counted since.
    fn since(&self, before: Counts) -> Counts {
        let now = self.counts();
        Counts {
            joins: now.joins - before.joins,
            frames: now.frames - before.frames,
            sent: [0, 1].map(|n| now.sent[n] - before.sent[n]),
        }
    }
}

impl Counts {
    /// The second link's share of what the server has sent.
    fn share(&self) -> f64 {
        self.sent[1] as f64 / (self.sent[0] + self.sent[1]) as f64
    }
}

/// Transfers of 20 to 100 kB, a connection each.
fn short_ones(stand: &mut Stand, count: usize) -> (Vec<Duration>, Counts) {
    let before = stand.counts();
    let times = (0..count).map(|n| stand.short(20_000 + n % 5 * 20_000));
    let times = times.collect();
    (times, stand.since(before))
}

#[test]
fn root_pays_not_for_short_connections() {
    let mut stand = Stand::new(EQUAL);
    let (_, without) = short_ones(&mut stand, 10);
    stand.put(Some("220KiB"));
    let (_, with) = short_ones(&mut stand, 10);
    println!("without: {without:?}\nwith: {with:?}");
    assert!(without.joins >= 5, "{without:?}");
    // None, but on a machine that stalls: round trips of 150 ms make one pay.
    assert!(with.joins <= 2, "{with:?}");
    assert!(with.sent[1] <= without.sent[1] / 4, "{with:?}, {without:?}");
    if with.joins == 0 {
        let status = stand.rig.status();
        assert_eq!(status["reasons"], json!({}), "{status}");
    }
}

#[test]
fn root_pays_for_long_connections() {
    let mut stand = Stand::new(EQUAL);
    for threshold in [None, Some("220KiB")] {
        stand.put(threshold);
        both_carry(0.3, || {
            let before = stand.counts();
            let took = stand.later(4_000_000);
            let counts = stand.since(before);
            println!("{threshold:?}: {took:?}, {counts:?}");
            assert_eq!(counts.joins, 1);
            counts.share()
        });
    }
}

/// The second link has such a share, at the third time at the latest: one that loses its last segments
/// is idle until its timer ends.
#[track_caller]
fn both_carry(least: f64, mut share: impl FnMut() -> f64) {
    let mut shares = Vec::new();
    for _ in 0..3 {
        let share = share();
        if share > least {
            return;
        }
        shares.push(share);
    }
    panic!("{shares:?}, wanted more than {least}");
}

/// Ends a thread, also where an assertion of another one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn root_pays_changed_while_data_flow() {
    let mut stand = Stand::new(EQUAL);
    stand.bytes_only = true;
    stand.put(Some("1GiB"));
    let connection = stand.connect();
    let stand = &stand;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let joins = || stand.counts().joins;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                stand.send(&connection, 250_000);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = Stop(&stop);
        let wait = |what: &str, transfers: u64| {
            let until = done.load(Ordering::Relaxed) + transfers;
            wait_for(what, LIMIT, || done.load(Ordering::Relaxed) >= until);
        };
        wait("data, one path", 2);
        // At some moment of it: the policy is the one before, or the same with another threshold.
        let other = stand.policy("2GiB");
        for n in 0..8 {
            let mut apply = stand.rig.emptcp(&["apply", &other]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(4 * n));
            apply.kill().unwrap();
            apply.wait().unwrap();
        }
        wait("data behind an apply that was killed", 2);
        assert_eq!(joins(), 0);
        stand.put(Some("64KiB"));
        wait_for("the second subflow", LIMIT, || joins() == 1);
        wait("data, both paths", 2);
        stand.rig.run(&["chain", "disable", "one-subflow"]).ok();
        wait("data, a chain less", 2);
        stand.put(None);
        wait("data, no policy", 2);
        stand.put(Some("220KiB"));
        wait("data, a new policy", 2);
    });
    both_carry(0.2, || {
        let before = stand.counts();
        stand.send(&connection, 2_000_000);
        stand.since(before).share()
    });
}

impl Stand {
    /// Measures until the relay was not disturbed meanwhile.
    fn undisturbed<T>(&mut self, mut measure: impl FnMut(&mut Self) -> T) -> T {
        for _ in 0..50 {
            let before = self.lab.report().lateness;
            let result = measure(self);
            let after = self.lab.report().lateness;
            let frames = after.packets - before.packets;
            if (after.late - before.late) * 1000 <= frames {
                return result;
            }
        }
        panic!("the machine is too busy for this measurement");
    }
}

/// In milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// The table of docs/policies.md: sizes of transfers, thresholds and links in turn.
#[test]
#[ignore = "a measurement of ten minutes"]
fn root_pays_measured() {
    const REPEATS: usize = 7;
    const SIZES: [usize; 5] = [50_000, 100_000, 200_000, 1_000_000, 10_000_000];
    let thresholds = [
        None,
        Some("0"),
        Some("64KiB"),
        Some("220KiB"),
        Some("1MiB"),
        Some("1GiB"),
    ];
    for (what, link) in [("equal", EQUAL), ("slow", SLOW)] {
        let mut stand = Stand::new(link);
        let mut all = vec![vec![(Vec::new(), 0); thresholds.len()]; SIZES.len()];
        for _ in 0..REPEATS {
            for (column, threshold) in thresholds.iter().enumerate() {
                stand.put(*threshold);
                for (row, size) in SIZES.iter().enumerate() {
                    let (took, joins) = stand.undisturbed(|stand| {
                        let before = stand.counts();
                        let took = stand.later(*size);
                        (took, stand.since(before).joins)
                    });
                    all[row][column].0.push(took);
                    all[row][column].1 += joins;
                }
            }
        }
        for (row, size) in SIZES.iter().enumerate() {
            let cells = all[row].iter_mut().map(|(times, joins)| {
                let median = median(times);
                let (least, most) = (times[0].as_millis(), times[REPEATS - 1].as_millis());
                format!("{median:.0} ms [{least}-{most}] {joins} joins")
            });
            println!(
                "{what} | {size} | {}",
                cells.collect::<Vec<_>>().join(" | ")
            );
        }
    }
}

/// The other figures: short connections without the policy and with it in turn.
#[test]
#[ignore = "a measurement of two minutes"]
fn root_pays_short_measured() {
    const ROUNDS: usize = 7;
    const EACH: usize = 40;
    let mut stand = Stand::new(EQUAL);
    let mut times = [Vec::new(), Vec::new()];
    let mut counts = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (with, threshold) in [None, Some("220KiB")].into_iter().enumerate() {
            stand.put(threshold);
            let (took, counted) = stand.undisturbed(|stand| short_ones(stand, EACH));
            times[with].extend(took);
            counts[with].push((counted.frames, counted.joins));
        }
    }
    for (what, mut times, mut counts) in [
        (
            "without",
            std::mem::take(&mut times[0]),
            std::mem::take(&mut counts[0]),
        ),
        (
            "with",
            std::mem::take(&mut times[1]),
            std::mem::take(&mut counts[1]),
        ),
    ] {
        counts.sort();
        let (frames, joins) = counts[ROUNDS / 2];
        println!(
            "{what}: of {EACH} connections, median of {ROUNDS}: {joins} joins, {frames} frames, {:.1} ms each",
            median(&mut times)
        );
    }
}
