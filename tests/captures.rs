//! Packets of captures that no one here wrote, through every selector: what the
//! programs say is what tshark says.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use emptcp::datapath::Options;
use emptcp::datapath::Verdict;
use emptcp::module::Hook;
use emptcp::module::KernelVersion;
use emptcp::module::Kind;
use emptcp::module::Module;
use emptcp::module::Registry;
use emptcp_test::captures;
use emptcp_test::captures::Captured;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;

/// The longest frame that a test run takes: a page less what the kernel puts before and
/// behind a packet.
const LONGEST: usize = 3520;

fn packets() -> Vec<Captured> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pcaps");
    captures::expected(&dir).unwrap()
}

/// What a selector said of the packets at a hook.
#[derive(Default)]
struct Said<'a> {
    runs: usize,
    matches: u64,
    failures: Vec<String>,
    /// By hook: too long for a test run.
    skipped: Vec<(&'static str, &'a str)>,
}

#[test]
fn root_selectors_say_what_tshark_says() {
    let registry = Registry::builtin().unwrap();
    let packets = packets();
    // Parameters come from the packets: each pair of selector and parameters is loaded once.
    type Packets<'a> = Vec<(&'a Captured, bool)>;
    let mut checks: BTreeMap<(&str, String), (Value, Packets<'_>)> = BTreeMap::new();
    for packet in &packets {
        for check in packet.checks() {
            checks
                .entry((check.module, check.params.to_string()))
                .or_insert_with(|| (check.params, Vec::new()))
                .1
                .push((packet, check.matches));
        }
    }
    // Frames of several pages go through XDP only, in the flavour that takes them.
    let flavours = Hook::ALL.map(|hook| (hook, false));
    let frags = (kernel::version() >= KernelVersion(5, 18)).then_some((Hook::Xdp, true));
    let flavours = flavours.into_iter().chain(frags);
    let work: Vec<_> = flavours
        .flat_map(|flavour| checks.iter().map(move |check| (flavour, check)))
        .collect();
    let (mut runs, mut matches, mut failures) = (0, 0, Vec::new());
    let mut skipped: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let said = kernel::on_all_cpus(work, |((hook, frags), ((module, _), (params, packets)))| {
        let mut said = Said::default();
        // What is as short as others is run as they are.
        let packets: Vec<_> = packets
            .iter()
            .filter(|(packet, _)| !frags || packet.bytes.len() > LONGEST)
            .collect();
        if packets.is_empty() {
            return said;
        }
        let chain = json!({
            "name": "tested",
            "select": { *module: params },
            "act": [{ "accept": {} }],
        });
        let options = Options {
            frags,
            ..Options::default()
        };
        let mut loaded = Loaded::new(&registry, hook, &[chain], options).unwrap();
        let [node] = loaded.nodes(0, Kind::Selector)[..] else {
            panic!("{:?}", loaded.graph);
        };
        for (packet, expected) in packets {
            if packet.bytes.len() > LONGEST && !frags {
                said.skipped.push((hook.name(), &packet.name));
                continue;
            }
            let done = loaded.run(&packet.bytes, 0).unwrap();
            let tcp = packet.facts.tcp.is_some();
            let counters = done.counters[node];
            said.runs += 1;
            said.matches += counters.matched;
            let right = counters.matched == u64::from(*expected)
                && counters.evaluated == u64::from(tcp)
                && done.reasons.is_empty()
                && done.verdict == Verdict::Pass
                && done.run.packet == packet.bytes;
            if !right {
                said.failures.push(format!(
                    "{} {module} {params} at {hook}, expected {expected}: {done:?}",
                    packet.name
                ));
            }
        }
        said
    });
    for said in said {
        runs += said.runs;
        matches += said.matches;
        failures.extend(said.failures);
        for (hook, name) in said.skipped {
            skipped.entry(hook).or_default().insert(name);
        }
    }
    println!(
        "{} loads a hook, {runs} runs, {matches} matches",
        checks.len()
    );
    assert!(
        failures.is_empty(),
        "{}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    // Two frames of GSO.
    for (hook, names) in &skipped {
        assert_eq!(
            names.len(),
            2,
            "too long for a test run at {hook}: {names:?}"
        );
    }
    let tested: BTreeSet<&str> = checks.keys().map(|(module, _)| *module).collect();
    let modules = registry.modules().iter();
    // What only tc knows of a packet (mark, cgroup) is not in a capture; what goes by the packets
    // before is for replay/tracked.rs and police.rs.
    let by_others = |m: &Module| m.flags.tracked || m.flags.tracks || m.name == "limit";
    let of_packet = |m: &&Module| !by_others(m) && m.hooks == Hook::ALL;
    let known = modules.filter(|m| m.kind == Kind::Selector && of_packet(m));
    assert_eq!(tested, known.map(|m| m.name.as_str()).collect());
}
