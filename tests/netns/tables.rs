//! Tables in force: entries come and go under traffic, and stay or return over an apply.

use std::time::Duration;
use std::time::Instant;

use emptcp_test::hosts::Family;
use serde_json::Value;
use serde_json::json;

use super::foreign::At;
use super::foreign::Judge;
use super::raw;
use super::rig::Killed;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::traffic::Traffic;
use super::traffic::ack;
use super::traffic::frame;
use super::traffic::send;

/// Where packets are marked with the value that `marks` has for their source, and clamped to
/// what `slow` has for their subflow.
struct Stand {
    rig: Rig,
    judge: Judge,
}

fn run_time() -> Value {
    json!({
        "marks": { "type": "prefix", "value": "u32" },
        "slow": { "type": "subflow", "value": "bytes", "timeout": "10m" },
    })
}

fn chains() -> Value {
    json!([
        { "name": "mark", "hook": "tc-ingress", "interfaces": ["p0"],
          "select": { "src": { "table": "marks" } },
          "act": [{ "set_mark": { "value": { "table": "marks" } } }] },
        { "name": "slow", "hook": "tc-ingress", "interfaces": ["p0"], "priority": 1,
          "select": { "subflow": { "table": "slow" } },
          "act": [{ "set_recv_win": { "bytes": { "table": "slow" }, "wscale": 0 } }] },
    ])
}

const SUBFLOW: &str = "10.0.0.1:7000-10.0.0.2:80";

impl Stand {
    fn new(tables: &Value) -> Self {
        let rig = Rig::new(1, Tc::Tcx);
        let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
        let stand = Self { rig, judge };
        stand.apply(tables, &chains()).ok();
        stand
    }

    fn write(&self, tables: &Value, chains: &Value) -> String {
        let text = json!({ "version": 1, "tables": tables, "chains": chains });
        let path = self.rig.folder.write("tables.json", text.to_string());
        path.to_str().unwrap().to_owned()
    }

    fn apply(&self, tables: &Value, chains: &Value) -> Ran {
        let path = self.write(tables, chains);
        self.rig.run(&["apply", &path])
    }

    fn table(&self, args: &[&str]) -> Ran {
        let args: Vec<&str> = ["table"].iter().chain(args).copied().collect();
        self.rig.run(&args)
    }

    fn load(&self, name: &str, text: &str) -> Ran {
        self.rig.feed(&["table", "load", name, "-"], text)
    }

    fn elements(&self, name: &str) -> Value {
        let shown = self.rig.run(&["--json", "table", "show", name]).ok().json();
        shown["elements"].clone()
    }

    /// Mark and window of the next packet.
    fn next(&self) -> (u32, u32) {
        let before = self.judge.read().total;
        send(&self.rig.far, "p0", &ack(Family::Ip4, 80));
        let judged = self.judge.read();
        assert_eq!(judged.total, before + 1);
        (judged.mark, judged.window)
    }
}

/// The next packet already sees a change; its value is what an actor sets.
#[test]
fn root_tables_change_under_traffic() {
    let stand = Stand::new(&run_time());
    let generation = stand.rig.status()["generation"].clone();
    assert_eq!(stand.next(), (0, 65535));
    stand.table(&["add", "marks", "10.0.0.0/8", "5"]).ok();
    assert_eq!(stand.next(), (5, 65535));
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    assert_eq!(stand.next(), (5, 16384));
    // The longest prefix counts; a key that is there gets the new value.
    stand.table(&["add", "marks", "10.0.0.1", "6"]).ok();
    assert_eq!(stand.next(), (6, 16384));
    let again = stand
        .rig
        .run(&["--json", "table", "add", "slow", SUBFLOW, "8KiB"]);
    assert_eq!(again.ok().json(), json!({ "added": 0, "updated": 1 }));
    assert_eq!(stand.next(), (6, 8192));
    stand.table(&["del", "marks", "10.0.0.1"]).ok();
    assert_eq!(stand.next(), (5, 8192));
    let gone = stand
        .rig
        .run(&["--json", "table", "del", "marks", "10.0.0.1"]);
    assert_eq!(gone.ok().json(), json!({ "removed": 0 }));
    let shown = stand.table(&["show", "marks"]).ok();
    assert_eq!(shown.out, "10.0.0.0/8 5\n");
    let listed = stand.rig.run(&["--json", "table", "list"]).ok().json();
    assert_eq!(
        listed[0],
        json!({ "name": "marks", "type": "prefix", "value": "u32",
        "size": 16384, "of_policy": false, "entries": 1 })
    );
    // All or nothing, with the place of what is wrong.
    stand
        .load("marks", "10.0.0.1 7\n10.0.0.2\n")
        .fails(&["-:2:1: ", "missing"]);
    stand
        .load("marks", "10.0.0.1 7\n10.0.0.2 x\n")
        .fails(&["-:2:10: "]);
    assert_eq!(stand.next(), (5, 8192));
    stand
        .load("marks", "10.0.0.1 7 # comment\n\nfc00::/7 8\n")
        .ok();
    assert_eq!(stand.next(), (7, 8192));
    stand.load("marks", r#"{ "10.0.0.1": 9 }"#).ok();
    assert_eq!(stand.next(), (9, 8192));
    // What show prints is what load reads.
    let shown = stand.table(&["show", "marks"]).ok().out;
    stand.table(&["flush", "marks"]).ok();
    assert_eq!(stand.next(), (0, 8192));
    stand.load("marks", &shown).ok();
    assert_eq!(stand.table(&["show", "marks"]).out, shown);
    assert_eq!(stand.rig.status()["generation"], generation);
    assert_eq!(stand.rig.status()["drift"], json!([]));
    for (args, words) in [
        (
            &["add", "mark", "::1", "1"][..],
            &["no table \"mark\"", "did you mean \"marks\"?"][..],
        ),
        (
            &["add", "marks", "10.0.0.1/8", "1"],
            &["bits of the host set"],
        ),
        (&["add", "marks", "::1"], &["value of \"::1\" is missing"]),
        (
            &["add", "marks", "::1", "1", "--timeout", "5s"],
            &["do not expire", "\"timeout\""],
        ),
        (&["add", "slow", SUBFLOW, "64K"], &["64K"]),
        (&["show", "nothing"], &["no table"]),
    ] {
        stand.table(args).fails(words);
    }
    stand.rig.run(&["delete"]).ok();
    stand.rig.assert_nothing_left();
    stand.table(&["list"]).fails(&["no policy is in force"]);
}

/// A full table refuses what is new, and a load of too much changes nothing.
#[test]
fn root_tables_are_full() {
    let mut tables = run_time();
    tables["slow"]["size"] = 2.into();
    tables["marks"]["size"] = 2.into();
    let stand = Stand::new(&tables);
    stand
        .load(
            "slow",
            "1.1.1.1:1-1.1.1.2:2 1\n1.1.1.1:1-1.1.1.2:3 1\n1.1.1.1:1-1.1.1.2:4 1",
        )
        .fails(&["room for 2"]);
    stand
        .load("marks", "1.1.1.1 1\n1.1.1.2 1\n1.1.1.3 1")
        .fails(&["room for 2"]);
    assert_eq!(
        (stand.elements("slow"), stand.elements("marks")),
        (json!({}), json!({}))
    );
    stand
        .load("slow", "1.1.1.1:1-1.1.1.2:2 1\n1.1.1.1:1-1.1.1.2:3 1")
        .ok();
    stand
        .table(&["add", "slow", SUBFLOW, "1"])
        .fails(&["room for 2", "holds 2", "\"size\""]);
    // Those that have expired make room.
    stand
        .table(&[
            "add",
            "slow",
            "1.1.1.1:1-1.1.1.2:2",
            "1",
            "--timeout",
            "1ms",
        ])
        .ok();
    std::thread::sleep(Duration::from_millis(5));
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    assert_eq!(stand.next(), (0, 16384));
}

/// An entry matches until its time is over, counted from when it was written.
#[test]
fn root_entries_expire() {
    let mut tables = run_time();
    tables["slow"]["timeout"] = "1s".into();
    let stand = Stand::new(&tables);
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    let start = Instant::now();
    assert_eq!(stand.next().1, 16384);
    // Matching does not prolong it, writing does.
    while start.elapsed() < Duration::from_millis(1010) {
        stand.next();
    }
    assert_eq!(stand.next().1, 65535);
    assert_eq!(stand.elements("slow"), json!({}));
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    std::thread::sleep(Duration::from_millis(600));
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(stand.next().1, 16384);
    stand
        .table(&["add", "slow", SUBFLOW, "8KiB", "--timeout", "1h"])
        .ok();
    std::thread::sleep(Duration::from_millis(310));
    assert_eq!(stand.next().1, 8192);
    let shown = stand
        .rig
        .run(&["--json", "table", "show", "slow"])
        .ok()
        .json();
    let left = shown["milliseconds_left"][SUBFLOW].as_u64().unwrap();
    assert!((3_590_000..3_600_000).contains(&left), "{left}");
    // An apply that copies the table copies the time too.
    tables["slow"]["size"] = 5.into();
    stand.apply(&tables, &chains()).ok();
    let shown = stand
        .rig
        .run(&["--json", "table", "show", "slow"])
        .ok()
        .json();
    let left = shown["milliseconds_left"][SUBFLOW].as_u64().unwrap();
    assert!((3_580_000..3_600_000).contains(&left), "{left}");
}

/// What run time put into a table stays over every apply, as far as it keeps its meaning.
#[test]
fn root_apply_keeps_what_run_time_put_there() {
    let stand = Stand::new(&run_time());
    stand.table(&["add", "marks", "10.0.0.0/8", "5"]).ok();
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    let mut other = chains();
    other[0]["priority"] = 9.into();
    other
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "more", "hook": "tc-ingress",
        "interfaces": ["p0"], "act": [{ "record": {} }] }));
    let mut larger = run_time();
    larger["marks"]["size"] = 100_000.into();
    larger["slow"]["timeout"] = Value::Null;
    larger["slow"].as_object_mut().unwrap().remove("timeout");
    for (tables, chains) in [
        (&run_time(), &other),
        (&larger, &other),
        (&run_time(), &chains()),
    ] {
        stand.apply(tables, chains).ok();
        assert_eq!(stand.next(), (5, 16384));
        // And what is shown is what is applied.
        let shown = stand.rig.run(&["--json", "show"]).ok();
        let path = stand.rig.folder.write("shown.json", shown.out);
        let again = stand
            .rig
            .run(&["--json", "apply", path.to_str().unwrap()])
            .ok();
        assert_eq!(again.json(), json!({ "changed": false }));
    }
    // Too small: refused, and nothing changed.
    stand.table(&["add", "marks", "11.0.0.0/8", "5"]).ok();
    let mut small = run_time();
    small["marks"]["size"] = 1.into();
    stand
        .apply(&small, &chains())
        .fails(&["table marks holds 2 entries", "flush"]);
    assert_eq!(stand.next(), (5, 16384));
    // Of another type: gone, and said so before and after.
    let mut typed = run_time();
    typed["slow"]["value"] = "rate".into();
    let only_marks = json!([chains()[0]]);
    let path = stand.write(&typed, &only_marks);
    let dry = stand.rig.run(&["apply", "--dry-run", &path]);
    assert_eq!(dry.code, Some(3));
    assert!(
        dry.out
            .contains("~ table slow: another type: its 1 entries are lost"),
        "{}",
        dry.out
    );
    let applied = stand.rig.run(&["apply", &path]).ok();
    assert!(
        applied
            .err
            .contains("table slow is of another type now: its 1 entries are gone")
    );
    assert_eq!(stand.elements("slow"), json!({}));
    // No longer declared: gone with its pin.
    let before = stand.rig.bpffs.tree();
    assert!(
        before
            .iter()
            .any(|path| path.ends_with("/gen-N/tables/slow")),
        "{before:?}"
    );
    let marks = json!({ "marks": run_time()["marks"] });
    stand.apply(&marks, &only_marks).ok();
    stand.table(&["show", "slow"]).fails(&["no table"]);
    let after = stand.rig.bpffs.tree();
    assert!(
        !after.iter().any(|path| path.ends_with("/slow")),
        "{after:?}"
    );
    assert_eq!(stand.next(), (5, 65535));
}

/// A table with elements is what the file says; other contents are drift.
#[test]
fn root_apply_restores_what_the_file_says() {
    let mut tables = run_time();
    tables["marks"]["elements"] = json!({ "10.0.0.0/8": 5 });
    let stand = Stand::new(&tables);
    assert_eq!(stand.next().0, 5);
    let path = stand.write(&tables, &chains());
    let unchanged = json!({ "changed": false });
    assert_eq!(
        stand.rig.run(&["--json", "apply", &path]).ok().json(),
        unchanged
    );
    for change in [
        &["add", "marks", "10.0.0.1", "6"][..],
        &["add", "marks", "10.0.0.0/8", "7"],
        &["del", "marks", "10.0.0.0/8"],
        &["flush", "marks"],
    ] {
        let said = stand.table(change).ok();
        assert!(
            said.err.contains("the next apply undoes this"),
            "{}",
            said.err
        );
        assert_ne!(stand.next().0, 5);
        let drift = "table marks: its entries are not those of the policy";
        assert_eq!(stand.rig.status()["drift"], json!([drift]));
        let dry = stand.rig.run(&["apply", "--dry-run", &path]);
        assert_eq!(dry.code, Some(3));
        for line in [
            &format!("! {drift}\n"),
            "~ table marks: its entries become the 1 of the policy\n",
        ] {
            assert!(dry.out.contains(line), "{}", dry.out);
        }
        stand.rig.run(&["apply", &path]).ok();
        assert_eq!(stand.next().0, 5);
        assert_eq!(stand.rig.status()["drift"], json!([]));
    }
    // To run time and back: it keeps what it has, until the file says otherwise.
    stand.apply(&run_time(), &chains()).ok();
    assert_eq!(stand.next().0, 5);
    stand.table(&["add", "marks", "10.0.0.1", "6"]).ok();
    assert_eq!(stand.rig.status()["drift"], json!([]));
    stand.apply(&tables, &chains()).ok();
    assert_eq!(stand.next().0, 5);
}

/// An apply that fails or is killed before the new policy is in force leaves tables alone.
#[test]
fn root_failed_apply_leaves_tables_alone() {
    let mut tables = run_time();
    tables["marks"]["elements"] = json!({ "10.0.0.0/8": 5 });
    let stand = Stand::new(&tables);
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    let tree = stand.rig.bpffs.tree();
    let mut next = tables.clone();
    next["marks"]["elements"] = json!({ "10.0.0.0/8": 6 });
    next["slow"]["size"] = 7.into();
    let path = stand.write(&next, &chains());
    for place in ["tables", "loaded", "attached", "before-flip"] {
        {
            let mut command = stand.rig.emptcp(&["apply", &path]);
            let child = Killed(command.env("EMPTCP_STOP_AT", place).spawn().unwrap());
            assert!(raw::wait_stopped(child.0.id()), "{place}");
        }
        assert_eq!(stand.next(), (5, 16384), "{place}");
        stand
            .table(&["add", "slow", "1.1.1.1:1-2.2.2.2:2", "1"])
            .ok();
        assert_eq!(
            stand.elements("slow").as_object().unwrap().len(),
            2,
            "{place}"
        );
        // The entry programs may be those of the killed one.
        let drift = stand.rig.status()["drift"].to_string();
        assert!(!drift.contains("table"), "{place}: {drift}");
    }
    let path_back = stand.write(&tables, &chains());
    stand.rig.run(&["apply", &path_back]).ok();
    assert_eq!(stand.rig.bpffs.tree(), tree);
    let path = stand.write(&next, &chains());
    {
        let mut command = stand.rig.emptcp(&["apply", &path]);
        let child = Killed(command.env("EMPTCP_STOP_AT", "after-flip").spawn().unwrap());
        assert!(raw::wait_stopped(child.0.id()));
    }
    assert_eq!(stand.next(), (6, 16384));
    assert_eq!(stand.elements("slow").as_object().unwrap().len(), 2);
    stand.rig.run(&["apply", &path]).ok();
    assert_eq!(stand.rig.bpffs.tree(), tree);
}

/// Entries that are added while applies exchange the table are all there afterwards.
#[test]
fn root_concurrent_adds_and_applies_lose_nothing() {
    let stand = Stand::new(&run_time());
    let policies: Vec<String> = (0..2)
        .map(|n| {
            let mut tables = run_time();
            tables["slow"]["size"] = (10_000 + n).into();
            let text = json!({ "version": 1, "tables": tables, "chains": chains() });
            let path = stand
                .rig
                .folder
                .write(&format!("{n}.json"), text.to_string());
            path.to_str().unwrap().to_owned()
        })
        .collect();
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    let other = frame(Family::Ip4, json!({ "tcp": { "dport": 80 } }));
    let traffic = Traffic::start(&stand.rig.far, "p0", vec![other], 20_000);
    let end = Instant::now() + Duration::from_secs(3);
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let stand = &stand;
        let adders: Vec<_> = (1..=3)
            .map(|adder| {
                scope.spawn(move || {
                    let mut count = 0;
                    while Instant::now() < end {
                        count += 1;
                        let key = format!("10.0.0.{adder}:{count}-10.0.0.9:9");
                        stand.table(&["add", "slow", &key, "1KiB"]).ok();
                    }
                    count
                })
            })
            .collect();
        let mut applies = 0;
        while Instant::now() < end {
            stand.rig.run(&["apply", &policies[applies % 2]]).ok();
            applies += 1;
        }
        assert!(applies > 5, "{applies}");
        adders.into_iter().map(|a| a.join().unwrap()).collect()
    });
    let sent = traffic.finish();
    let judged = stand.judge.read();
    assert_eq!(
        (judged.total, judged.untreated),
        (sent, 0),
        "each packet found its entry"
    );
    let added: usize = counts.iter().sum();
    println!("{added} entries");
    assert_eq!(stand.elements("slow").as_object().unwrap().len(), added + 1);
}

/// Many entries at once, and one beside them without delay.
#[test]
fn root_many_entries() {
    let mut tables = run_time();
    tables["slow"]["size"] = 200_000.into();
    tables["marks"]["size"] = 200_000.into();
    let stand = Stand::new(&tables);
    let mut subflows = String::new();
    let mut prefixes = String::new();
    for n in 0..100_000u32 {
        let (a, b) = (n / 250, n % 250);
        subflows += &format!("10.9.{}.{b}:{}-10.0.0.2:80 64KiB\n", a % 250, 1000 + a);
        prefixes += &format!("11.{}.{}.{}/32 {n}\n", n >> 16, (n >> 8) & 255, n & 255);
    }
    stand.load("slow", &subflows).ok();
    stand.load("marks", &prefixes).ok();
    for name in ["slow", "marks"] {
        assert_eq!(stand.elements(name).as_object().unwrap().len(), 100_000);
    }
    stand.table(&["add", "slow", SUBFLOW, "16KiB"]).ok();
    assert_eq!(stand.next(), (0, 16384));
    stand.table(&["flush", "slow"]).ok();
    assert_eq!(stand.elements("slow"), json!({}));
}
