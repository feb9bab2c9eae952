//! Policies are exchanged under traffic: every packet is treated by one of them.

use std::time::Duration;
use std::time::Instant;

use emptcp_test::hosts::Family;
use serde_json::Value;
use serde_json::json;

use super::foreign;
use super::foreign::At;
use super::foreign::Judge;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::often;
use super::rig::wait_for;
use super::traffic::Traffic;
use super::traffic::ack;

/// Marks with `mark`, clamps the window to `window`, counts where the two differ.
pub(crate) fn mark_and_window(interfaces: &Value, mark: u32, window: u32) -> Value {
    let at = |name: &str, priority: u32| {
        json!({ "name": name, "hook": "tc-ingress",
        "interfaces": interfaces, "priority": priority })
    };
    let with = |mut chain: Value, fields: Value| {
        let fields = fields.as_object().unwrap().clone();
        chain.as_object_mut().unwrap().extend(fields);
        chain
    };
    let bytes = format!("{window}KiB");
    json!([
        with(
            at("mark", 1),
            json!({ "act": [{ "set_mark": { "value": mark } }] })
        ),
        with(
            at("clamp", 2),
            json!({ "act": [{ "set_recv_win": { "bytes": bytes, "floor": 1, "wscale": 10 } }] })
        ),
        with(
            at("torn", 3),
            json!({ "select": { "torn": {} }, "act": [{ "record": {} }] })
        ),
    ])
}

/// A part of the exchanges of the longest test.
fn exchanges_in(parts: u32) -> u32 {
    often(200, 1000) / parts
}

fn both_families(dport: u16) -> Vec<Vec<u8>> {
    Family::ALL.map(|family| ack(family, dport)).into()
}

fn rig(tc: Tc) -> Rig {
    let mut rig = Rig::new(1, tc);
    rig.modules = Some(foreign::modules(&rig.folder));
    rig
}

fn exchanges(tc: Tc, count: u32) {
    exchanges_of(&rig(tc), count, 0, |k| {
        mark_and_window(&json!(["p0"]), k, k)
    });
}

/// `slack`: packets that need not be treated by exactly one policy.
fn exchanges_of(rig: &Rig, count: u32, slack: u64, policy: impl Fn(u32) -> Value) {
    let tc = rig.tc;
    rig.apply(&policy(1)).ok();
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    let traffic = Traffic::start(&rig.far, "p0", both_families(80), 100_000);
    let start = Instant::now();
    for k in 2..count + 2 {
        rig.apply(&policy(k % 60 + 1)).ok();
    }
    let took = start.elapsed();
    let sent = traffic.finish();
    let seen = judge.read();
    let status = rig.status();
    println!(
        "{tc:?}: {count} exchanges, {sent} packets, {} lost, {} mixed, {} untreated, {:.1} ms per exchange, {:.0} packets/s",
        sent - seen.total,
        seen.mixed,
        seen.untreated,
        took.as_secs_f64() * 1e3 / f64::from(count),
        sent as f64 / took.as_secs_f64(),
    );
    assert!(sent > u64::from(count) * 20, "{sent} packets are too few");
    assert_eq!(sent, seen.total, "packets were lost");
    assert!(
        seen.mixed + seen.untreated <= slack,
        "{} mixed, {} untreated",
        seen.mixed,
        seen.untreated
    );
    let counted = |chain| chain_packets(&status, chain).unwrap();
    assert!(counted("torn") <= slack);
    // The counters outlive every exchange.
    for chain in ["mark", "clamp"] {
        assert!(counted(chain).abs_diff(sent) <= slack, "{chain}");
    }
    assert_eq!(status["reasons"], json!({}));
}

#[test]
fn root_exchange_tcx() {
    exchanges(Tc::Tcx, exchanges_in(1));
}

#[test]
fn root_exchange_clsact() {
    exchanges(Tc::Clsact, exchanges_in(4));
}

/// Another position at tc is another attachment: both are there while one takes over. A packet
/// that is between the two at that moment meets none or both: one on each CPU at the most.
fn positions_exchange(tc: Tc) {
    let count = exchanges_in(4);
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    exchanges_of(&rig(tc), count, u64::from(count) * cpus, |k| {
        let mut chains = mark_and_window(&json!(["p0"]), k, k);
        if k % 2 == 0 {
            chains[0]["position"] = json!("first");
        }
        chains
    });
}

/// [`mark_and_window`] with mark and window set by different parts, where a run makes two calls.
pub(crate) fn in_parts(interfaces: &Value, k: u32) -> Value {
    let mut chains = mark_and_window(interfaces, k, k);
    for chain in 0..2 {
        chains[chain]["select"] = json!({ "tcp": {} });
    }
    chains
}

/// A packet is treated by one policy in all parts, of which there are as many as before.
fn parts_exchange(tc: Tc, count: u32) {
    let mut rig = rig(tc);
    rig.calls = Some(2);
    exchanges_of(&rig, count, 0, |k| in_parts(&json!(["p0"]), k));
    assert_eq!(rig.attached(), 3);
}

#[test]
fn root_exchange_parts_tcx() {
    parts_exchange(Tc::Tcx, exchanges_in(2));
}

#[test]
fn root_exchange_parts_clsact() {
    parts_exchange(Tc::Clsact, exchanges_in(4));
}

/// One part, three and two by turns.
fn numbers_of_parts_exchange(tc: Tc) {
    let mut rig = rig(tc);
    rig.calls = Some(4);
    let port = json!({ "dport": { "in": ["80"] } });
    exchanges_of(&rig, exchanges_in(4), 0, |k| {
        let mut chains = mark_and_window(&json!(["p0"]), k, k);
        // Steps of mark and clamp: 1 and 1, 3 and 3, 1 and 3.
        for chain in [0, 1].iter().take((k % 3) as usize) {
            chains[1 - chain]["select"] = json!({ "all": [{ "tcp": {} }, port] });
        }
        chains
    });
}

#[test]
fn root_exchange_numbers_of_parts_tcx() {
    numbers_of_parts_exchange(Tc::Tcx);
}

#[test]
fn root_exchange_numbers_of_parts_clsact() {
    numbers_of_parts_exchange(Tc::Clsact);
}

#[test]
fn root_exchange_positions_tcx() {
    positions_exchange(Tc::Tcx);
}

#[test]
fn root_exchange_positions_clsact() {
    positions_exchange(Tc::Clsact);
}

/// The judges see it where mark and window change one after the other.
#[test]
fn root_split_switch_is_seen() {
    let rig = rig(Tc::Tcx);
    let p0 = json!(["p0"]);
    rig.apply(&mark_and_window(&p0, 1, 1)).ok();
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    let traffic = Traffic::start(&rig.far, "p0", both_families(80), 100_000);
    for k in 2..10 {
        rig.apply(&mark_and_window(&p0, k, k - 1)).ok();
        rig.apply(&mark_and_window(&p0, k, k)).ok();
    }
    let sent = traffic.finish();
    let seen = judge.read();
    println!("split: {} of {sent} packets mixed", seen.mixed);
    assert_eq!(sent, seen.total);
    assert!(seen.mixed > 0);
    assert_eq!(chain_packets(&rig.status(), "torn"), Some(seen.mixed));
}

/// At XDP: of two chains one drops the packets, by turns.
#[test]
fn root_exchange_xdp() {
    let count = exchanges_in(4);
    let rig = rig(Tc::Tcx);
    let policy = |k: u32| {
        let chain = |name: &str, drops: bool, act: Value| {
            json!({ "name": name, "hook": "xdp", "interfaces": ["p0"],
                "select": { "dport": { "in": [if drops { "80" } else { "81" }] } }, "act": act })
        };
        json!([
            chain(
                "even",
                k.is_multiple_of(2),
                json!([{ "record": {} }, { "drop": {} }])
            ),
            chain("odd", k % 2 == 1, json!([{ "drop": {} }])),
        ])
    };
    rig.apply(&policy(0)).ok();
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    let traffic = Traffic::start(&rig.far, "p0", both_families(80), 50_000);
    let start = Instant::now();
    for k in 1..=count {
        rig.apply(&policy(k)).ok();
    }
    let took = start.elapsed();
    let sent = traffic.finish();
    let status = rig.status();
    let counted = ["even", "odd"].map(|c| chain_packets(&status, c).unwrap());
    println!(
        "XDP: {count} exchanges, {sent} packets, {} lost, {} untreated, {:.1} ms per exchange",
        sent as i64 - counted.iter().sum::<u64>() as i64,
        judge.read().total,
        took.as_secs_f64() * 1e3 / f64::from(count),
    );
    assert!(counted.iter().all(|n| *n > 0), "{counted:?}");
    assert_eq!(judge.read().total, 0, "packets were not treated");
    assert_eq!(counted.iter().sum::<u64>(), sent, "packets were lost");
    assert_eq!(status["reasons"], json!({}));
}

/// Two at once: one waits for the other.
#[test]
fn root_two_applies_at_once() {
    let rig = rig(Tc::Tcx);
    let p0 = json!(["p0"]);
    let paths = [1, 2].map(|k| rig.policy(&format!("{k}.json"), &mark_and_window(&p0, k, k)));
    let mut generations = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let both = paths.each_ref().map(|path| {
            let mut command = rig.emptcp(&["--json", "apply", path]);
            let command = command.stdout(std::process::Stdio::piped());
            command
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        });
        for child in both {
            let ran: super::rig::Ran = child.wait_with_output().unwrap().into();
            let answer = ran.ok().json();
            if answer["changed"] == true {
                let generation = answer["generation"].as_u64().unwrap();
                assert!(generations.insert(generation), "{generation} twice");
            }
        }
        assert_eq!(rig.status()["drift"], json!([]));
    }
    assert!(generations.len() >= 10, "{generations:?}");
    // A held lock is waited for.
    let home = std::fs::read_dir(rig.bpffs.path.join("emptcp/v1")).unwrap();
    let home = home.map(|e| e.unwrap().path()).next().unwrap();
    let folder = std::fs::File::open(home).unwrap();
    let lock = nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let other = rig.policy("3.json", &mark_and_window(&p0, 3, 3));
    let mut waiting = super::rig::Killed(rig.emptcp(&["apply", &other]).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.0.try_wait().unwrap().is_none());
    drop(lock);
    wait_for("the lock", Duration::from_secs(10), || {
        waiting.0.try_wait().unwrap().is_some()
    });
    assert!(waiting.0.wait().unwrap().success());
}
