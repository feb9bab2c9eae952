//! Policies and tables change all the time, for as long as `EMPTCP_SOAK` says (seconds), while
//! packets flow: nothing is lost, nothing torn, and nothing of all that stays behind.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hash as _;
use std::hash::Hasher as _;
use std::time::Duration;
use std::time::Instant;

use emptcp_test::hosts::Family;
use serde_json::json;

use super::exchange::mark_and_window;
use super::foreign;
use super::foreign::At;
use super::foreign::Judge;
use super::loaded::Loaded;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::wait_for;
use super::traffic::Traffic;
use super::traffic::ack;

/// Frames a second.
const RATE: u64 = 10_000;
/// Entries of a table, before it is flushed.
const MANY: usize = 4000;
/// The kernel frees programs and maps some time after nobody has them.
const FREED: Duration = Duration::from_secs(60);

/// `EMPTCP_SOAK`, in seconds.
fn duration() -> Duration {
    let told = std::env::var("EMPTCP_SOAK").ok();
    let seconds = told.map_or(20, |s| s.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Numbers that look random, and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// What an entry of this key must have: of another key's value, or of parts of two, it differs.
fn checksum(key: &str, version: u64) -> u64 {
    let mut hash = DefaultHasher::new();
    (key, version).hash(&mut hash);
    // Exact in JSON; the upper bits tell the version.
    (hash.finish() & 0xffff_ffff_ffff) | version << 48
}

/// Panics where a value is not one that was written for this key.
fn assert_whole(key: &str, value: u64) {
    assert_eq!(value, checksum(key, value >> 48), "{key}: torn");
}

struct Soak {
    rig: Rig,
    /// Names that no other run has: the kernel's maps are named after them.
    tables: [String; 2],
    end: Instant,
}

impl Soak {
    fn new(tc: Tc) -> Self {
        let mut rig = Rig::new(2, tc);
        rig.modules = Some(foreign::modules(&rig.folder));
        let run = format!(
            "{}{}",
            std::process::id(),
            if tc == Tc::Tcx { "t" } else { "c" }
        );
        Self {
            rig,
            tables: [format!("s{run}"), format!("p{run}")],
            end: Instant::now() + duration(),
        }
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// A policy of mark and window k; tables, hooks and interfaces differ from k to k too.
    fn policy(&self, k: u32) -> String {
        let [subflows, prefixes] = &self.tables;
        let mut chains = mark_and_window(&json!(["p0"]), k, k);
        let more = chains.as_array_mut().unwrap();
        more.push(json!({ "name": "seen", "hook": "xdp", "interfaces": ["p0"],
            "select": { "dport": { "in": [k.to_string()] } }, "act": [{ "accept": {} }] }));
        more.push(json!({ "name": "known", "hook": "tc-ingress", "interfaces": ["p*"], "priority": 4,
            "select": { "any": [{ "subflow": { "table": subflows } }, { "src": { "table": prefixes } }] },
            "act": [{ "record": {} }] }));
        if k % 2 == 1 {
            more.push(json!({ "name": "out", "hook": ["tc-egress", "xdp"], "interfaces": ["p1"],
                "act": [if k % 4 == 1 { json!({ "record": {} }) } else { json!({ "accept": {} }) }] }));
        }
        let mut tables = json!({});
        tables[subflows] =
            json!({ "type": "subflow", "value": "u64", "size": 10_000 + k, "timeout": "2h" });
        // The same in most: that map stays.
        tables[prefixes] = json!({ "type": "prefix", "value": "u64", "size": 10_000 + k % 7 / 6 });
        let text = json!({ "version": 1, "tables": tables, "chains": chains });
        let path = self
            .rig
            .folder
            .write(&format!("{k}.json"), text.to_string());
        path.to_str().unwrap().to_owned()
    }

    /// Policy 1 in the place of policy 2.
    fn apply_one(&self) {
        for k in [2, 1] {
            self.rig.run(&["apply", &self.policy(k)]).ok();
        }
    }

    /// Exchanges policies and chains; how often.
    fn apply_all_the_time(&self) -> usize {
        let extra = |priority: u32| {
            let chain = json!({ "name": "extra", "hook": ["tc-ingress", "tc-egress"],
                "interfaces": ["p*"], "priority": priority, "act": [{ "record": {} }] });
            let path = self
                .rig
                .folder
                .write(&format!("x{priority}.json"), chain.to_string());
            path.to_str().unwrap().to_owned()
        };
        let extra = [extra(0), extra(9)];
        let mut count = 0;
        for k in (2..60).cycle() {
            if !self.goes_on() {
                break;
            }
            self.rig.run(&["apply", &self.policy(k)]).ok();
            for change in [
                &["add", &extra[0]][..],
                &["disable", "torn"],
                &["replace", "extra", &extra[1]],
                &["enable", "torn"],
                &["delete", "extra"],
            ] {
                self.rig.run(&[&["chain"], change].concat()).ok();
            }
            count += 6;
        }
        count
    }

    fn load(&self, table: &str, text: &str) {
        self.rig.feed(&["table", "load", table, "-"], text).ok();
    }

    /// Adds, changes and removes entries; what must be there at the end, and how many changes.
    fn edit_all_the_time(&self, table: usize) -> (BTreeMap<String, u64>, usize) {
        let name = &self.tables[table];
        let mut numbers = Numbers(0x2545_f491_4f6c_dd1d + table as u64);
        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        let (mut next, mut count) = (0u32, 0);
        while self.goes_on() {
            let mut new = |wanted: &BTreeMap<String, u64>, numbers: &mut Numbers| {
                // An old one anew, now and then.
                if !wanted.is_empty() && numbers.below(3) == 0 {
                    let (key, value) = wanted.iter().nth(numbers.below(wanted.len())).unwrap();
                    let value = checksum(key, (value >> 48) % 15 + 1);
                    return (key.clone(), value);
                }
                next += 1;
                let [_, a, b, c] = next.to_be_bytes();
                let key = match table {
                    0 => format!("10.8.{b}.{c}:{}-10.0.0.9:9", 1000 + u32::from(a)),
                    _ => format!("10.9.{b}.{c}"),
                };
                let value = checksum(&key, 0);
                (key, value)
            };
            match numbers.below(10) {
                0..4 => {
                    let (key, value) = new(&wanted, &mut numbers);
                    self.rig
                        .run(&["table", "add", name, &key, &value.to_string()])
                        .ok();
                    wanted.insert(key, value);
                    count += 1;
                }
                4..7 => {
                    let some: BTreeMap<_, _> =
                        (0..30).map(|_| new(&wanted, &mut numbers)).collect();
                    let lines: String = some.iter().map(|(k, v)| format!("{k} {v}\n")).collect();
                    self.load(name, &lines);
                    count += some.len();
                    wanted.extend(some);
                }
                _ if wanted.len() > MANY => {
                    self.rig.run(&["table", "flush", name]).ok();
                    count += wanted.len();
                    wanted.clear();
                }
                _ if !wanted.is_empty() => {
                    let key = wanted
                        .keys()
                        .nth(numbers.below(wanted.len()))
                        .unwrap()
                        .clone();
                    let removed = self.rig.run(&["--json", "table", "del", name, &key]).ok();
                    assert_eq!(removed.json()["removed"], 1, "{key} was lost");
                    wanted.remove(&key);
                    count += 1;
                }
                _ => {}
            }
        }
        (wanted, count)
    }

    fn elements(&self, table: usize) -> BTreeMap<String, u64> {
        let shown = self
            .rig
            .run(&["--json", "table", "show", &self.tables[table]])
            .ok()
            .json();
        let elements = shown["elements"].as_object().unwrap().iter();
        let plain = |key: &String| key.strip_suffix("/32").unwrap_or(key).to_owned();
        elements
            .map(|(k, v)| (plain(k), v.as_u64().unwrap()))
            .collect()
    }

    /// What is shown meanwhile is whole; how often.
    fn read_all_the_time(&self) -> usize {
        let mut count = 0;
        while self.goes_on() {
            for table in 0..2 {
                for (key, value) in self.elements(table) {
                    assert_whole(&key, value);
                }
            }
            assert_eq!(self.rig.status()["drift"], json!([]));
            let shown = self.rig.run(&["--json", "show"]).ok().json();
            let chains = shown["chains"].as_array().unwrap();
            assert!(chains.len() >= 5, "{shown}");
            count += 4;
        }
        count
    }
}

/// What is counted when nothing changes any more: the kernel frees programs after a while.
fn settled(count: impl Fn() -> Loaded) -> Loaded {
    let mut last = count();
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(50));
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

fn soak(tc: Tc) {
    let soak = Soak::new(tc);
    let rig = &soak.rig;
    soak.apply_one();
    let (tree, shared) = (rig.bpffs.tree(), Loaded::shared(&rig.bpffs));
    let once = settled(|| Loaded::by(&shared, &soak.tables));
    println!("{tc:?}: {once}");
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    let frames = Family::ALL.map(|family| ack(family, 80));
    let traffic = Traffic::start(&rig.far, "p0", frames.into(), RATE);
    let (applies, edits, reads) = std::thread::scope(|scope| {
        let applier = scope.spawn(|| soak.apply_all_the_time());
        let editors = [0, 1].map(|table| {
            scope.spawn({
                let soak = &soak;
                move || soak.edit_all_the_time(table)
            })
        });
        let reads = soak.read_all_the_time();
        (
            applier.join().unwrap(),
            editors.map(|e| e.join().unwrap()),
            reads,
        )
    });
    let sent = traffic.finish();
    let seen = judge.read();
    let status = rig.status();
    let changes: usize = edits.iter().map(|(_, count)| count).sum();
    println!(
        "{tc:?}, {:?}: {applies} exchanges, {changes} entries changed, {reads} reads; {sent} packets, \
         {} lost, {} mixed, {} untreated",
        duration(),
        sent - seen.total,
        seen.mixed,
        seen.untreated,
    );
    assert!(applies > 10 && changes > 100 && reads > 10);
    assert_eq!(sent, seen.total, "packets were lost");
    assert_eq!((seen.mixed, seen.untreated), (0, 0));
    assert_eq!(status["reasons"], json!({}));
    assert_eq!(
        chain_packets(&status, "mark"),
        Some(sent),
        "counters were lost"
    );
    for (table, (wanted, _)) in edits.iter().enumerate() {
        let found = soak.elements(table);
        for (key, value) in &found {
            assert_whole(key, *value);
        }
        assert_eq!(found.len(), wanted.len(), "entries were lost, or came back");
        assert_eq!(&found, wanted);
    }

    // The kernel has what one apply makes, and no more.
    soak.apply_one();
    let after = || Loaded::by(&shared, &soak.tables);
    let whole = Instant::now();
    wait_for("what was before is gone", FREED, || after() == once);
    println!("{tc:?}: {} again, within {:?}", after(), whole.elapsed());
    assert_eq!(rig.bpffs.tree(), tree);
    rig.run(&["delete"]).ok();
    rig.assert_nothing_left();
    wait_for("all of it is gone", FREED, || after() == Loaded::default());
}

#[test]
fn root_soak_tcx() {
    soak(Tc::Tcx);
}

#[test]
fn root_soak_clsact() {
    soak(Tc::Clsact);
}
