// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Measurements: how long a command takes into the kernel, and what rounds over many subflows
//! cost. What is printed is of this build; those in docs/exec.md are of a release build.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde_json::json;

use super::stage::*;
use crate::rig::Rig;
use crate::rig::sh;
use crate::rig::wait_for;

const COMMANDS: u32 = 1000;
/// What the median and the 99th percentile may be in the best of five rounds: with the time of the
/// answer, and of this test.
const LIMITS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(5)];
const SUBFLOWS: u32 = 10_000;
/// Seconds of CPU that `run` may take for a round that the program reads, in a debug build: how many
/// it reads depends on who else wants the CPU.
const MOST: f64 = 0.12;
/// Bytes of what way 0 has carried, in `struct emptcp_track_subflow`.
const BYTES: usize = 48;

/// More than what the connection has carried.
const MANY: u64 = 1_000_000;

/// A program that knows all subflows, and goes through them in every round.
const ROUNDS: &str = r#"
say(id=0, cmd="subscribe", metrics=True)
known, rounds = {}, 0
for line in sys.stdin:
    line = json.loads(line)
    if line.get("event") != "metrics":
        continue
    if line["reset"]:
        known.clear()
    for key in line["gone"]:
        known.pop(key, None)
    for s in line["subflows"]:
        known[s["subflow"]] = (s["from"]["bytes"] or 0) + (s["to"]["bytes"] or 0)
    if line["more"]:
        continue
    rounds += 1
    log("round", rounds, ":", len(known), "known", sum(1 for b in known.values() if b > MANY))
"#;

/// A map, by the name of its pin.
fn map(rig: &Rig, name: &str) -> MapHandle {
    let path = sh(&format!(
        "find {} -name {name} | head -n 1",
        rig.bpffs.path.display()
    ));
    MapHandle::from_pinned_path(PathBuf::from(path.trim())).unwrap()
}

#[test]
fn root_exec_cost_of_commands() {
    let rig = rig();
    policy(&rig);
    let path = socket(&rig);
    let daemon = run(&rig, &["--socket", path.to_str().unwrap()]);
    let mut client = Client::connect(&rig);
    ok(&client.add("marks", NONE, json!(0)));
    let marks = map(&rig, "marks");
    let key = marks.keys().next().unwrap();
    // Others use the machine, too.
    let rounds = [0, 1, 2, 3, 4].map(|round| {
        // No look at the map again and again: that would take the CPU from who writes it.
        let mut times: Vec<Duration> = (1..=COMMANDS)
            .map(|number| {
                let number = round * COMMANDS + number;
                let command = json!({ "cmd": "table_add", "table": "marks", "key": NONE,
                    "value": number, "id": number });
                let line = command.to_string();
                let start = Instant::now();
                client.say(&line);
                ok(&client.next());
                let took = start.elapsed();
                let value = marks.lookup(&key, MapFlags::ANY).unwrap().unwrap();
                assert_eq!(
                    value[..4],
                    number.to_ne_bytes(),
                    "answered before it is there"
                );
                took
            })
            .collect();
        times.sort();
        let [median, p99] = [50, 99].map(|part| times[times.len() * part / 100]);
        println!(
            "from the line to the answer behind the value, {COMMANDS} commands: median {median:?}, \
             p99 {p99:?}, most {:?}",
            times[times.len() - 1]
        );
        [median, p99]
    });
    for (place, limit) in LIMITS.into_iter().enumerate() {
        let best = rounds.iter().map(|round| round[place]).min().unwrap();
        assert!(best < limit, "{best:?}");
    }
    daemon.end();
}

/// Rounds that the program has seen.
fn rounds_of(said: &str) -> f64 {
    let mut words = said.rsplit("round ").next().unwrap().split_whitespace();
    words.next().unwrap().parse().unwrap()
}

/// Seconds of CPU that a process has taken.
fn cpu(process: &str) -> f64 {
    let stat = sh(&format!("cat /proc/{process}/stat"));
    let fields = stat.rsplit(") ").next().unwrap().split_whitespace();
    let ticks: Vec<f64> = fields.map(|f| f.parse().unwrap_or(0.0)).collect();
    (ticks[11] + ticks[12]) / 100.0
}

#[test]
fn root_exec_cost_of_many_subflows() {
    let rig = rig();
    policy(&rig);
    let program = program(&rig, "rounds.py", &format!("MANY = {MANY}\n{ROUNDS}"));
    let _connection = Connection::open(&rig);
    let subflows = map(&rig, "k-subflows");
    let first = subflows.keys().next().unwrap();
    let value = subflows.lookup(&first, MapFlags::ANY).unwrap().unwrap();
    let keys: Vec<Vec<u8>> = (0..SUBFLOWS)
        .map(|number| {
            let mut key = first.clone();
            // The last bytes of the address of one end.
            key[13..16].copy_from_slice(&number.to_be_bytes()[1..]);
            key
        })
        .collect();
    let count = |number: u64| {
        let mut value = value.clone();
        value[BYTES..BYTES + 8].copy_from_slice(&number.to_ne_bytes());
        value
    };
    for key in &keys {
        subflows.update(key, &count(1), MapFlags::ANY).unwrap();
    }
    let daemon = run(&rig, &["--exec", program.to_str().unwrap()]);
    let known = format!("{} known", SUBFLOWS + 2);
    wait_for("all of them are told", LIMIT, || {
        said(&rig).contains(&known)
    });
    let id = daemon.child.0.id().to_string();
    let child = sh("pgrep -f 'python3 .*[r]ounds.py'").trim().to_owned();
    let mut number = MANY;
    // Whether it takes no more than it may: with 0, 1000, all changed in each round.
    let mut is_cheap = |changed: usize| {
        let before = [&id, &child].map(|process| cpu(process));
        let (mut rounds, told) = (0, rounds_of(&said(&rig)));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            rounds += 1;
            number += 1;
            for key in &keys[..changed] {
                subflows.update(key, &count(number), MapFlags::ANY).unwrap();
            }
            let next = begin + Duration::from_millis(100) * rounds as u32;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let time = begin.elapsed().as_secs_f64();
        let after = [&id, &child].map(|process| cpu(process));
        let told = rounds_of(&said(&rig)) - told;
        let taken = [after[0] - before[0], after[1] - before[1]];
        println!(
            "{SUBFLOWS} subflows, {changed} change in 100 ms: run {:.1} %, program {:.1} % of a core; \
             {told} rounds in {time:.1} s, of {:.1} and {:.1} ms",
            100.0 * taken[0] / time,
            100.0 * taken[1] / time,
            1000.0 * taken[0] / told.max(1.0),
            1000.0 * taken[1] / told.max(1.0),
        );
        taken[0] < MOST * told.max(1.0)
    };
    for changed in [0, 1000, SUBFLOWS as usize] {
        // Who shares the CPU makes all slower: what costs too much does each time.
        assert!((0..3).any(|_| is_cheap(changed)), "{changed} change");
    }
    wait_for("all are told to have changed", LIMIT, || {
        said(&rig).contains(&format!("{known} {SUBFLOWS}\n"))
    });
    for key in &keys {
        subflows.delete(key).unwrap();
    }
    wait_for("they have gone", LIMIT, || {
        said(&rig).contains(": 2 known 0")
    });
    daemon.end();
}
