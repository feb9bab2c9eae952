// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What examples/exec/disjoint.py decides: on series that are made up, and of declared groups.

use std::process::Command;

use serde_json::Value;
use serde_json::json;

use super::python;
use super::root;

/// Suspicion and trial, on queues and rates of a model.
const DISJOINT: &str = r#"
import random, statistics, sys
sys.dont_write_bytecode = True
sys.path.insert(0, "examples/exec")
from disjoint import ALIKE, MEASURE, PAUSE, ROUNDS, SETTLE, Subflow, alike, step

def walk(chance, keeps):
    """A queue of up to some 25 ms that forgets all but this share of itself from round to round."""
    delay = 0.0
    while True:
        delay = keeps * delay + (1 - keeps**2) ** 0.5 * chance.gauss(0, 0.006)
        yield 0.012 + delay

def suspected(seed, keeps, common):
    chance = random.Random(seed)
    first, second = walk(chance, keeps), walk(chance, keeps)
    a = [(1, 0.02 + next(first), chance.random() < 0.2) for _ in range(ROUNDS)]
    b = [(1, 0.06 + (a[n][1] - 0.02 if common else next(second)) + chance.gauss(0, 0.002),
          chance.random() < 0.2) for n in range(ROUNDS)]
    return alike(a, b) >= ALIKE

def figure(keeps, common):
    return sum(suspected(seed, keeps, common) for seed in range(1000)) / 1000

for keeps, most in (0, 0.01), (0.5, 0.03), (0.9, 0.2):
    missed, wrong = 1 - figure(keeps, True), figure(keeps, False)
    print(f"a queue keeps {keeps} from round to round: missed {missed:.1%}, suspected {wrong:.1%}")
    assert missed < 0.05 and wrong < most, (keeps, missed, wrong)
# Nothing moves, nothing is lost: nothing is known.
still = [(1, 0.02, 0)] * ROUNDS
assert alike(still, still) == 0
# A policer: only losses tell.
lost = [(1, 0.02, int(n % 7 == 0)) for n in range(ROUNDS)]
assert alike(lost, lost) > 0.99 and alike(lost, lost[1:] + lost[:1]) < ALIKE

def run(seconds, shared, seed=1, paths=2, noise=0.2, part=1, drifts=8):
    """Phases of the last subflow, round by round; queues always go together, as those of one
    sender may do on equal links. shared: whether the last path ends in the first one, by time; else
    it has this part of the rate of each other one."""
    chance, flows, phases = random.Random(seed), [Subflow() for _ in range(paths)], []
    queue, drift = walk(chance, 0.9), walk(chance, 0.98)
    for n in range(10 * seconds):
        last, delay, rate = flows[-1], next(queue), 2.5e6 * max(0.1, 1 + drifts * (next(drift) - 0.012))
        used = [f.phase in ("used", "probed") for f in flows]
        for f, is_used in zip(flows, used):
            splits = shared(n / 10) and f in (flows[0], last) and used[0] and used[-1]
            own = rate if f is not last or splits else part * rate
            own *= is_used / (1 + splits) * max(0, chance.gauss(1, noise))
            f.rounds.append((own, 0.02 + delay + chance.gauss(0, 0.001), 0))
        step(flows, n / 10)
        phases.append([f.phase for f in flows])
    return phases

def changes(phases, which=-1):
    phases = [p[which] for p in phases]
    steps = enumerate(zip(phases, phases[1:]), 1)
    return [(phases[0], 0)] + [(b, n) for n, (a, b) in steps if a != b]

def names(phases, which=-1):
    return [name for name, _ in changes(phases, which)]

trial = SETTLE + MEASURE
found = changes(run(40, lambda t: True))
assert [name for name, _ in found] == ["used", "tried", "backup", "probed"], found
assert found[1][1] <= ROUNDS + 2 and found[2][1] - found[1][1] == trial, found
assert found[3][1] - found[2][1] >= 10 * PAUSE, found
assert "used" not in names(run(120, lambda t: True))[1:]
assert set(names(run(600, lambda t: True), 0)) == {"used"}
# Disjoint: tried now and then, less and less, and never for longer than a trial.
phases = run(600, lambda t: False)
assert set(names(phases)) == {"used", "tried"}, names(phases)
cost = sum(p[-1] == "tried" for p in phases) / len(phases)
print(f"disjoint, alike: tried in {cost:.1%} of ten minutes")
assert cost < 0.03
# What was shared is not for ever.
assert names(run(60, lambda t: t < 20))[-2:] == ["probed", "used"]
wrong = [0, 0]
for seed in range(500):
    for shared in (False, True):
        phases = run(12, lambda t: shared, seed)
        wrong[shared] += (phases[-1][-1] == "backup") != shared
print(f"of 500 each, rates drift by 5 %, wrong: {wrong[0]} disjoint, {wrong[1]} shared")
assert wrong[0] <= 5 and wrong[1] <= 40, wrong
# Rates that random losses let go up and down: half of a small one is soon gained.
wild = [run(12, lambda t: False, seed, part=0.2, drifts=40)[-1][-1] for seed in range(500)]
print(f"of 500, wrong: {wild.count('backup')} disjoint, of a fifth of a rate that varies")
assert wild.count("backup") <= 80, wild.count("backup")
# Of three the one that shares.
phases = run(12, lambda t: True, paths=3)
assert phases[-1] == ["used", "used", "backup"], phases[-1]
"#;

#[test]
fn disjoint_finds_shared_bottlenecks() {
    let mut command = Command::new("python3");
    command.args(["-c", DISJOINT]).current_dir(root());
    let output = command.output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

/// A round of metrics in which those subflows are there, by number; odd ones send more than they
/// receive, seen from the end that opened them.
fn round(number: u64, there: &[usize]) -> String {
    let subflow = |n: &usize| {
        let end = |host: u8, bytes: u64| {
            json!({ "address": format!("10.0.{n}.{host}"), "bytes": bytes,
                "retransmitted_bytes": 0, "srtt_us": 10_000 })
        };
        let bytes = [10, 1_000_000 * number];
        json!({ "subflow": format!("10.0.{n}.1:1-10.0.{n}.2:2"), "token": "0x00000001", "zone": 0,
            "index": n, "state": "established",
            "from": end(1, bytes[n % 2]), "to": end(2, bytes[1 - n % 2]) })
    };
    let gone: Vec<_> = (0..4)
        .filter(|n| !there.contains(n))
        .map(|n| format!("10.0.{n}.1:1-10.0.{n}.2:2"))
        .collect();
    let subflows: Vec<_> = there.iter().map(subflow).collect();
    let line = json!({ "event": "metrics", "reset": number == 1, "gone": gone, "more": 0,
        "time": number * 100_000_000, "subflows": subflows });
    format!("{line}\n")
}

/// What it asks for: the other host of the subflow and its number, true or null.
fn wishes(args: &[&str], rounds: &[&[usize]]) -> Vec<(String, Value)> {
    let path = root().join("examples/exec/disjoint.py");
    let lines: String = (1..)
        .zip(rounds)
        .map(|(number, there)| round(number, there))
        .collect();
    let (out, err) = python(&[&[path.to_str().unwrap()], args].concat(), &lines);
    assert_eq!(err, "");
    let said: Vec<Value> = (out.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(said[0]["cmd"], "subscribe");
    (said[1..].iter())
        .map(|wish| {
            assert_eq!(
                (&wish["cmd"], &wish["table"]),
                (&json!("prio"), &json!("backup"))
            );
            (
                wish["subflow"].as_str().unwrap().to_owned(),
                wish["value"].clone(),
            )
        })
        .collect()
}

#[test]
fn disjoint_knows_declared_groups() {
    // Packets that arrive at the end that sends.
    let first = "10.0.0.1:1-10.0.0.2:2".to_owned();
    let second = "10.0.1.2:2-10.0.1.1:1".to_owned();
    let third = "10.0.2.1:1-10.0.2.2:2".to_owned();
    let group = ["--group", "10.0.0.0/24,10.0.1.2/32"];
    assert_eq!(wishes(&[], &[&[0, 1, 2]]), []);
    // The later one; no longer where the first one has gone.
    let said = wishes(&group, &[&[0, 1, 2], &[0, 1, 2], &[1, 2]]);
    assert_eq!(
        said,
        [(second.clone(), json!(true)), (second.clone(), Value::Null)]
    );
    // The costly one.
    let costly = [&group[..], &["--costly", "10.0.0.2"]].concat();
    assert_eq!(wishes(&costly, &[&[0, 1, 2]]), [(first, json!(true))]);
    // Two groups, of which the second one has one subflow; then two.
    let two = [&group[..], &["--group", "10.0.2.0/23"]].concat();
    assert_eq!(wishes(&two, &[&[0, 1, 2]]), [(second, json!(true))]);
    let said = wishes(&["--group", "10.0.2.0/23,10.0.0.0/24"], &[&[0, 1, 2]]);
    assert_eq!(said, [(third, json!(true))]);
}
