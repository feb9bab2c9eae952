// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The example disjoint.py on a host that sends by two paths: where both lead through one bottleneck
//! the later subflow becomes backup and stays so, where they are disjoint both stay in use.

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use serde_json::Value;
use serde_json::json;

use super::stage::*;
use crate::mptcp::counter;
use crate::raw;
use crate::rig::Rig;
use crate::rig::wait_for;
use crate::ss;

const TRIES: usize = 3;
/// Longer than a subflow is tried, even if the machine stalls.
const TRIAL: Duration = Duration::from_secs(5);
/// Both paths look alike, and one was tried as backup, by then.
const DECIDED: Duration = Duration::from_secs(11);

/// Two paths to a server that sends; of 20 Mbit/s together, or each.
fn lab(shared: bool) -> Lab {
    let link = |n: u8| {
        let mut link = json!({ "name": format!("path{n}"), "delay": "10ms",
            "a": { "host": "client", "dev": format!("c{n}"), "addresses": [format!("10.0.{n}.2/24")],
                "gateways": [format!("10.0.{n}.1")] },
            "b": { "host": "server", "dev": format!("s{n}"), "addresses": [format!("10.0.{n}.1/24")] } });
        if shared {
            link["bottleneck"] = json!("access");
        } else {
            link["rate"] = json!("20Mbit");
            link["queue"] = json!("64KiB");
        }
        link
    };
    let limits = json!({ "subflows": 4, "add_addr_accepted": 4 });
    let second = json!([{ "address": "10.0.2.1", "flags": ["signal"] }]);
    let mut text = json!({ "version": 1,
        "hosts": { "client": { "mptcp": { "limits": limits } },
            "server": { "mptcp": { "limits": limits, "endpoints": second } } },
        "links": [link(1), link(2)] });
    if shared {
        text["bottlenecks"] = json!({ "access": { "rate": "20Mbit", "queue": "64KiB" } });
    }
    Lab::from_json(&text.to_string()).unwrap()
}

/// Puts the example's policy in force at the server, and the program where everybody may run it.
fn example(rig: &Rig) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let text = include_str!("../../../examples/exec/disjoint.json");
    let mut policy: Value = serde_json::from_str(text).unwrap();
    policy["track"] = json!(["s*"]);
    policy["chains"][0]["interfaces"] = json!(["s*"]);
    let path = rig.folder.write("disjoint.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let text = include_str!("../../../examples/exec/disjoint.py");
    let path = rig.folder.write("disjoint.py", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the server's kernel says of the subflow by a path.
fn socket(rig: &Rig, path: u8) -> String {
    rig.near.sh(&format!(
        "ss -Htino state established src 10.0.{path}.1 sport = :{PORT}"
    ))
}

/// Whether it takes that for backup.
fn is_backup(rig: &Rig, path: u8) -> bool {
    ss::is_backup(&rig.near, &format!("src 10.0.{path}.1 sport = :{PORT}"))
}

/// Bytes that it has sent by both paths so far.
fn sent(rig: &Rig) -> [u64; 2] {
    [1, 2].map(|path| {
        let all = socket(rig, path);
        let mut words = all.split_whitespace();
        let sent = words.find_map(|word| word.strip_prefix("bytes_sent:"));
        sent.map_or(0, |n| n.parse().unwrap())
    })
}

/// Share of the second path in what is sent from now on.
fn share(rig: &Rig) -> f64 {
    let before = sent(rig);
    std::thread::sleep(Duration::from_millis(1500));
    let after = sent(rig);
    let by = [0, 1].map(|path| (after[path] - before[path]) as f64);
    by[1] / (by[0] + by[1])
}

/// Downloads until what is to be seen meanwhile is right, TRIES times at the most: the program goes by
/// rates that the machine disturbs, and misses one shared bottleneck of some twenty.
#[track_caller]
fn download(shared: bool, args: &[&str], look: impl Fn(&Rig, Instant) -> Result<(), String>) {
    let mut wrong = Vec::new();
    while wrong.len() < TRIES {
        match try_download(shared, args, &look) {
            Ok(()) => return,
            Err(why) => wrong.push(why),
        }
    }
    panic!("{wrong:#?}");
}

fn try_download(
    shared: bool,
    args: &[&str],
    look: impl Fn(&Rig, Instant) -> Result<(), String>,
) -> Result<(), String> {
    let lab = lab(shared);
    let rig = Rig::in_lab(&lab, "server", "client");
    let program = example(&rig);
    let any = "0.0.0.0".parse().unwrap();
    let listen = || TcpListener::from(raw::mptcp_listener(any, PORT));
    let listener = rig.near.within(listen);
    let daemon = run(&rig, &[&["--exec", &program, "--"], args].concat());
    let to: SocketAddr = format!("10.0.1.1:{PORT}").parse().unwrap();
    let mut client = rig.far.within(|| TcpStream::from(raw::mptcp_connect(to)));
    let (mut server, _) = listener.accept().unwrap();
    raw::set_congestion(&server, "cubic");
    server.set_write_timeout(Some(LIMIT)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let end = client.try_clone().unwrap();
    let sends = &AtomicBool::new(true);
    let seen = std::thread::scope(|scope| {
        scope.spawn(move || {
            while sends.load(Ordering::Relaxed) && server.write_all(&[7; 16384]).is_ok() {}
        });
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(1..) = client.read(&mut buffer) {}
        });
        // Its end, also when an assertion fails: the threads above would be waited for.
        let _end = End(sends);
        wait_for("two subflows", LIMIT, || sent(&rig)[1] > 0);
        look(&rig, Instant::now())
    });
    assert!(!said(&rig).contains("Traceback"), "{}", said(&rig));
    assert!(!raw::mptcp_fell_back(&end));
    daemon.end();
    assert_eq!(table(&rig, "backup"), json!({}));
    // Before the rig, which finds the namespaces gone.
    drop(lab);
    seen
}

/// That what was seen is so.
fn is_right(right: bool, seen: String) -> Result<(), String> {
    println!("{seen}");
    right.then_some(()).ok_or(seen)
}

/// Ends what is sent when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn root_exec_example_disjoint_shared() {
    download(true, &[], |rig, start| {
        while !is_backup(rig, 2) && start.elapsed() < 2 * LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        let found = start.elapsed();
        std::thread::sleep(TRIAL);
        let share = share(rig);
        assert!(counter(&rig.near, "MPTcpExtMPPrioRx") >= 1);
        is_right(
            is_backup(rig, 2) && !is_backup(rig, 1) && share < 0.02,
            format!("tried {found:?} after it joined; then a share of {share:.3}"),
        )
    });
}

#[test]
fn root_exec_example_disjoint_disjoint() {
    download(false, &[], |rig, start| {
        let mut tried = false;
        while start.elapsed() < DECIDED {
            std::thread::sleep(Duration::from_millis(100));
            tried |= is_backup(rig, 2);
        }
        let share = share(rig);
        is_right(
            !is_backup(rig, 1) && !is_backup(rig, 2) && share > 0.3,
            format!("tried: {tried}; then a share of {share:.3}"),
        )
    });
}

/// Declared: at once, also where it is not true.
#[test]
fn root_exec_example_disjoint_declared() {
    let args = ["--group", "10.0.1.0/24,10.0.2.1", "--costly", "10.0.1.0/24"];
    download(false, &args, |rig, start| {
        wait_for("the costly subflow is backup", LIMIT, || is_backup(rig, 1));
        let found = start.elapsed();
        let share = share(rig);
        is_right(
            !is_backup(rig, 2) && share > 0.95,
            format!("backup {found:?} after the second one joined; then a share of {share:.3}"),
        )
    });
}
