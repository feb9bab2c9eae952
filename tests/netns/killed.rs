//! An apply that ends in the middle: the old policy or the new one is in force,
//! whole, and the next apply clears the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::exchange::in_parts;
use super::exchange::mark_and_window;
use super::foreign;
use super::foreign::At;
use super::foreign::Judge;
use super::raw;
use super::rig::Killed;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::often;
use super::traffic::probe;

/// A policy that tells itself by mark and window at ingress, with an XDP program; odd ones run at
/// egress too, with a map of a module.
fn policy(k: u32, interfaces: &[&str]) -> Value {
    policy_of(mark_and_window(&json!(interfaces), k, k), k, interfaces)
}

fn policy_of(mut chains: Value, k: u32, interfaces: &[&str]) -> Value {
    let more = chains.as_array_mut().unwrap();
    more.push(
        json!({ "name": "seen", "hook": "xdp", "interfaces": interfaces,
        "select": { "dport": { "in": [k.to_string()] } }, "act": [{ "accept": {} }] }),
    );
    if k % 2 == 1 {
        more.push(
            json!({ "name": "out", "hook": "tc-egress", "interfaces": interfaces,
            "select": { "dport": { "in": [k.to_string()] } }, "act": [{ "tally": {} }] }),
        );
    }
    chains
}

/// A policy with what is there when it alone was ever applied.
struct Reference {
    /// `None`: no policy.
    number: Option<u32>,
    interfaces: Vec<&'static str>,
    path: String,
    shown: Value,
    tree: BTreeSet<String>,
    attached: usize,
}

struct Stand {
    rig: Rig,
    judges: [Judge; 2],
}

const LINKS: [&str; 2] = ["p0", "p1"];

impl Stand {
    fn new(tc: Tc) -> Self {
        let mut rig = Rig::new(2, tc);
        rig.modules = Some(foreign::modules(&rig.folder));
        let judges = LINKS.map(|link| Judge::new(&rig.near, link, At::Filter(60_000), true));
        Self { rig, judges }
    }

    fn reference(&self, number: u32, interfaces: &[&'static str]) -> Reference {
        let rig = &self.rig;
        let name = format!("{number}-{}.json", interfaces.join("-"));
        // Split: odd ones into three parts, even ones into two.
        let policy = match rig.calls.filter(|_| number % 2 == 1) {
            Some(_) => policy_of(in_parts(&json!(interfaces), number), number, interfaces),
            None => policy(number, interfaces),
        };
        let path = rig.policy(&name, &policy);
        rig.run(&["apply", &path]).ok();
        let reference = Reference {
            number: Some(number),
            interfaces: interfaces.into(),
            path,
            shown: rig.run(&["--json", "show"]).ok().json(),
            tree: rig.bpffs.tree(),
            attached: rig.attached(),
        };
        self.assert_treats(&reference);
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
        reference
    }

    fn nothing(&self) -> Reference {
        Reference {
            number: None,
            interfaces: Vec::new(),
            path: self.rig.policy("nothing.json", &json!([])),
            shown: json!({ "version": 1, "chains": [] }),
            tree: BTreeSet::new(),
            attached: 0,
        }
    }

    /// Packets on every link are treated by this policy, and `show` says so.
    #[track_caller]
    fn assert_treats(&self, policy: &Reference) {
        for (link, judge) in LINKS.iter().zip(&self.judges) {
            let before = judge.read();
            probe(&self.rig.far, link, 4);
            let now = judge.read();
            assert_eq!(now.total - before.total, 8, "{link}: packets were lost");
            assert_eq!(now.mixed, before.mixed, "{link}: of two policies");
            let number = policy.number.filter(|_| policy.interfaces.contains(link));
            let untreated = now.untreated - before.untreated;
            assert_eq!(untreated, if number.is_some() { 0 } else { 8 }, "{link}");
            assert_eq!(now.mark, number.unwrap_or(0), "{link}");
        }
        let shown = self.rig.run(&["--json", "show"]).ok();
        assert_eq!(shown.json(), policy.shown);
    }

    /// This policy is in force, and nothing else is there.
    #[track_caller]
    fn assert_clean(&self, policy: &Reference) {
        self.assert_treats(policy);
        assert_eq!(self.rig.status()["drift"], json!([]));
        assert_eq!(self.rig.bpffs.tree(), policy.tree);
        assert_eq!(self.rig.attached(), policy.attached);
    }

    fn apply(&self, policy: &Reference) {
        if policy.number.is_some() {
            self.rig.run(&["apply", &policy.path]).ok();
        } else {
            self.rig.run(&["delete"]).ok();
        }
    }

    /// Kills an apply at a place. `false`: it never got there, and succeeded.
    fn kill_at(&self, policy: &str, place: &str) -> bool {
        self.kill_command_at(&["apply", policy], place)
    }

    fn kill_command_at(&self, args: &[&str], place: &str) -> bool {
        let mut command = self.rig.emptcp(args);
        let child = command.env("EMPTCP_STOP_AT", place).spawn().unwrap();
        let mut child = Killed(child);
        let stopped = raw::wait_stopped(child.0.id());
        if !stopped {
            assert!(child.0.wait().unwrap().success());
        }
        stopped
    }
}

const PLACES: [(&str, bool); 7] = [
    ("loaded", false),
    ("attached", false),
    ("attached:2", false),
    ("attached:4", false),
    ("before-flip", false),
    ("after-flip", true),
    ("before-cleanup", true),
];

/// `every`: so many-th of all pairs of a place and what comes next.
fn kill_everywhere(tc: Tc, every: usize, calls: Option<u32>) {
    let mut stand = Stand::new(tc);
    stand.rig.calls = calls;
    let nothing = stand.nothing();
    let one = stand.reference(1, &["p0", "p1"]);
    let two = stand.reference(2, &["p0", "p1"]);
    let less = stand.reference(3, &["p1"]);
    let mut round = 0;
    for (before, after) in [(&nothing, &one), (&one, &two), (&less, &two), (&one, &less)] {
        for (place, flipped) in PLACES {
            for next in [after, before, &nothing] {
                round += 1;
                if round % every != 0 {
                    continue;
                }
                println!(
                    "{tc:?}: {:?} to {:?}, killed at {place}, then {:?}",
                    before.number, after.number, next.number
                );
                stand.apply(before);
                let killed = stand.kill_at(&after.path, place);
                assert!(killed || place == "attached:4", "{place}");
                stand.assert_treats(if flipped || !killed { after } else { before });
                stand.apply(next);
                if next.number.is_some() {
                    stand.assert_clean(next);
                } else {
                    stand.assert_treats(next);
                    stand.rig.assert_nothing_left();
                }
            }
        }
    }
    stand.apply(&nothing);
    stand.rig.assert_nothing_left();
}

#[test]
fn root_killed_apply_tcx() {
    kill_everywhere(Tc::Tcx, often(2, 1), None);
}

#[test]
fn root_killed_apply_clsact() {
    kill_everywhere(Tc::Clsact, often(8, 4), None);
}

#[test]
fn root_killed_apply_of_parts() {
    for tc in Tc::ALL {
        kill_everywhere(tc, often(8, 4), Some(2));
    }
}

/// Killed at any time: old or new, never both, and the next apply clears the rest.
#[test]
fn root_killed_at_random() {
    let stand = Stand::new(Tc::Tcx);
    let policies = [
        stand.reference(1, &["p0", "p1"]),
        stand.reference(2, &["p0", "p1"]),
    ];
    stand.apply(&policies[0]);
    let start = std::time::Instant::now();
    stand.apply(&policies[1]);
    let whole = start.elapsed().as_nanos() as u64;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
    let mut new = 0;
    for round in 0..often(20, 50) {
        let (before, after) = (&policies[1 - round % 2], &policies[round % 2]);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        {
            let mut child = stand.rig.emptcp(&["apply", &after.path]);
            let _child = Killed(child.spawn().unwrap());
            std::thread::sleep(Duration::from_nanos(seed % (whole * 5 / 4)));
        }
        let shown = stand.rig.run(&["--json", "show"]).ok().json();
        let is_new = shown == after.shown;
        new += u32::from(is_new);
        stand.assert_treats(if is_new { after } else { before });
        stand.apply(after);
        stand.assert_clean(after);
    }
    println!("{new} times the new policy was in force");
    stand.rig.run(&["delete"]).ok();
    stand.rig.assert_nothing_left();
}

/// A delete that ends in the middle has deleted all that packets see.
#[test]
fn root_killed_delete() {
    for tc in Tc::ALL {
        let stand = Stand::new(tc);
        let nothing = stand.nothing();
        let one = stand.reference(1, &["p0", "p1"]);
        for next in [&nothing, &one] {
            stand.apply(&one);
            assert!(stand.kill_command_at(&["delete"], "before-detach"));
            stand.assert_treats(&nothing);
            stand.apply(next);
            stand.assert_treats(next);
            if next.number.is_some() {
                stand.assert_clean(next);
                stand.apply(&nothing);
            }
            stand.rig.assert_nothing_left();
        }
    }
}

/// More steps than the counters have room for: their map is exchanged too.
#[test]
fn root_killed_while_counters_grow() {
    let stand = Stand::new(Tc::Tcx);
    let small = stand.reference(1, &["p0"]);
    let mut chains = policy(1, &["p0"]);
    for link in 2..14 {
        stand.rig.add_link(link);
        for port in 0..16 {
            chains.as_array_mut().unwrap().push(json!({
                "name": format!("many-{link}-{port}"), "interfaces": [format!("p{link}")],
                "hook": ["xdp", "tc-ingress", "tc-egress"],
                "select": { "dport": { "in": [port.to_string()] } }, "act": [{ "accept": {} }] }));
        }
    }
    let path = stand.rig.policy("many.json", &chains);
    let count = || chain_packets(&stand.rig.status(), "mark").unwrap();
    for place in ["before-flip", "after-flip", "before-cleanup"] {
        stand.apply(&small);
        probe(&stand.rig.far, "p0", 4);
        assert!(stand.kill_at(&path, place), "{place}");
        // What counts is what is in force, also where the larger map is not filled yet.
        let before = count();
        probe(&stand.rig.far, "p0", 4);
        assert_eq!(count(), before + 8, "{place}");
        stand.rig.run(&["apply", &path]).ok();
        let status = stand.rig.status();
        assert_eq!(status["drift"], json!([]), "{place}");
        let before = count();
        probe(&stand.rig.far, "p0", 4);
        assert_eq!(count(), before + 8, "{place}");
        stand.apply(&small);
        stand.assert_clean(&small);
        stand.rig.run(&["delete"]).ok();
        stand.rig.assert_nothing_left();
    }
    // Unkilled, nothing that was counted is lost.
    stand.apply(&small);
    probe(&stand.rig.far, "p0", 4);
    let before = count();
    assert!(before >= 8);
    stand.rig.run(&["apply", &path]).ok();
    assert_eq!(count(), before);
}

/// An error behind the first exchange leaves the old policy as it was.
#[test]
fn root_failed_apply_is_taken_back() {
    for tc in Tc::ALL {
        let stand = Stand::new(tc);
        let one = stand.reference(2, &["p0"]);
        let both = stand.rig.policy("both.json", &policy(3, &["p0", "p1"]));
        stand.apply(&one);
        let before = stand.rig.status()["attachments"].clone();
        // Somebody else has XDP of the second link.
        let object = foreign::load();
        let program = foreign::program(&object, "judge_xdp");
        let pin = stand.rig.bpffs.path.join("foreign");
        raw::pin(&program, &pin);
        let set = format!("ip link set p1 xdp pinned {}", pin.display());
        stand.rig.near.sh(&set);
        std::fs::remove_file(&pin).unwrap();

        stand
            .rig
            .run(&["apply", &both])
            .fails(&["p1", "judge_xdp", "id ", "replace"]);
        stand.assert_treats(&one);
        let status = stand.rig.status();
        assert_eq!(status["attachments"], before);
        assert_eq!(status["drift"], json!([]));
        assert_eq!(stand.rig.bpffs.tree(), one.tree);
        assert_eq!(stand.rig.attached(), one.attached + 1);

        stand.rig.near.sh("ip link set p1 xdp off");
        stand.rig.run(&["apply", &both]).ok();
        stand.rig.run(&["delete"]).ok();
        stand.rig.assert_nothing_left();
    }
}
