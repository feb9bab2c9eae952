// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The example overflow.py at a client with a cheap link and a costly one: what the cheap one
//! carries alone leaves the other idle, what is more flows over, and then it is idle again; in
//! downloads and uploads.

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
use crate::pair;
use crate::raw;
use crate::rig::Rig;
use crate::rig::often;
use crate::rig::wait_for;

/// How often a phase is looked at until it is as it should be: the program goes by times that a
/// machine which stalls disturbs.
const TRIES: usize = 3;
/// Bytes that are written at once, and as often as to come to a rate.
const CHUNK: usize = 10_000;
/// bytes/s; of 20 Mbit/s a fifth, and more than there is.
const LITTLE: u64 = 500_000;
const ALL: u64 = u64::MAX;

/// Both of 20 Mbit/s and 20 ms.
fn lab() -> Lab {
    let link = |n: u8, dev: &str| {
        json!({ "name": format!("path{n}"), "rate": "20Mbit", "delay": "10ms", "queue": "64KiB",
            "a": { "host": "client", "dev": dev, "addresses": [format!("10.0.{n}.2/24")],
                "gateways": [format!("10.0.{n}.1")] },
            "b": { "host": "server", "dev": format!("s{n}"), "addresses": [format!("10.0.{n}.1/24")] } })
    };
    let limits = json!({ "subflows": 4, "add_addr_accepted": 4 });
    let second = json!([{ "address": "10.0.2.1", "flags": ["signal"] }]);
    let text = json!({ "version": 1,
        "hosts": { "client": { "mptcp": { "limits": limits } },
            "server": { "mptcp": { "limits": limits, "endpoints": second } } },
        "links": [link(1, "wlan0"), link(2, "wwan0")] });
    Lab::from_json(&text.to_string()).unwrap()
}

/// Puts the example in force as it is, and the program where everybody may run it.
fn example(rig: &Rig) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let text = include_str!("../../../examples/exec/overflow.json");
    let policy: Value = serde_json::from_str(text).unwrap();
    let path = rig.folder.write("overflow.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let text = include_str!("../../../examples/exec/overflow.py");
    let path = rig.folder.write("overflow.py", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Bytes of frames that an end has sent by both links.
fn sent(lab: &Lab, from: &str) -> [u64; 2] {
    let all = lab.report().directions;
    ["path1", "path2"].map(|link| {
        let direction = all.iter().find(|d| d.link == link && d.from == from);
        direction.unwrap().bytes
    })
}

/// What flows meanwhile, Mbit/s by each link.
fn rates(lab: &Lab, from: &str, time: Duration) -> [f64; 2] {
    let (before, start) = (sent(lab, from), Instant::now());
    std::thread::sleep(time);
    let (after, took) = (sent(lab, from), start.elapsed().as_secs_f64());
    [0, 1].map(|n| (after[n] - before[n]) as f64 * 8e-6 / took)
}

/// Writes so many bytes/s, 0: ends.
fn offer(mut to: TcpStream, rate: &AtomicU64) {
    let mut next = Instant::now();
    loop {
        let rate = rate.load(Ordering::Relaxed);
        if rate == 0 || to.write_all(&[7; CHUNK]).is_err() {
            return;
        }
        next += Duration::from_secs_f64(CHUNK as f64 / rate as f64);
        match next.checked_duration_since(Instant::now()) {
            Some(pause) => std::thread::sleep(pause),
            None => next = Instant::now(),
        }
    }
}

/// Ends what is sent when it is dropped.
struct End<'a>(&'a AtomicU64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

fn flows_over(upload: bool) {
    let lab = lab();
    let rig = Rig::in_lab(&lab, "client", "server");
    let program = example(&rig);
    let any = "0.0.0.0".parse().unwrap();
    let listener = (rig.far).within(|| TcpListener::from(raw::mptcp_listener(any, PORT)));
    // Of a download the client sees no queue: it has to be told the rate.
    let given: &[&str] = if upload { &[] } else { &["--", "--rate", "16"] };
    let daemon = run(&rig, &[&["--exec", &program], given].concat());
    let to: SocketAddr = format!("10.0.1.1:{PORT}").parse().unwrap();
    let client = rig.near.within(|| TcpStream::from(raw::mptcp_connect(to)));
    let (server, _) = listener.accept().unwrap();
    // As a request, and what answers it at once.
    pair::send(&client, &server, &[7; 1_000]);
    pair::send(&server, &client, &[7; 1_000]);
    let [from, mut to, end] = match upload {
        true => [&client, &server, &client].map(|s| s.try_clone().unwrap()),
        false => [&server, &client, &client].map(|s| s.try_clone().unwrap()),
    };
    raw::set_congestion(&from, "cubic");
    from.set_write_timeout(Some(LIMIT)).unwrap();
    to.set_read_timeout(Some(LIMIT)).unwrap();
    let sender = if upload { "client" } else { "server" };
    let rate = &AtomicU64::new(LITTLE);
    std::thread::scope(|scope| {
        scope.spawn(move || offer(from, rate));
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(1..) = to.read(&mut buffer) {}
        });
        // Its end, also when an assertion fails: the threads above would be waited for.
        let _end = End(rate);
        wait_for("two subflows", LIMIT, || subflows(&rig.near) == 2);
        let seconds = Duration::from_secs;
        let phase = |what: &str, offered: u64, right: &dyn Fn([f64; 2]) -> bool| {
            rate.store(offered, Ordering::Relaxed);
            let mut seen = Vec::new();
            for _ in 0..TRIES {
                // Until it has noticed.
                std::thread::sleep(seconds(4));
                let rates = rates(&lab, sender, seconds(3));
                println!("upload {upload}, {what}: {rates:.2?} Mbit/s");
                if right(rates) {
                    return;
                }
                seen.push(rates);
            }
            panic!("{what}: {seen:.2?} Mbit/s; {}", said(&rig));
        };
        let idle = |rates: [f64; 2]| rates[1] < 0.1 && rates[0] > 3.5;
        let over = |rates: [f64; 2]| rates[0] > 12.0 && rates[1] > 10.0;
        phase("little", LITTLE, &idle);
        assert_eq!(table(&rig, "costly"), json!({}));
        phase("all", ALL, &over);
        // The decision is the same for both: once is enough, but where there is time.
        if often(!upload, true) {
            phase("little again", LITTLE, &idle);
            phase("all again", ALL, &over);
        }
        // The policy says what is so without the program.
        daemon.signal(Signal::SIGKILL);
        let alone = |rates: [f64; 2]| rates[0] > 12.0 && rates[1] < 0.5;
        phase("all, without the program", ALL, &alone);
        assert_eq!(table(&rig, "costly"), json!({}));
    });
    assert!(!said(&rig).contains("Traceback"), "{}", said(&rig));
    assert!(!raw::mptcp_fell_back(&end));
    // Before the rig, which finds the namespaces gone.
    drop(lab);
}

#[test]
fn root_exec_example_overflow_of_a_download() {
    flows_over(false);
}

#[test]
fn root_exec_example_overflow_of_an_upload() {
    flows_over(true);
}
