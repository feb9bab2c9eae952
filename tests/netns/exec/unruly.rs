// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Programs that write nonsense, or too much, or do not read: others go on.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use super::stage::*;
use crate::raw;
use crate::rig::wait_for;

#[test]
fn root_exec_babblers_are_ended_and_others_go_on() {
    let rig = rig();
    policy(&rig);
    let path = socket(&rig);
    let path = path.to_str().unwrap();
    let quick = |client: &mut Client| {
        let start = Instant::now();
        ok(&client.ask(json!({ "cmd": "ping" })));
        start.elapsed()
    };
    let mut connection = Connection::open(&rig);
    for (name, text) in [
        ("garbage", "while True: print('x' * 100)"),
        ("long", "while True: sys.stdout.write('x' * 70000 + '\\n')"),
        ("endless", "while True: sys.stdout.write('x' * 70000)\n"),
        ("fast", "while True: say(id=1, cmd='ping')"),
    ] {
        let program = program(&rig, &format!("{name}.py"), text);
        let program = program.to_str().unwrap();
        let daemon = run(
            &rig,
            &[
                "--exec",
                program,
                "--socket",
                path,
                "--command-rate",
                "1000",
            ],
        );
        let mut client = Client::connect(&rig);
        let mut slowest = Duration::ZERO;
        if name == "endless" {
            // It is one line without an end, of which nothing is kept.
            std::thread::sleep(Duration::from_millis(500));
            connection.exchange(1 << 20);
            slowest = quick(&mut client);
            let status = rig
                .near
                .sh(&format!("cat /proc/{}/status", daemon.child.0.id()));
            let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
            let most: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            println!("{name}: {most} kB at most");
            assert!(most < 100_000, "{line}");
        } else {
            connection.exchange(1 << 20);
            wait_for("it is ended", LIMIT, || {
                slowest = slowest.max(quick(&mut client));
                std::thread::sleep(Duration::from_millis(10));
                said(&rig).contains("is ended: too many")
            });
        }
        println!("{name}: the slowest answer to another program took {slowest:?}");
        assert!(slowest < Duration::from_millis(500), "{name}: {slowest:?}");
        daemon.end();
        connection.exchange(1 << 20);
    }
    assert!(!raw::mptcp_fell_back(&connection.near));
    assert_eq!(rig.status()["reasons"], json!({}));
}

#[test]
fn root_exec_who_does_not_read_loses_lines() {
    let rig = rig();
    policy(&rig);
    let path = socket(&rig);
    let path = path.to_str().unwrap();
    let daemon = run(&rig, &["--socket", path, "--interval", "10ms"]);
    let mut deaf = Client::connect(&rig);
    ok(&deaf
        .ask(json!({ "cmd": "subscribe", "events": ["connection", "subflow"], "metrics": true })));
    let id = "x".repeat(60_000);
    for _ in 0..120 {
        deaf.say(&json!({ "id": id, "cmd": "ping" }).to_string());
    }
    let mut other = Client::connect(&rig);
    ok(&other.ask(json!({ "cmd": "subscribe", "metrics": true })));
    let mut connection = Connection::open(&rig);
    connection.exchange(1 << 20);
    let start = Instant::now();
    ok(&other.add("marks", NONE, json!(1)));
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    // It reads again, and is told.
    let mut answers = 0;
    let lost = loop {
        let line = deaf.next();
        answers += u64::from(line["id"].is_string());
        if line["event"] == "lost" {
            break line["lines"].as_u64().unwrap();
        }
        assert!(answers < 120, "nothing was lost");
    };
    println!("{answers} answers, {lost} lines lost");
    assert!(lost > 10, "{lost}");
    daemon.end();
    connection.exchange(1 << 20);
}
