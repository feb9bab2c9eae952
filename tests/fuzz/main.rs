//! Packets that nobody thought of through every module, on every hook of it: `tests/README.md`.

#![allow(clippy::unwrap_used)]

#[path = "../kernel/mod.rs"]
mod kernel;

mod judge;
mod layout;
mod mutate;
mod parts;
mod subject;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use emptcp::datapath::Verdict as Ended;
use emptcp::module::Registry;
use emptcp_test::Framing;
use emptcp_test::fixtures;
use emptcp_test::fixtures::Case;
use emptcp_test::fixtures::Entry;
use emptcp_test::pcap;
use fastrand::Rng;
use judge::May;
use judge::Run;
use mutate::Pool;
use mutate::Seed;
use subject::Replay;
use subject::Seen;
use subject::Subject;
use subject::Wanted;

/// Packets in a run of the test suite.
const PACKETS: usize = 400_000;
/// Packets of one step, so that loading is not what takes the time.
const PACKETS_EACH: usize = 300;
const SEED: u64 = 0x8684;
/// What the tracker remembers is made anew behind so many packets.
const HISTORY_EVERY: usize = 16;
/// Frames of which a test run at tc takes no more.
const LONGEST: usize = 3400;
/// After so many the run ends.
const FAILURES: usize = 5;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |n| {
        n.parse().unwrap_or_else(|_| panic!("{name}={n}"))
    })
}

fn entries() -> Vec<Entry> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modules");
    let cases = fixtures::load_dir(&dir).unwrap_or_else(|e| panic!("{e}"));
    cases.iter().flat_map(Case::expand).collect()
}

/// Packets of fixtures, by module, and of captures, under "".
fn seeds(entries: &[Entry]) -> BTreeMap<String, Vec<Seed>> {
    let mut known = BTreeSet::new();
    let mut seeds: BTreeMap<String, Vec<Seed>> = BTreeMap::new();
    let mut add = |module: &str, bytes: &[u8], framing: Framing| {
        let key = (module.to_owned(), framing == Framing::RawIp, bytes.to_vec());
        if bytes.len() <= LONGEST && known.insert(key) {
            let seed = Seed::new(bytes.to_vec(), framing);
            seeds.entry(module.to_owned()).or_default().push(seed);
        }
    };
    for entry in entries {
        add(&entry.module, &entry.input, entry.framing);
    }
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pcaps")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "pcap") {
            for frame in pcap::read(&path).unwrap() {
                add("", &frame.to_ethernet(), Framing::Ethernet);
            }
        }
    }
    // The order of a folder is no order.
    for of_module in seeds.values_mut() {
        of_module.sort_by(|a, b| a.bytes.cmp(&b.bytes));
    }
    seeds
}

/// What came before the packets of rows, and these, by module and framing: of modules that go by
/// what the tracker remembers, which would know nothing of random packets.
type Histories = BTreeMap<(String, bool), Vec<(Vec<Vec<u8>>, Vec<u8>)>>;

fn histories(registry: &Registry, entries: &[Entry]) -> Histories {
    let mut histories = Histories::new();
    let tracked = |name: &str| {
        let modules = registry.modules().iter();
        modules
            .filter(|m| m.is_tracked(|_| false))
            .any(|m| m.name == name)
    };
    for entry in entries.iter().filter(|e| tracked(&e.module)) {
        let key = (entry.module.clone(), entry.framing == Framing::RawIp);
        let of_module = histories.entry(key).or_default();
        let row = (entry.before.clone(), entry.input.clone());
        if !of_module.contains(&row) {
            of_module.push(row);
        }
    }
    histories
}

/// What the workers share.
struct Fuzz {
    registry: Registry,
    entries: Vec<Entry>,
    seeds: BTreeMap<String, Vec<Seed>>,
    histories: Histories,
    /// Options by module; under "" all.
    pools: BTreeMap<String, Pool>,
    may: BTreeMap<String, May>,
}

impl Fuzz {
    fn new() -> Self {
        let registry = Registry::builtin().unwrap();
        let entries = entries();
        let seeds = seeds(&entries);
        let mut pools: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (module, seeds) in &seeds {
            for option in seeds.iter().flat_map(Seed::options) {
                pools
                    .entry(String::new())
                    .or_default()
                    .insert(option.clone());
                pools.entry(module.clone()).or_default().insert(option);
            }
        }
        let pools = pools
            .into_iter()
            .map(|(m, p)| (m, p.into_iter().collect()))
            .collect();
        let may = registry.modules().iter().map(|m| {
            let rows = entries.iter().filter(|e| e.module == m.name);
            (m.name.clone(), May::new(m, rows))
        });
        let may = may.collect();
        Self {
            histories: histories(&registry, &entries),
            registry,
            entries,
            seeds,
            pools,
            may,
        }
    }

    /// A packet for a step of a module, and its mark.
    fn packet(&self, rng: &mut Rng, module: &str, framing: Framing) -> (Vec<u8>, u32) {
        // Half of them from its own fixtures, with options that it knows.
        let name = if rng.bool() {
            module
        } else {
            [module, "", ""][rng.usize(..3)]
        };
        let all = match self.seeds.get(name) {
            Some(seeds) if !name.is_empty() => seeds,
            _ => {
                let others: Vec<_> = self.seeds.values().collect();
                others[rng.usize(..others.len())]
            }
        };
        let seed = loop {
            let seed = &all[rng.usize(..all.len())];
            if seed.framing == framing || rng.u8(..32) == 0 {
                break seed;
            }
        };
        let pool = self.pools.get(name).filter(|p| p.len() > 3);
        let mut packet = seed.mutated(rng, pool.unwrap_or(&self.pools[""]));
        if seed.framing != framing {
            // What begins otherwise than the program thinks.
            packet.resize(packet.len().max(60), 0);
        }
        packet.truncate(LONGEST);
        (packet, [0, 0, 1, rng.u32(..)][rng.usize(..4)])
    }

    /// So many packets through one step.
    fn run(
        &self,
        wanted: &Wanted<'_>,
        packets: usize,
        seed: u64,
        failures: &Mutex<Vec<String>>,
    ) -> Seen {
        let may = &self.may[&wanted.module.name];
        let mut subject =
            Subject::load(&self.registry, wanted).unwrap_or_else(|e| panic!("{wanted}: {e}"));
        let mut rng = Rng::with_seed(seed);
        let key = (wanted.module.name.clone(), wanted.framing == Framing::RawIp);
        let histories = self.histories.get(&key);
        let mut since: Vec<Vec<u8>> = Vec::new();
        let fail = |since: &[Vec<u8>], packet: &[u8], mark, what: &[String]| {
            let replay = Replay::of(wanted, since, packet, mark);
            failures
                .lock()
                .unwrap()
                .push(format!("{wanted}\n  {}\n  {replay}", what.join("\n  ")));
        };
        for number in 0..packets {
            if number % 64 == 0 && failures.lock().unwrap().len() >= FAILURES {
                break;
            }
            let (mut packet, mark) = self.packet(&mut rng, &wanted.module.name, wanted.framing);
            if let Some(histories) = histories
                && number % HISTORY_EVERY == 0
            {
                let (before, row) = &histories[rng.usize(..histories.len())];
                since.clone_from(before);
                subject.remember(&since);
                // What it is for: that packets of random rows meet it by chance is rare.
                packet.clone_from(row);
                packet.truncate(LONGEST);
            }
            match subject.try_packet(may, &packet, mark) {
                Ok(()) => {}
                Err(faults) => fail(&since, &packet, mark, &faults),
            }
            if histories.is_some() {
                since.push(packet);
            }
        }
        match subject.finish(may) {
            Ok(seen) => seen,
            Err(what) => {
                fail(&[], &[], 0, &[what]);
                Seen::default()
            }
        }
    }
}

/// Every module, with parameters of its fixtures, on every hook of it.
#[test]
fn root_no_packet_breaks_a_promise() {
    let fuzz = Fuzz::new();
    if let Ok(text) = env::var("EMPTCP_FUZZ_REPLAY") {
        return replay(&fuzz, &text);
    }
    let packets = number("EMPTCP_FUZZ_PACKETS", PACKETS as u64) as usize;
    let seed = number("EMPTCP_FUZZ_SEED", SEED);
    let only = env::var("EMPTCP_FUZZ_MODULE").ok();
    let start = Instant::now();
    let mut groups = subject::wanted(&fuzz.registry, &fuzz.entries);
    groups.retain(|of| only.as_ref().is_none_or(|o| *o == of[0].module.name));
    assert!(!groups.is_empty(), "no module of this name: {only:?}");

    // Each module has as many packets on each hook, each of its steps at least PACKETS_EACH.
    let each_group = packets.div_ceil(groups.len());
    let mut rng = Rng::with_seed(seed);
    let mut jobs = Vec::new();
    for mut of_group in groups {
        rng.shuffle(&mut of_group);
        // One that changes packets, where there is any, is never left to chance.
        if let Some(changes) = of_group.iter().position(|w| w.changes) {
            of_group.swap(0, changes);
        }
        of_group.truncate((each_group / PACKETS_EACH).max(1));
        let each = each_group.div_ceil(of_group.len());
        jobs.extend(of_group.into_iter().map(|w| (w, each, rng.u64(..))));
    }

    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let seen: Mutex<BTreeMap<(&str, &str), Seen>> = Mutex::default();
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((wanted, packets, seed)) =
                    jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let one = fuzz.run(wanted, *packets, *seed, &failures);
                    let key = (wanted.module.name.as_str(), wanted.hook.name());
                    seen.lock().unwrap().entry(key).or_default().add(&one);
                }
            });
        }
    });
    let (seen, failures) = (seen.into_inner().unwrap(), failures.into_inner().unwrap());
    let mut all = Seen::default();
    for ((module, hook), one) in &seen {
        println!("{module:16} {hook:10} {one}");
        all.add(one);
    }
    println!(
        "{} steps, {all}, seed {seed}, {:?}",
        jobs.len(),
        start.elapsed()
    );
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
    assert!(
        all.refused * 20 < all.packets,
        "the kernel takes too few of them"
    );
    if packets >= PACKETS && only.is_none() {
        for ((module, hook), one) in &seen {
            one.did_its_work(&fuzz.may[*module])
                .unwrap_or_else(|e| panic!("{module} at {hook}: {e}"));
        }
    }
}

/// The packet of a message, once more.
fn replay(fuzz: &Fuzz, text: &str) {
    let replay: Replay = serde_json::from_str(text).unwrap();
    let wanted = replay.wanted(&fuzz.registry);
    let may = &fuzz.may[&wanted.module.name];
    let mut subject = Subject::load(&fuzz.registry, &wanted).unwrap();
    if !replay.since().is_empty() {
        subject.remember(&replay.since());
    }
    let packet = replay.packet();
    println!("before {}", replay.packet);
    match subject.run(&packet, replay.mark) {
        Ok(went) => println!(
            "after  {} {:?}",
            subject::hex(&went.run.packet),
            went.verdict
        ),
        Err(e) => println!("refused: {e}"),
    }
    subject
        .try_packet(may, &packet, replay.mark)
        .unwrap_or_else(|e| panic!("{}", e.join("\n")));
}

/// The judge sees each kind of fault.
#[test]
fn faults_are_seen() {
    let fuzz = Fuzz::new();
    let may = &fuzz.may["set_recv_win"];
    let row =
        |e: &&Entry| e.module == "set_recv_win" && e.input != e.expected && e.input.len() > 200;
    let entry = fuzz.entries.iter().find(row).unwrap();
    let (before, good) = (entry.input.clone(), entry.expected.clone());
    let judged = |module: &May, verdict, after: &[u8], mark| {
        let run = Run {
            framing: entry.framing,
            before: (&before, 0),
            after: (after, mark),
            verdict,
        };
        judge::faults(module, &run).join("; ")
    };
    assert_eq!(judged(may, Ended::Pass, &good, 0), "");
    let l = layout::layout(&good, entry.framing).unwrap();
    let after = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut after = good.clone();
        change(&mut after);
        judged(may, Ended::Pass, &after, 0)
    };
    for (found, expected) in [
        (judged(may, Ended::Drop, &good, 0), "verdict"),
        (judged(may, Ended::Other(7), &good, 0), "verdict"),
        (judged(may, Ended::Pass, &good, 1), "mark"),
        (
            judged(&fuzz.may["mptcp"], Ended::Pass, &good, 0),
            "no row of its fixtures changes tcp.window",
        ),
        (after(&|p| p[l.tcp + 17] ^= 1), "checksum of TCP"),
        (after(&|p| p[l.payload] ^= 1), "payload is touched"),
        (
            after(&|p| p.swap(l.payload, l.payload + 2)),
            "payload is touched",
        ),
        (after(&|p| p[l.tcp + 5] ^= 1), "changes tcp.seq"),
        (after(&|p| p[l.ip] = 0x25), "no TCP packet any more"),
        (after(&|p| p.push(0)), "bytes become"),
        (after(&|p| p.truncate(p.len() - 1)), "bytes become"),
        (after(&|p| p.truncate(p.len() - 1)), "frame less IP packet"),
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}
