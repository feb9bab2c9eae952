// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The example rate.py at a receiver: senders, at the other end of links of 20 Mbit/s and 40 ms, keep
//! to the rate while the program is there; each subflow, connection or prefix, in both families and
//! whoever opened the connection. Who stays below by itself is left alone.

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::stage::*;
use crate::mptcp::subflows;
use crate::raw;
use crate::rig::Rig;
use crate::rig::wait_for;

/// How long the loop may take to meet a rate.
const SETTLE: Duration = Duration::from_millis(3000);
const MEASURE: Duration = Duration::from_millis(1500);
/// How often it is measured, until it is right: where the machine stalls, what has queued comes at
/// once, and the loop takes a second or two to make up for it.
const TRIES: usize = 3;
/// How far off it may be then, on a machine that stalls now and then. Without its correction by what
/// arrives the loop is further off with two subflows; without its windows four times.
const ERROR: f64 = 0.15;

/// Links between a receiver and a sender, in both families.
fn lab(links: u8) -> Lab {
    let link = |n: u8| {
        json!({ "name": format!("path{n}"), "rate": "20Mbit", "delay": "20ms", "queue": "128KiB",
            "a": { "host": "client", "dev": format!("c{n}"),
                "addresses": [format!("10.0.{n}.2/24"), format!("fd00:0:0:{n}::2/64")],
                "gateways": [format!("10.0.{n}.1"), format!("fd00:0:0:{n}::1")] },
            "b": { "host": "server", "dev": format!("s{n}"),
                "addresses": [format!("10.0.{n}.1/24"), format!("fd00:0:0:{n}::1/64")] } })
    };
    let links: Vec<Value> = (1..=links).map(link).collect();
    let limits = json!({ "subflows": 4, "add_addr_accepted": 4 });
    let second = match links.len() {
        1 => json!([]),
        _ => json!([{ "address": "10.0.2.1", "flags": ["signal"] }]),
    };
    let text = json!({ "version": 1,
        "hosts": { "client": { "mptcp": { "limits": limits } },
            "server": { "mptcp": { "limits": limits, "endpoints": second } } },
        "links": links });
    Lab::from_json(&text.to_string()).unwrap()
}

/// Puts the example's policy in force at the receiver, and the program where everybody may run it.
fn example(rig: &Rig) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let text = include_str!("../../../examples/exec/rate.json");
    let mut policy: Value = serde_json::from_str(text).unwrap();
    policy["track"] = json!(["c*", "s*"]);
    policy["chains"][0]["interfaces"] = json!(["c*", "s*"]);
    let path = rig.folder.write("rate.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let text = include_str!("../../../examples/exec/rate.py");
    let path = rig.folder.write("rate.py", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Mbit/s of what arrives on each connection, once it has had time to settle.
fn rates(received: &[AtomicU64]) -> Vec<f64> {
    std::thread::sleep(SETTLE);
    measure(received)
}

fn measure(received: &[AtomicU64]) -> Vec<f64> {
    let now = || -> Vec<u64> {
        let all = received.iter();
        all.map(|bytes| bytes.load(Ordering::Relaxed)).collect()
    };
    let (start, before) = (Instant::now(), now());
    std::thread::sleep(MEASURE);
    let seconds = start.elapsed().as_secs_f64();
    let both = before.iter().zip(now());
    both.map(|(before, now)| 8e-6 * (now - before) as f64 / seconds)
        .collect()
}

/// A receiver, at which the policy is, and who sends to it.
struct Stand {
    // Removed first: the namespaces are its own, the rig finds them gone.
    _lab: Lab,
    rig: Rig,
    program: String,
    senders: Vec<TcpStream>,
    receivers: Vec<TcpStream>,
    _listener: TcpListener,
}

impl Stand {
    /// Connections from the client to an address of the server. `uploads`: the client sends.
    fn new(links: u8, address: &str, connections: usize, uploads: bool) -> Self {
        let lab = lab(links);
        let rig = match uploads {
            false => Rig::in_lab(&lab, "client", "server"),
            true => Rig::in_lab(&lab, "server", "client"),
        };
        let program = example(&rig);
        let (client, server) = match uploads {
            false => (&rig.near, &rig.far),
            true => (&rig.far, &rig.near),
        };
        let to = SocketAddr::new(address.parse().unwrap(), PORT);
        let any = match to {
            SocketAddr::V4(_) => "0.0.0.0".parse().unwrap(),
            SocketAddr::V6(_) => "::".parse().unwrap(),
        };
        let listener = server.within(|| TcpListener::from(raw::mptcp_listener(any, PORT)));
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let near = client.within(|| TcpStream::from(raw::mptcp_connect(to)));
            let (far, _) = listener.accept().unwrap();
            let (sender, receiver) = match uploads {
                false => (far, near),
                true => (near, far),
            };
            raw::set_congestion(&sender, "cubic");
            sender.set_write_timeout(Some(LIMIT)).unwrap();
            receiver.set_read_timeout(Some(LIMIT)).unwrap();
            senders.push(sender);
            receivers.push(receiver);
        }
        Self {
            rig,
            program,
            senders,
            receivers,
            _listener: listener,
            _lab: lab,
        }
    }

    /// Sends on all connections, as much as goes, while something is seen.
    fn seen<T>(&self, see: impl FnOnce(&[AtomicU64]) -> T) -> T {
        let received: Vec<AtomicU64> = self.receivers.iter().map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for mut sender in &self.senders {
                // Until the receiver shuts down.
                scope.spawn(move || while sender.write_all(&[7; 16384]).is_ok() {});
            }
            for (mut receiver, received) in self.receivers.iter().zip(&received) {
                scope.spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(count @ 1..) = receiver.read(&mut buffer) {
                        received.fetch_add(count as u64, Ordering::Relaxed);
                    }
                });
            }
            // Its end, also when an assertion fails: the threads above would be waited for.
            let _end = ShutDown(&self.senders, &self.receivers);
            see(&received)
        })
    }

    /// The program, with its arguments.
    fn run(&self, args: &[&str]) -> crate::reader::Reader {
        run(
            &self.rig,
            &[&["--exec", &self.program, "--"], args].concat(),
        )
    }

    /// That it holds what arrives, on each connection and on all together, at rates of Mbit/s.
    #[track_caller]
    fn held(&self, what: &str, received: &[AtomicU64], each: f64, all: f64) {
        std::thread::sleep(SETTLE);
        let mut wrong = Vec::new();
        while wrong.len() < TRIES {
            let measured = measure(received);
            let sum: f64 = measured.iter().sum();
            let error = sum / all - 1.0;
            println!(
                "{what}: target {all}, measured {measured:.2?} Mbit/s, {:+.1} %",
                100.0 * error
            );
            let is_held = |rate: f64, target: f64| (rate / target - 1.0).abs() < ERROR;
            if is_held(sum, all) && measured.iter().all(|one| is_held(*one, each)) {
                assert!(
                    !said(&self.rig).contains("Traceback"),
                    "{}",
                    said(&self.rig)
                );
                return;
            }
            wrong.push(measured);
        }
        panic!("{what}: {all}: {wrong:?}\n{}", said(&self.rig));
    }

    /// Entries in its table.
    fn windows(&self) -> usize {
        table(&self.rig, "window").as_object().unwrap().len()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(!self.receivers.iter().any(raw::mptcp_fell_back));
        }
    }
}

#[test]
fn root_exec_example_rate() {
    let stand = Stand::new(1, "10.0.1.1", 1, false);
    stand.seen(|received| {
        for target in ["5", "2"] {
            let daemon = stand.run(&[target]);
            let rate = target.parse().unwrap();
            stand.held("a subflow", received, rate, rate);
            let shown = format!("target {target}.00, measured ");
            assert!(said(&stand.rig).contains(&shown), "{}", said(&stand.rig));
            assert_eq!(stand.windows(), 1);
            if target == "5" {
                daemon.end();
            } else {
                daemon.signal(Signal::SIGKILL);
                wait_for("its entries are taken back", LIMIT, || stand.windows() == 0);
            }
        }
        let measured = rates(received)[0];
        println!("without the program {measured:.2} Mbit/s");
        assert!(measured > 12.0, "{measured}");
    });
}

/// Two subflows have one rate together, whatever each of them carries.
#[test]
fn root_exec_example_rate_of_a_connection() {
    let stand = Stand::new(2, "10.0.1.1", 1, false);
    stand.seen(|received| {
        wait_for("two subflows", LIMIT, || subflows(&stand.rig.near) == 2);
        let daemon = stand.run(&["6", "connection"]);
        stand.held("a connection", received, 6.0, 6.0);
        assert_eq!(stand.windows(), 2);
        daemon.end();
    });
}

/// Two connections of one receiver, by the prefix of its address.
#[test]
fn root_exec_example_rate_of_a_prefix() {
    let stand = Stand::new(1, "10.0.1.1", 2, false);
    stand.seen(|received| {
        let daemon = stand.run(&["6", "24"]);
        stand.held("a prefix", received, 3.0, 6.0);
        daemon.end();
    });
}

#[test]
fn root_exec_example_rate_of_ipv6() {
    let stand = Stand::new(1, "fd00:0:0:1::1", 1, false);
    stand.seen(|received| {
        let daemon = stand.run(&["5", "64"]);
        stand.held("IPv6", received, 5.0, 5.0);
        assert_eq!(stand.windows(), 1);
        daemon.end();
    });
}

/// Who has opened the connection sends, and the program is at the server.
#[test]
fn root_exec_example_rate_of_uploads() {
    let stand = Stand::new(1, "10.0.1.1", 1, true);
    stand.seen(|received| {
        let daemon = stand.run(&["5"]);
        stand.held("an upload", received, 5.0, 5.0);
        daemon.end();
    });
}

/// A rate above what the link carries: nothing is held, and nothing is lost by it.
#[test]
fn root_exec_example_rate_above_the_link() {
    let stand = Stand::new(1, "10.0.1.1", 1, false);
    stand.seen(|received| {
        let before = rates(received)[0];
        let daemon = stand.run(&["30"]);
        let measured = rates(received)[0];
        println!("below 30 Mbit/s by itself: {before:.2}, then {measured:.2} Mbit/s");
        assert!(
            before < 20.0 && measured > 0.9 * before,
            "{before}: {measured}"
        );
        assert_eq!(stand.windows(), 0);
        assert!(
            !said(&stand.rig).contains("Traceback"),
            "{}",
            said(&stand.rig)
        );
        daemon.end();
    });
}

/// Ends connections when it is dropped.
struct ShutDown<'a>(&'a [TcpStream], &'a [TcpStream]);

impl Drop for ShutDown<'_> {
    fn drop(&mut self) {
        for stream in self.0.iter().chain(self.1) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
