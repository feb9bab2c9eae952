// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The examples of docs/exec.md do what they say, on two paths.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::stage::*;
use crate::mptcp::subflows;
use crate::rig::Rig;
use crate::rig::wait_for;
use crate::ss;

/// Puts the policy of an example in force at both links, and the program where everybody may run
/// it; its path.
fn example(rig: &Rig, name: &str, policy: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let mut policy: Value = serde_json::from_str(policy).unwrap();
    for chain in policy["chains"].as_array_mut().unwrap() {
        chain["interfaces"] = json!(["p0", "p1"]);
    }
    if !policy["track"].is_null() {
        policy["track"] = json!(["p0", "p1"]);
    }
    let path = rig.folder.write("example.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let path = rig.folder.write(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn root_exec_example_path_manager() {
    let rig = rig();
    let program = example(
        &rig,
        "path_manager.py",
        include_str!("../../../examples/exec/path_manager.json"),
        include_str!("../../../examples/exec/path_manager.py"),
    );
    let daemon = run(&rig, &["--exec", &program, "--", "300000"]);
    let mut connection = Connection::open(&rig);
    connection.exchange(50_000);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(subflows(&rig.near), 1, "a subflow of a small connection");
    assert_eq!(table(&rig, "grown"), json!([]));
    connection.exchange(200_000);
    wait_for("it is in the table", LIMIT, || {
        table(&rig, "grown").as_array().unwrap().len() == 1
    });
    let start = Instant::now();
    wait_for("a further subflow", LIMIT, || {
        pass(&mut connection.far, &mut connection.near, 20_000);
        subflows(&rig.near) == 2
    });
    println!("a further subflow {:?} behind the entry", start.elapsed());
    drop(connection);
    wait_for("nothing", LIMIT, || table(&rig, "grown") == json!([]));
    let (_, err) = daemon.end();
    assert!(!err.contains("Traceback"), "{err}");
}

/// Whether the kernel takes the subflow on a link for backup, since the other end asked.
fn is_backup(rig: &Rig, link: usize) -> bool {
    ss::is_backup(&rig.near, &format!("dst 10.77.{link}.1 dport = :{PORT}"))
}

#[test]
fn root_exec_example_ecf() {
    let rig = rig();
    // A fast path and a slow one: what waits there makes it slower.
    rig.near.sh(
        "tc qdisc add dev p0 root tbf rate 40mbit burst 32k latency 100ms && \
         tc qdisc add dev p1 root tbf rate 4mbit burst 8k latency 300ms",
    );
    let program = example(
        &rig,
        "ecf.py",
        include_str!("../../../examples/exec/ecf.json"),
        include_str!("../../../examples/exec/ecf.py"),
    );
    let mut connection = Connection::open(&rig);
    wait_for("two subflows", LIMIT, || subflows(&rig.near) == 2);
    for _ in 0..4 {
        pass(&mut connection.near, &mut connection.far, 1 << 19);
    }
    assert!(
        !is_backup(&rig, 0) && !is_backup(&rig, 1),
        "without the program"
    );
    // A busy machine sees less of what waits.
    let daemon = run(&rig, &["--exec", &program, "--interval", "20ms"]);
    let start = Instant::now();
    // While it sends: what the program wants changes with what waits.
    let sends = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while sends.load(Ordering::Relaxed) {
                pass(&mut connection.near, &mut connection.far, 1 << 20);
            }
        });
        let end = Instant::now() + 3 * LIMIT;
        while !is_backup(&rig, 1) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        sends.store(false, Ordering::Relaxed);
    });
    assert!(
        start.elapsed() < 3 * LIMIT,
        "the slow path was never backup"
    );
    println!("backup after {:?}", start.elapsed());
    let backup = table(&rig, "backup");
    // The program goes on deciding: what it wants now may be otherwise.
    let mut keys = backup.as_object().unwrap().keys();
    assert!(keys.any(|key| key.starts_with("10.77.1.1:")), "{backup}");
    connection.exchange(1 << 20);
    let (_, err) = daemon.end();
    assert!(!err.contains("Traceback"), "{err}");
    assert_eq!(table(&rig, "backup"), json!({}));
    connection.exchange(1 << 20);
}
