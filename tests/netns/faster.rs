// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The policy `examples/scheduler.json` on a host that sends by two paths of unlike delay: bursts
//! keep off the slow one, bulk takes both; and the program `examples/exec/ecf.py`, which does so from
//! user space.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::raw;
use super::reader::Reader;
use super::rig::Rig;
use super::rig::wait_for;
use super::ss;

const PORT: u16 = 5001;
const LIMIT: Duration = Duration::from_secs(10);
const BURST: usize = 200_000;
const BULK: usize = 7 << 20;
/// What a policy may make of the time of bulk, at most; on the fast path alone it takes 1.2 times as
/// long.
const HARM: f64 = 1.15;
/// Pause between two bursts: both ends are idle.
const PAUSE: Duration = Duration::from_millis(200);

/// Links between a client and a server that sends; one way.
fn lab() -> Lab {
    let link = |n: u8, delay: &str, queue: &str| {
        json!({ "name": format!("path{n}"), "rate": "20Mbit", "delay": delay, "queue": queue,
            "a": { "host": "client", "dev": format!("c{n}"), "addresses": [format!("10.0.{n}.2/24")],
                "gateways": [format!("10.0.{n}.1")] },
            "b": { "host": "server", "dev": format!("s{n}"), "addresses": [format!("10.0.{n}.1/24")] } })
    };
    let limits = json!({ "subflows": 4, "add_addr_accepted": 4 });
    let second = json!([{ "address": "10.0.2.1", "flags": ["signal"] }]);
    let text = json!({ "version": 1,
        "hosts": { "client": { "mptcp": { "limits": limits } },
            "server": { "mptcp": { "limits": limits, "endpoints": second } } },
        "links": [link(1, "10ms", "64KiB"), link(2, "100ms", "128KiB")] });
    Lab::from_json(&text.to_string()).unwrap()
}

/// A connection over both paths.
struct Stand {
    // Removed first: the namespaces are its own, the rig finds them gone.
    _lab: Lab,
    rig: Rig,
    server: TcpStream,
    client: TcpStream,
    /// Subflows join here.
    _listener: TcpListener,
}

impl Stand {
    fn new(congestion: Option<&str>) -> Self {
        Self::prepared(congestion, |_| {})
    }

    /// Something is done to the hosts before the connection is opened.
    fn prepared(congestion: Option<&str>, prepare: impl FnOnce(&Rig)) -> Self {
        let lab = lab();
        let rig = Rig::in_lab(&lab, "server", "client");
        prepare(&rig);
        let any = "0.0.0.0".parse().unwrap();
        let listen = || TcpListener::from(raw::mptcp_listener(any, PORT));
        let listener = rig.near.within(listen);
        let to: SocketAddr = format!("10.0.1.1:{PORT}").parse().unwrap();
        let client = rig.far.within(|| TcpStream::from(raw::mptcp_connect(to)));
        let (server, _) = listener.accept().unwrap();
        if let Some(name) = congestion {
            raw::set_congestion(&server, name);
        }
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        Self {
            rig,
            server,
            client,
            _listener: listener,
            _lab: lab,
        }
    }

    /// Sends to the client; how long until all was there.
    fn send(&mut self, bytes: usize) -> Duration {
        self.send_while(bytes, |_| {})
    }

    /// Something happens meanwhile.
    fn send_while(&mut self, bytes: usize, meanwhile: impl FnOnce(&Rig) + Send) -> Duration {
        use std::io::Read as _;
        use std::io::Write as _;

        let start = Instant::now();
        let mut got = vec![0; bytes];
        let Self {
            rig,
            server,
            client,
            ..
        } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| server.write_all(&vec![7; bytes]).unwrap());
            scope.spawn(|| meanwhile(rig));
            client.read_exact(&mut got).unwrap();
        });
        assert!(got.iter().all(|byte| *byte == 7));
        start.elapsed()
    }

    /// Waits until both paths are in use.
    fn join(&mut self) {
        wait_for("two subflows", LIMIT, || {
            self.send(BURST);
            self.sent()[1] > 0
        });
    }

    /// Bytes that the server has sent by each path so far.
    fn sent(&self) -> [u64; 2] {
        [1, 2].map(|path| {
            let line = format!("ss -Htino state established src 10.0.{path}.1 sport = :{PORT}");
            let all = self.rig.near.sh(&line);
            let words = all.split_whitespace();
            let mut sent = words.filter_map(|word| word.strip_prefix("bytes_sent:"));
            sent.next().map_or(0, |n| n.parse().unwrap())
        })
    }

    /// Several transfers with pauses: the slow path's share of what was sent.
    fn sends(&mut self, what: &str, count: usize, bytes: usize) -> f64 {
        self.times(what, count, bytes).1
    }

    /// How long each took besides.
    fn times(&mut self, what: &str, count: usize, bytes: usize) -> (Vec<Duration>, f64) {
        let before = self.sent();
        let mut times: Vec<Duration> = (0..count)
            .map(|_| {
                std::thread::sleep(PAUSE);
                self.send(bytes)
            })
            .collect();
        let after = self.sent();
        times.sort();
        let by = [0, 1].map(|path| after[path] - before[path]);
        let share = by[1] as f64 / (by[0] + by[1]) as f64;
        println!(
            "{what}: median {:?}, slow path {share:.2}",
            times[count / 2]
        );
        (times, share)
    }

    /// Seconds that bulk takes: the least of three, as a machine that others use disturbs it.
    fn bulk(&mut self, what: &str) -> (f64, f64) {
        let (times, share) = self.times(what, 3, BULK);
        (times[0].as_secs_f64(), share)
    }

    /// Whether bulk takes both paths, and hardly longer than the seconds that it takes without a
    /// policy.
    fn is_unharmed(&mut self, what: &str, without: f64) -> bool {
        let (with, share) = self.bulk(what);
        println!("times: ratio {:.2}", with / without);
        share > 0.1 && with < HARM * without
    }

    fn apply(&self, by: &str) {
        apply(&self.rig, by);
    }

    fn run(&self) -> Reader {
        Reader::start(&self.rig, "run", &["run"])
    }

    /// Sends bursts until the slow path is backup.
    fn until_backup(&mut self) {
        wait_for("the slow path is backup", LIMIT, || {
            std::thread::sleep(PAUSE);
            self.send(BURST);
            self.is_backup()
        });
        std::thread::sleep(PAUSE);
    }

    /// Whether the server takes the slow path for backup, since it was told so.
    fn is_backup(&self) -> bool {
        ss::is_backup(&self.rig.near, &format!("src 10.0.2.1 sport = :{PORT}"))
    }
}

/// Puts an example's policy in force at the server.
fn put(rig: &Rig, text: &str, change: impl FnOnce(&mut Value)) {
    let mut policy: Value = serde_json::from_str(text).unwrap();
    policy["track"] = json!(["s*"]);
    for chain in policy["chains"].as_array_mut().unwrap() {
        chain["interfaces"] = json!(["s*"]);
    }
    change(&mut policy);
    let path = rig.folder.write("scheduler.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
}

fn apply(rig: &Rig, by: &str) {
    put(
        rig,
        include_str!("../../examples/scheduler.json"),
        |policy| policy["selectors"]["waits"]["wait_for_faster"]["by"] = by.into(),
    );
}

#[test]
fn root_faster_path_for_bursts_all_for_bulk() {
    let mut stand = Stand::new(None);
    stand.join();
    let without = stand.sends("bursts, no policy", 2, BURST);
    assert!(without > 0.15, "{without}");

    stand.apply("ecf");
    let _daemon = stand.run();
    // The first one tells it.
    wait_for("the slow path is backup", LIMIT, || {
        stand.send(BURST);
        stand.is_backup()
    });
    std::thread::sleep(PAUSE);
    let with = stand.sends("bursts, ecf", 3, BURST);
    assert!(with < 0.02, "{with}");
    let bulk = stand.sends("bulk, ecf", 1, 7 << 20);
    assert!(bulk > 0.04, "{bulk}");
    wait_for("the slow path is backup again", LIMIT, || {
        std::thread::sleep(PAUSE);
        stand.send(BURST / 10);
        stand.is_backup()
    });

    // With buffers as large as these the slow path blocks nobody.
    stand.apply("blest");
    wait_for("the slow path is no backup", LIMIT, || {
        std::thread::sleep(PAUSE);
        stand.send(BURST);
        !stand.is_backup()
    });
    let told = counter(&stand.rig.near, "MPTcpExtMPPrioRx");
    println!("{told} MP_PRIO");
    assert!(told < 30, "{told}");
    let status = stand.rig.status();
    let reasons = status["reasons"].to_string();
    assert!(!reasons.contains("map_full"), "{reasons}");

    stand.rig.run(&["delete"]).ok();
    let after = stand.sends("bursts, removed", 2, BURST);
    assert!(after > 0.1, "{after}");
    assert!(!raw::mptcp_fell_back(&stand.client));
}

/// Bulk is hardly slower than without the policy, though bursts keep off the slow path.
#[test]
fn root_faster_does_no_harm_to_bulk() {
    assert!(
        (0..3).any(|_| does_no_harm_to_bulk()),
        "bulk is harmed each time"
    );
}

/// Of bulk with and without a policy, which others on the machine disturb: whether it is unharmed.
fn does_no_harm_to_bulk() -> bool {
    let mut stand = Stand::new(Some("cubic"));
    stand.join();
    let (without, _) = stand.bulk("bulk, no policy");
    stand.apply("ecf");
    let daemon = stand.run();
    stand.until_backup();
    let is_unharmed = stand.is_unharmed("bulk, ecf", without);
    daemon.end();
    assert!(!raw::mptcp_fell_back(&stand.client));
    is_unharmed
}

/// `run` is killed in the midst of bulk and of bursts: what is sent arrives, the slow path stays or
/// becomes backup, and takes its part again when another one is there.
#[test]
fn root_faster_without_run_and_changed_under_way() {
    let soon = Duration::from_millis(50);
    let mut stand = Stand::new(None);
    stand.join();
    stand.apply("ecf");
    for (what, bytes) in [("bulk", BULK), ("a burst", BURST)] {
        let daemon = stand.run();
        stand.until_backup();
        let at = if bytes == BULK { 10 * soon } else { soon };
        stand.send_while(bytes, |_| {
            std::thread::sleep(at);
            daemon.signal(Signal::SIGKILL);
        });
        drop(daemon);
        stand.until_backup();
        let share = stand.sends(&format!("bulk, run killed in {what}"), 1, BULK);
        assert!(share < 0.02, "{share}");
        let daemon = stand.run();
        let share = stand.sends("bulk, run again", 1, BULK);
        assert!(share > 0.04, "{share}");
        daemon.end();
    }
    // Changed while it sends: another rule, none, and the first one again.
    let _daemon = stand.run();
    stand.until_backup();
    for by in ["blest", "ecf"] {
        stand.send_while(BULK, |rig| {
            std::thread::sleep(10 * soon);
            apply(rig, by);
        });
    }
    stand.until_backup();
    assert!(!raw::mptcp_fell_back(&stand.client));
}

/// A receiver with little room: what is under way on the slow path keeps the fast one waiting, until
/// BLEST keeps data off it.
#[test]
fn root_faster_blest_with_small_buffers() {
    let mut stand = Stand::prepared(Some("cubic"), |rig| {
        rig.far
            .sh("sysctl -qw net.ipv4.tcp_rmem='4096 131072 262144'");
    });
    stand.join();
    let (without, _) = stand.bulk("bulk, small buffers, no policy");
    stand.apply("blest");
    let daemon = stand.run();
    wait_for("the slow path is backup", LIMIT, || {
        stand.send(BURST);
        stand.is_backup()
    });
    let (with, share) = stand.bulk("bulk, small buffers, blest");
    println!("times: ratio {:.2}", with / without);
    assert!(
        share < 0.1 && with < 0.8 * without,
        "{share}: {without} s, {with} s"
    );
    daemon.end();
    assert!(!raw::mptcp_fell_back(&stand.client));
}

/// The program ecf.py with its rounds of 100 ms: bursts keep off the slow path, bulk takes both.
#[test]
fn root_faster_by_a_program() {
    assert!((0..3).any(|_| by_a_program()), "bulk is harmed each time");
}

/// Of bulk with and without a policy, which others on the machine disturb: whether it is unharmed.
fn by_a_program() -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    let mut stand = Stand::new(Some("cubic"));
    stand.join();
    let (without, _) = stand.bulk("bulk, no policy");
    let before = stand.sends("bursts, no policy", 5, BURST);
    let rig = &stand.rig;
    put(rig, include_str!("../../examples/exec/ecf.json"), |_| {});
    let text = include_str!("../../examples/exec/ecf.py");
    let path = rig.folder.write("ecf.py", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Reader::start(rig, "run", &["run", "--exec", path.to_str().unwrap()]);
    stand.until_backup();
    let bursts = stand.sends("bursts, ecf.py", 10, BURST);
    assert!(bursts < before / 2.0, "{before}, {bursts}");
    let is_unharmed = stand.is_unharmed("bulk, ecf.py", without);
    let (_, err) = daemon.end();
    assert!(!err.contains("Traceback"), "{err}");
    assert!(!raw::mptcp_fell_back(&stand.client));
    is_unharmed
}

/// The figures of docs/policies.md: bursts and bulk without the policy and with it in turn, on
/// connections of their own.
#[test]
#[ignore = "a measurement of two minutes for each congestion control"]
fn root_faster_measured() {
    const ROUNDS: usize = 3;
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    for congestion in ["cubic", "bbr"] {
        let mut bursts = [Vec::new(), Vec::new()];
        let mut bulks = [Vec::new(), Vec::new()];
        for round in 0..2 * ROUNDS {
            let with = round % 2;
            let mut stand = Stand::new(Some(congestion));
            stand.join();
            let mut daemon = None;
            if with == 1 {
                stand.apply("ecf");
                daemon = Some(stand.run());
            }
            let what = format!("{congestion} {}", ["without", "with"][with]);
            stand.sends(&what, 2, BURST);
            bursts[with].extend(stand.times(&what, 10, BURST).0);
            bulks[with].extend(stand.times(&what, 1, 20 << 20).0);
            drop(daemon);
        }
        for (what, times, bytes) in [("bursts", bursts, BURST), ("bulk", bulks, 20 << 20)] {
            let [without, with] = times.map(|mut times| median(&mut times));
            println!(
                "{congestion}, {what} of {bytes} bytes: without {:.0} ms, with {:.0} ms, ratio {:.2}",
                without * 1e3,
                with * 1e3,
                with / without
            );
        }
    }
}

/// Nanoseconds for each packet at the server's ingress, by the kernel's own statistics, which are of
/// all programs of the machine meanwhile.
#[test]
#[ignore = "a measurement, which turns kernel.bpf_stats_enabled on"]
fn root_faster_cost() {
    const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
    /// Gives the setting back, also when an assertion fails.
    struct Setting(String);
    impl Drop for Setting {
        fn drop(&mut self) {
            let _ = std::fs::write(STATS, &self.0);
        }
    }
    let mut stand = Stand::new(Some("cubic"));
    stand.join();
    let _setting = Setting(std::fs::read_to_string(STATS).unwrap());
    std::fs::write(STATS, "1").unwrap();
    for what in ["tracked", "no selector", "blest", "ecf"] {
        match what {
            "tracked" | "no selector" => {
                let text = include_str!("../../examples/scheduler.json");
                put(&stand.rig, text, |policy| {
                    let chains = policy["chains"].as_array_mut().unwrap();
                    chains.remove(0);
                    chains[0]["select"] = json!({ "mptcp": {} });
                    if what == "tracked" {
                        chains.clear();
                    }
                    policy["selectors"] = json!({});
                });
            }
            by => stand.apply(by),
        }
        let daemon = stand.run();
        stand.send(BULK);
        let cost = |stand: &Stand| {
            let status = stand.rig.status();
            let all = status["attachments"].as_array().unwrap().iter();
            let at = all.filter(|a| a["hook"] == "tc-ingress");
            at.fold([0, 0], |sum, a| {
                let id = a["program"].as_u64().unwrap();
                let line = format!("bpftool -j prog show id {id}");
                let program: Value = serde_json::from_str(&stand.rig.near.sh(&line)).unwrap();
                let number = |name: &str| program[name].as_u64().unwrap_or(0);
                [sum[0] + number("run_time_ns"), sum[1] + number("run_cnt")]
            })
        };
        let before = cost(&stand);
        stand.send(3 * BULK);
        let after = cost(&stand);
        let [time, count] = [0, 1].map(|n| after[n] - before[n]);
        println!("{what}: {count} packets, {} ns each", time / count.max(1));
        daemon.end();
    }
}
