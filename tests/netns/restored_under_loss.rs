// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `examples/delay-subflows.json` where both paths lose packets, in the lab, and where they do not:
//! how long a connection that passes the threshold waits for its second subflow, whatever is lost
//! meanwhile.
//!
//! Behind the server stand veths, with the offloads of the kernel; what emulates the paths has none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::pair::connect;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::raw;
use super::raw::Frames;
use super::restored::ERRORS;
use super::restored::THRESHOLD;
use super::restored::policy;
use super::restored::subflows;
use super::rig::Netns;
use super::rig::Rig;

const PORT: u16 = 5001;
/// Connections of each kind: two hooks, offload on and off, two families, two directions.
const EACH: u16 = 7;
/// Bytes of the transfer that passes the threshold.
const SIZE: usize = 512 << 10;
/// What goes on to be sent until the subflow is there.
const CHUNK: usize = 16 << 10;
/// When a connection is given up.
const LIMIT: Duration = Duration::from_secs(20);

/// Two paths of 20 ms (there and back) that lose this part of packets, in each direction.
fn lab(offload: bool, loss: f64) -> Lab {
    let path = |n: u8| {
        json!({ "name": format!("path{n}"), "rate": "50Mbit", "delay": "10ms", "loss": loss,
            "seed": n,
            "a": { "host": "client", "dev": format!("c{n}"),
                "addresses": [format!("10.0.{n}.2/24"), format!("fd00:{n}::2/64")] },
            "b": { "host": "router", "dev": format!("c{n}"),
                "addresses": [format!("10.0.{n}.1/24"), format!("fd00:{n}::1/64")] } })
    };
    let site = |n: u8| {
        json!({ "name": format!("site{n}"), "kind": "veth", "offload": offload,
            "a": { "host": "router", "dev": format!("s{n}"),
                "addresses": [format!("10.0.1{n}.1/24"), format!("fd00:1{n}::1/64")] },
            "b": { "host": "server", "dev": format!("s{n}"),
                "addresses": [format!("10.0.1{n}.2/24"), format!("fd00:1{n}::2/64")] } })
    };
    let routes = |to: &str, via: &str, end: &str| {
        let each = [1, 2].map(|n| {
            [
                json!({ "to": format!("10.0.{to}{n}.0/24"), "via": format!("10.0.{via}{n}.1") }),
                json!({ "to": format!("fd00:{to}{n}::/64"), "via": format!("fd00:{via}{n}::{end}") }),
            ]
        });
        each.concat()
    };
    let mptcp = json!({ "limits": { "subflows": 4, "add_addr_accepted": 4 } });
    let text = json!({ "version": 1,
        "hosts": {
            "client": { "mptcp": mptcp, "routes": routes("1", "", "1") },
            "router": { "forward": true },
            "server": { "mptcp": mptcp, "routes": routes("", "1", "1") } },
        "links": [path(1), path(2), site(1), site(2)] });
    Lab::from_json(&text.to_string()).unwrap()
}

/// What was seen of the connection with a port of the server; times are those of the kernel.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Payload at the interface of the policy, as `conn_bytes` counts it.
    bytes: usize,
    /// When it passed the threshold.
    passed: Option<Duration>,
    /// Announcements that came to the client, in front of what is done there; also those that
    /// `rm_add_addr` at the server has given a wrong HMAC.
    announced: Vec<Duration>,
    /// When the client sent the first SYN of the second subflow.
    syn: Option<Duration>,
}

type All = Mutex<HashMap<u16, Seen>>;

/// What a frame of TCP says.
struct Segment {
    /// That of the server.
    port: u16,
    flags: u8,
    payload: usize,
    /// An announcement that is no echo.
    announces: bool,
    at: Duration,
}

impl Segment {
    /// Of the first bytes of a frame, without IP options and extension headers.
    fn of(frame: &[u8], at: Duration) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        let (tcp, end) = match word(12)? {
            0x0800 => (34, 14 + word(16)?),
            0x86dd => (54, 54 + word(18)?),
            _ => return None,
        };
        let ports = [word(tcp)?, word(tcp + 2)?];
        let port = ports.into_iter().min()?;
        let options = tcp + 20;
        let data = tcp + usize::from(frame.get(tcp + 12)? >> 4) * 4;
        let mut option = options;
        let mut announces = false;
        while option + 2 < data.min(frame.len()) {
            match frame[option] {
                0 => break,
                1 => option += 1,
                kind => {
                    // ADD_ADDR, and its echo (RFC 8684, 3.4.1).
                    announces |= kind == 30 && frame[option + 2] == 0x30;
                    option += usize::from(frame[option + 1].max(2));
                }
            }
        }
        Some(Self {
            port,
            flags: frame[tcp + 13],
            payload: usize::from(end).saturating_sub(data),
            announces,
            at,
        })
    }
}

/// Tells what each segment at an interface says, until it is over.
fn watch(netns: &Netns, interface: &str, over: &AtomicBool, mut see: impl FnMut(Segment) + Send) {
    let ifindex = netns.ifindex(interface);
    let frames = netns.within(|| Frames::listen(ifindex));
    frames.stamp();
    while !over.load(Ordering::Relaxed) {
        let frame = frames.next(Duration::from_millis(50));
        if let Some(segment) = frame.and_then(|frame| Segment::of(&frame, frames.stamp())) {
            see(segment);
        }
    }
}

/// One hook, with offload or without.
struct Stand<'a> {
    server: &'a Netns,
    client: &'a Netns,
    seen: &'a All,
}

impl Stand<'_> {
    fn seen(&self, port: u16) -> Seen {
        self.seen
            .lock()
            .unwrap()
            .get(&port)
            .cloned()
            .unwrap_or_default()
    }

    /// One connection: from the threshold to the SYN, ms; `None`: it never came.
    fn connection(&self, address: IpAddr, down: bool, port: u16) -> Option<f64> {
        let listener = listen(self.server, address.is_ipv6(), port);
        let (near, far) = connect(self.client, SocketAddr::new(address, port), &listener);
        let bytes = fill(port.into(), SIZE);
        let few = &bytes[..THRESHOLD / 4];
        send(&near, &far, few);
        send(&far, &near, few);
        std::thread::sleep(Duration::from_millis(30));
        let before = self.seen(port);
        assert!(
            before.passed.is_some() || before.syn.is_none(),
            "a subflow below the threshold: {before:?}"
        );
        let (from, to) = match down {
            true => (&far, &near),
            false => (&near, &far),
        };
        send(from, to, &bytes);
        let end = Instant::now() + LIMIT;
        while self.seen(port).syn.is_none() && Instant::now() < end {
            send(from, to, &bytes[..CHUNK]);
            std::thread::sleep(Duration::from_millis(20));
        }
        while subflows(self.client, port) < 2 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let joined = subflows(self.client, port) == 2;
        send(from, to, &bytes[..SIZE / 4]);
        send(to, from, &bytes[..SIZE / 4]);
        assert!(!raw::mptcp_fell_back(&near), "fell back");
        let seen = self.seen(port);
        let passed = seen.passed.unwrap();
        let after = |at: &Duration| (at.as_secs_f64() - passed.as_secs_f64()) * 1e3;
        let took = seen.syn.as_ref().map(after);
        let announced = seen.announced.iter().map(|at| format!("{:.1}", after(at)));
        let announced = announced.collect::<Vec<_>>().join(" ");
        let early = seen.announced.iter().any(|at| *at < passed);
        if !joined || early || took.is_none_or(|took| took > 60.0) {
            println!(
                "{port}: SYN {took:?}, joined {joined}, announcements at the client {announced}"
            );
        }
        took.filter(|_| joined)
    }
}

/// A connection: IPv6, a download, what it took, ms; `None`: no second subflow.
type Took = (bool, bool, Option<f64>);

/// Connections of all kinds.
fn connections(hook: &str, offload: bool, loss: f64) -> Vec<Took> {
    let lab = lab(offload, loss);
    let (near, far, interface) = match hook {
        "tc-ingress" => ("client", "server", "c1"),
        _ => ("server", "client", "s1"),
    };
    let rig = Rig::in_lab(&lab, near, far);
    let (client, server) = match hook {
        "tc-ingress" => (&rig.near, &rig.far),
        _ => (&rig.far, &rig.near),
    };
    rig.apply(&policy(hook, interface)).ok();
    let seen = All::default();
    let stand = Stand {
        server,
        client,
        seen: &seen,
    };
    let over = AtomicBool::new(false);
    let mut all = Vec::new();
    let of = |port: u16, change: &dyn Fn(&mut Seen)| {
        change(seen.lock().unwrap().entry(port).or_default());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            watch(&rig.near, interface, &over, |segment| {
                of(segment.port, &|seen| {
                    seen.bytes += segment.payload;
                    if seen.bytes >= THRESHOLD && seen.passed.is_none() {
                        seen.passed = Some(segment.at);
                    }
                });
            });
        });
        scope.spawn(|| {
            watch(client, "c1", &over, |segment| {
                if segment.announces {
                    of(segment.port, &|seen| seen.announced.push(segment.at));
                }
            });
        });
        scope.spawn(|| {
            watch(client, "c2", &over, |segment| {
                if segment.flags & 0x12 == 0x02 {
                    of(segment.port, &|seen| {
                        seen.syn.get_or_insert(segment.at);
                    });
                }
            });
        });
        // Also where something panics: else the threads above never end.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (family, second) in [("10.0.11.2", "10.0.12.2"), ("fd00:11::2", "fd00:12::2")] {
                let address: IpAddr = family.parse().unwrap();
                server.sh(&format!(
                    "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
                ));
                let first = PORT + if address.is_ipv6() { 2 * EACH } else { 0 };
                let lanes = std::thread::scope(|lanes| {
                    let lane = |down: bool| {
                        let ports = first + if down { EACH } else { 0 };
                        let stand = &stand;
                        lanes.spawn(move || {
                            let ports = ports..ports + EACH;
                            ports
                                .map(|port| stand.connection(address, down, port))
                                .collect::<Vec<_>>()
                        })
                    };
                    [lane(false), lane(true)].map(|lane| lane.join().unwrap())
                });
                for (lane, down) in lanes.into_iter().zip([false, true]) {
                    println!("{hook}, offload {offload}, to {address}, down {down}: {lane:.1?}");
                    let kind = (address.is_ipv6(), down);
                    all.extend(lane.into_iter().map(|took| (kind.0, kind.1, took)));
                }
            }
            for end in [server, client] {
                // A SYN/ACK that is repeated because the third ACK was lost counts there, too.
                let repeated = counter(end, "TcpExtTCPSYNChallenge");
                for name in ERRORS {
                    let allowed = if name == "TcpInErrs" { repeated } else { 0 };
                    assert!(counter(end, name) <= allowed, "{name} in {}", end.name);
                }
            }
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    let sent = counter(server, "MPTcpExtAddAddrTx");
    let reasons: Value = rig.status()["reasons"].clone();
    println!(
        "{hook}, offload {offload}: {} connections, {sent} announcements sent by the kernel, {} \
         suppressed, {} restored; {reasons}; relay disturbed: {}",
        all.len(),
        rig.matched("rm_add_addr"),
        rig.matched("restore_addr"),
        lab.report().disturbed()
    );
    all
}

/// The figures of docs/performance.md.
#[test]
#[ignore = "a measurement: cargo test --features failpoints --test netns -- --ignored --nocapture root_restored_under_loss"]
fn root_restored_under_loss() {
    let mut missing = 0;
    for (loss, hook) in [0.0, 0.01]
        .into_iter()
        .flat_map(|loss| ["tc-ingress", "tc-egress"].map(|hook| (loss, hook)))
    {
        let all = [true, false].map(|offload| connections(hook, offload, loss));
        let all = all.concat();
        missing += all.iter().filter(|(.., took)| took.is_none()).count();
        for (v6, down) in [(false, false), (false, true), (true, false), (true, true)] {
            let of = all.iter().filter(|took| (took.0, took.1) == (v6, down));
            let mut times: Vec<f64> = of.filter_map(|took| took.2).collect();
            times.sort_by(f64::total_cmp);
            let part = |percent: usize| times[(times.len() - 1) * percent / 100];
            println!(
                "loss {loss}, {hook}, IPv6 {v6}, down {down}: {} connections, from the threshold to the \
                 SYN: median {:.2} ms, p90 {:.1}, max {:.1}",
                times.len(),
                part(50),
                part(90),
                part(100)
            );
        }
    }
    assert_eq!(missing, 0, "connections without a second subflow");
}
