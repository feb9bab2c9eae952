//! Every row of the fixtures through the programs, in the kernel, on every hook
//! of its module (`tests/README.md`).

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use emptcp::datapath::Options;
use emptcp::datapath::Verdict as Ended;
use emptcp::module::Family as HookFamily;
use emptcp::module::Hook;
use emptcp::module::Kind;
use emptcp::module::Module;
use emptcp::module::Registry;
use emptcp_test::Framing;
use emptcp_test::csum;
use emptcp_test::fixtures;
use emptcp_test::fixtures::Case;
use emptcp_test::fixtures::Entry;
use emptcp_test::fixtures::Outcome;
use emptcp_test::fixtures::Verdict;
use emptcp_test::tshark;
use kernel::Done;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;

/// `$EMPTCP_FIXTURES`, else those of the source tree.
fn entries() -> Vec<Entry> {
    let dir = match std::env::var_os("EMPTCP_FIXTURES") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modules")),
    };
    let cases = fixtures::load_dir(&dir).unwrap_or_else(|e| panic!("{e}"));
    cases.iter().flat_map(Case::expand).collect()
}

#[test]
fn every_module_has_a_fixture() {
    let tested: BTreeSet<String> = entries().into_iter().map(|e| e.module).collect();
    let registry = Registry::builtin().unwrap();
    let modules = registry.modules().iter().map(|m| m.name.clone());
    assert_eq!(modules.collect::<BTreeSet<_>>(), tested);
}

/// Hooks of an entry: those of the module, as far as the fixture allows.
fn hooks(entry: &Entry, module: &Module) -> Vec<Hook> {
    let named: Option<Vec<Hook>> = entry
        .hooks
        .as_ref()
        .map(|names| names.iter().map(|name| kernel::hook(name)).collect());
    let hooks = module.hooks.iter().copied();
    hooks
        .filter(|hook| named.as_ref().is_none_or(|named| named.contains(hook)))
        .collect()
}

/// The step under test in a chain of its own, a chain behind that tells whether
/// emptcp's part went on, and one in front where other actors come first.
fn chains(first: &[Value], kind: Kind, step: &Value, on_error: &str) -> Vec<Value> {
    let mut tested = match kind {
        Kind::Selector => json!({ "select": step, "act": [{ "accept": {} }] }),
        Kind::Actor => json!({ "act": [step] }),
    };
    tested["name"] = "tested".into();
    tested["on_error"] = on_error.into();
    let behind = json!({ "name": "behind", "priority": 1, "act": [{ "accept": {} }] });
    let front =
        (!first.is_empty()).then(|| json!({ "name": "front", "priority": -1, "act": first }));
    front.into_iter().chain([tested, behind]).collect()
}

/// A module with its parameters, on a hook.
struct Subject {
    kind: Kind,
    edits: bool,
    /// Chains in front of that of the step.
    front: usize,
    loaded: Loaded,
}

impl Subject {
    fn load(
        registry: &Registry,
        module: &Module,
        (params, tables, first): (&Value, &Value, &[Value]),
        hook: Hook,
        options: Options,
    ) -> Result<Self, String> {
        let step = json!({ module.name.as_str(): params });
        let on_error = match options.drop_undecidable {
            true => "drop",
            false => "pass",
        };
        let chains = chains(first, module.kind, &step, on_error);
        Ok(Self {
            kind: module.kind,
            edits: module.flags.edits,
            front: chains.len() - 2,
            loaded: Loaded::with_tables(registry, hook, &chains, tables, options)?,
        })
    }

    fn node(&self, chain: usize, kind: Kind) -> usize {
        let nodes = self.loaded.nodes(self.front + chain, kind);
        assert_eq!(nodes.len(), 1, "{:?}", self.loaded.graph);
        nodes[0]
    }

    /// Runs an entry; returns what differs from what it expects.
    fn check(&mut self, entry: &Entry, hook: Hook) -> Result<(Done, Vec<String>), String> {
        if entry.fresh {
            let forgotten = self.loaded.instance.forget();
            forgotten.map_err(|e| format!("{e:#}"))?;
        }
        for packet in &entry.before {
            self.loaded.run(packet, entry.mark)?;
        }
        let done = self.loaded.run(&entry.input, entry.mark)?;
        let mut wrong = Vec::new();
        let mut same = |what: &str, found: String, expected: String| {
            if found != expected {
                wrong.push(format!("{what}: found {found}, expected {expected}"));
            }
        };
        let tested = done.counters[self.node(0, self.kind)];
        let behind = done.counters[self.node(1, Kind::Actor)];
        let first_actor = done.counters[self.node(0, Kind::Actor)];

        let outcome = match (&entry.outcome, tested.matched, tested.errors) {
            (Outcome::Match, 1, 0)
                if done.reasons.keys().eq(entry.counts.iter())
                    && done.reasons.values().all(|n| *n == 1) =>
            {
                format!("{:?}", Outcome::Match)
            }
            _ if !done.reasons.is_empty() || entry.counts.is_some() => {
                let names: Vec<_> = done.reasons.iter().map(|(r, n)| (r.as_str(), *n)).collect();
                match names[..] {
                    [(name, 1)] if tested.matched == 0 && tested.errors == tested.evaluated => {
                        format!("{:?}", Outcome::Error(name.to_owned()))
                    }
                    _ => format!("{tested:?} {names:?}"),
                }
            }
            (_, 1, 0) if tested.evaluated == 1 => format!("{:?}", Outcome::Match),
            (_, 0, 0) if tested.evaluated <= 1 => format!("{:?}", Outcome::Miss),
            _ => format!("{tested:?}"),
        };
        same("outcome", outcome, format!("{:?}", entry.outcome));

        let ended = match done.verdict {
            Ended::Pass => "pass",
            Ended::Drop => "drop",
            Ended::Other(7) if HookFamily::from(hook) == HookFamily::Tc => "redirect",
            // XDP_TX and XDP_REDIRECT.
            Ended::Other(3 | 4) if HookFamily::from(hook) == HookFamily::Xdp => "redirect",
            Ended::Other(_) => "something else",
        };
        let expected = match entry.verdict {
            Verdict::Pass | Verdict::Accept => "pass",
            Verdict::Drop => "drop",
            Verdict::Redirect => "redirect",
        };
        same("verdict", ended.to_owned(), expected.to_owned());
        // Where the step ran and did not end emptcp's part, the next chain follows;
        // the actor of the chain of a selector ends it.
        let goes_on = tested.evaluated == 1
            && match self.kind {
                Kind::Selector => tested.matched == 0,
                Kind::Actor => entry.verdict == Verdict::Pass,
            };
        same(
            "runs of the chain behind",
            behind.evaluated.to_string(),
            u64::from(goes_on).to_string(),
        );
        let acted = match self.kind {
            Kind::Selector => tested.matched,
            Kind::Actor => tested.evaluated,
        };
        let bytes = acted * entry.input.len() as u64;
        same(
            "bytes of the chain",
            first_actor.bytes.to_string(),
            bytes.to_string(),
        );

        if done.run.packet != entry.expected {
            wrong.push(format!(
                "packet: in\n  {:02x?}, out\n  {:02x?}, expected\n  {:02x?}",
                entry.input, done.run.packet, entry.expected
            ));
        }
        if HookFamily::from(hook) == HookFamily::Tc && done.run.mark != entry.expected_mark {
            wrong.push(format!(
                "mark: found {:#x}, expected {:#x}",
                done.run.mark, entry.expected_mark
            ));
        }
        // What is edited twice is as what is edited once, unless that is what it is for.
        if self.edits && entry.twice && entry.verdict == Verdict::Pass && wrong.is_empty() {
            let again = self.loaded.run(&done.run.packet, entry.mark)?;
            if again.run.packet != done.run.packet {
                wrong.push(format!("twice: {:02x?}", again.run.packet));
            }
        }
        Ok((done, wrong))
    }
}

/// Parameters and tables, and what comes first.
fn given(entry: &Entry) -> (&Value, &Value, &[Value]) {
    (&entry.params, &entry.tables, &entry.first)
}

fn module<'r>(registry: &'r Registry, name: &str) -> &'r Module {
    let found = registry.modules().iter().find(|m| m.name == name);
    found.unwrap_or_else(|| panic!("there is no module {name}"))
}

/// Whether the tracker comes before the step.
fn is_tracked(entry: &Entry, module: &Module) -> bool {
    module.is_tracked(|param| entry.params.get(param).is_some())
}

/// What is loaded once, and the rows for it.
struct Load<'a> {
    module: &'a Module,
    hook: Hook,
    raw_ip: bool,
    entries: Vec<&'a Entry>,
}

impl Load<'_> {
    fn subject(&self, registry: &Registry) -> Result<Subject, String> {
        let options = Options {
            raw_ip: self.raw_ip,
            ..Options::default()
        };
        let given = given(self.entries[0]);
        Subject::load(registry, self.module, given, self.hook, options)
    }
}

/// The loads that the rows need on this kernel, with at most so many different parameters of a
/// module. Where there is such a limit, of those that come after the tracker, which takes the
/// verifier longest, actors are loaded with one and at one hook, and selectors are left to
/// [`root_tracked_modules_load_by_themselves`].
fn loads<'a>(
    registry: &'a Registry,
    entries: impl IntoIterator<Item = &'a Entry>,
    most: Option<usize>,
) -> Vec<Load<'a>> {
    let mut loads = BTreeMap::<(&str, String, Hook, bool), Load<'_>>::new();
    let mut known = BTreeMap::<(&str, bool), BTreeSet<String>>::new();
    for entry in entries {
        let module = module(registry, &entry.module);
        if module.since > kernel::version() {
            continue;
        }
        for hook in hooks(entry, module) {
            let raw_ip = entry.framing == Framing::RawIp;
            let given = format!("{} {} {:?}", entry.params, entry.tables, entry.first);
            if let Some(most) = most {
                let tracked = is_tracked(entry, module);
                let most = if tracked { 1 } else { most };
                let known = known.entry((&module.name, tracked)).or_default();
                let elsewhere = hook != Hook::TcIngress || raw_ip || module.kind == Kind::Selector;
                let is_new = !known.contains(&given);
                if tracked && elsewhere || is_new && known.len() == most {
                    continue;
                }
                known.insert(given.clone());
            }
            let load = loads.entry((&module.name, given, hook, raw_ip));
            let load = load.or_insert_with(|| Load {
                module,
                hook,
                raw_ip,
                entries: Vec::new(),
            });
            load.entries.push(entry);
        }
    }
    loads.into_values().collect()
}

/// How many different parameters of a module are loaded, if not all. An emulated verifier takes
/// seconds for what that of this machine does in milliseconds.
fn most_parameters() -> Option<usize> {
    let given = std::env::var("EMPTCP_FIXTURES_MOST").ok();
    let given = given.map(|given| given.parse().unwrap());
    given.or(kernel::in_guest().then_some(2))
}

/// What became of the rows of a load.
#[derive(Default)]
struct Checked<'a> {
    failures: Vec<String>,
    outputs: Vec<(&'a Entry, Hook, Vec<u8>)>,
    refused: usize,
    took: Duration,
}

fn check<'a>(registry: &Registry, load: &Load<'a>) -> Checked<'a> {
    let hook = load.hook;
    let mut checked = Checked::default();
    let start = Instant::now();
    let subject = load.subject(registry);
    checked.took = start.elapsed();
    let mut subject = match subject {
        Ok(subject) => subject,
        Err(e) => {
            let failure = format!("{} {hook}: {e}", load.entries[0].name);
            checked.failures.push(failure);
            return checked;
        }
    };
    for entry in &load.entries {
        match subject.check(entry, hook) {
            Ok((done, wrong)) => {
                if !wrong.is_empty() {
                    let failure = format!("{} {hook}:\n  {}", entry.name, wrong.join("\n  "));
                    checked.failures.push(failure);
                }
                checked.outputs.push((entry, hook, done.run.packet));
            }
            Err(_) if refused_at_tc(entry, hook) => checked.refused += 1,
            Err(e) => checked.failures.push(format!("{} {hook}: {e}", entry.name)),
        }
    }
    checked
}

#[test]
fn root_every_row_on_every_hook() {
    let registry = Registry::builtin().unwrap();
    let entries = entries();
    let start = Instant::now();
    let most = most_parameters();
    let loads = loads(&registry, &entries, most);
    let number = loads.len();
    let mut runs = BTreeMap::<&str, usize>::new();
    for load in &loads {
        *runs.entry(load.hook.name()).or_default() += load.entries.len();
    }
    let mut all = Checked::default();
    let mut times = Vec::new();
    let checked = kernel::on_all_cpus(loads, |load| {
        let checked = check(&registry, &load);
        (checked, load.module.name.as_str(), load.hook.name())
    });
    for (checked, name, hook) in checked {
        times.push((checked.took, name, hook));
        all.failures.extend(checked.failures);
        all.outputs.extend(checked.outputs);
        all.refused += checked.refused;
    }
    times.sort_unstable();
    times.reverse();
    times.truncate(8);
    println!(
        "{number} loads, runs: {runs:?}, {} refused, {:?}; the longest: {times:?}",
        all.refused,
        start.elapsed()
    );
    // Three rows of two families at two hooks.
    let right = all.refused == 0 || all.refused == 12 || most.is_some();
    assert!(right, "{} refused", all.refused);
    all.failures.extend(decode(&all.outputs));
    assert!(
        all.failures.is_empty(),
        "{} of {} rows:\n{}",
        all.failures.len(),
        all.outputs.len(),
        all.failures.join("\n")
    );
    let least = if most.is_some() { 200 } else { 1000 };
    assert!(runs.len() == Hook::ALL.len() && runs.values().all(|n| *n > least));
}

/// Modules that go by what the tracker remembers, at each of their hooks without the tracker: what
/// the verifier says of them in a guest, too.
#[test]
fn root_tracked_modules_load_by_themselves() {
    let registry = Registry::builtin().unwrap();
    let entries = entries();
    let mut first = BTreeMap::<&str, &Entry>::new();
    for entry in &entries {
        let module = module(&registry, &entry.module);
        if is_tracked(entry, module) && module.since <= kernel::version() {
            first.entry(&module.name).or_insert(entry);
        }
    }
    let work: Vec<(&Entry, Hook)> = first
        .values()
        .flat_map(|entry| {
            let hooks = hooks(entry, module(&registry, &entry.module));
            hooks.into_iter().map(|hook| (*entry, hook))
        })
        .collect();
    assert!(work.len() > 30, "{}", work.len());
    let loaded = kernel::on_all_cpus(work, |(entry, hook)| {
        let module = module(&registry, &entry.module);
        let (params, tables, _) = given(entry);
        let chains = chains(
            &[],
            module.kind,
            &json!({ module.name.as_str(): params }),
            "pass",
        );
        let compiled = kernel::compile_with(&registry, hook, &chains, tables, false)?;
        let mut loaded = Loaded::of(&registry, compiled, Options::default())?;
        let done = loaded.run(&entry.input, entry.mark)?;
        let node = loaded.nodes(0, module.kind)[0];
        match done.counters[node].evaluated {
            1 => Ok(()),
            _ => Err(format!("{} at {hook}: {done:?}", module.name)),
        }
    });
    let failures: Vec<String> = loaded.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What others find in the packets as they came out: tshark the fields, the sums
/// from scratch the checksums.
fn decode(outputs: &[(&Entry, Hook, Vec<u8>)]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut fail = |entry: &Entry, hook, what: String| {
        failures.push(format!("{} {hook}: {what}", entry.name));
    };
    for (entry, hook, packet) in outputs {
        // Wrong ones, too, must stay as wrong as they were.
        let (before, after) = (
            csum::sums(&entry.input, entry.framing),
            csum::sums(packet, entry.framing),
        );
        let off = |sums: csum::Sums| (sums.ip.map(csum::Sum::off), sums.tcp.map(csum::Sum::off));
        if off(before) != off(after) {
            fail(
                entry,
                *hook,
                format!("checksums: {before:04x?} to {after:04x?}"),
            );
        }
    }
    if kernel::in_guest() {
        kernel::skipped("no tshark in a guest: outputs are compared by their bytes and checksums");
        return failures;
    }
    // The same bytes come out on every hook.
    let mut distinct: BTreeMap<(RawIp, &[u8]), (&Entry, Hook)> = BTreeMap::new();
    for (entry, hook, packet) in outputs {
        let key = (entry.framing == Framing::RawIp, packet.as_slice());
        distinct.entry(key).or_insert((entry, *hook));
    }
    let frames = distinct
        .iter()
        .map(|((_, bytes), (e, _))| (e.framing, *bytes));
    let decoded = tshark::decode(frames).unwrap();
    for ((entry, hook), found) in distinct.values().zip(&decoded) {
        let differences = found.differences(&entry.output, entry.family);
        if !differences.is_empty() {
            fail(entry, *hook, format!("tshark: {differences:?}"));
        }
    }
    println!("tshark decoded {} different outputs", decoded.len());
    failures
}

/// Does it begin with IP?
type RawIp = bool;

/// A chain with `"on_error": "drop"`: what cannot be decided is dropped, for each reason that a
/// packet can have, and what is decided is treated as without.
#[test]
fn root_undecidable_packets_are_dropped_where_the_chain_says_so() {
    let registry = Registry::builtin().unwrap();
    let tcp = module(&registry, "tcp");
    let entries: Vec<Entry> = entries()
        .into_iter()
        .filter(|e| e.module == "tcp" && e.params == json!({}))
        .collect();
    for hook in Hook::ALL {
        for raw_ip in [false, true] {
            let options = Options {
                raw_ip,
                drop_undecidable: true,
                ..Options::default()
            };
            let mut subject =
                Subject::load(&registry, tcp, (&json!({}), &json!({}), &[]), hook, options)
                    .unwrap();
            let mut dropped = BTreeSet::new();
            for entry in entries
                .iter()
                .filter(|e| (e.framing == Framing::RawIp) == raw_ip)
            {
                let done = match subject.loaded.run(&entry.input, 0) {
                    Err(_) if refused_at_tc(entry, hook) => continue,
                    done => done.unwrap(),
                };
                let expected = match &entry.outcome {
                    Outcome::Error(reason) => {
                        dropped.insert(reason.clone());
                        assert_eq!(done.reasons, BTreeMap::from([(reason.clone(), 1)]));
                        Ended::Drop
                    }
                    _ => Ended::Pass,
                };
                assert_eq!(done.verdict, expected, "{} {hook}", entry.name);
                assert_eq!(done.run.packet, entry.input, "{} {hook}", entry.name);
            }
            let mut reasons =
                BTreeSet::from(["bad_ip", "bad_tcp", "ext_headers", "fragment", "truncated"]);
            if !raw_ip {
                reasons.insert("vlan_depth");
            }
            let dropped: BTreeSet<&str> = dropped.iter().map(String::as_str).collect();
            assert_eq!(dropped, reasons, "{hook}");
        }
    }
}

/// New kernels give no test run at tc to a packet that ends before the IP header that
/// its Ethernet header announces. (Behind VLAN tags they do not look.)
fn refused_at_tc(entry: &Entry, hook: Hook) -> bool {
    let header = match entry.input.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => return false,
    };
    hook != Hook::Xdp && entry.framing == Framing::Ethernet && entry.input.len() < 14 + header
}

/// An edit that is done is not done again.
#[test]
fn root_a_clamped_window_stays_as_it_is() {
    let registry = Registry::builtin().unwrap();
    let entries = entries();
    let clamped = |e: &&Entry| e.module == "set_recv_win" && e.input != e.expected;
    let loads = loads(&registry, entries.iter().filter(clamped), most_parameters());
    // See most_parameters(): the tracker once more, for the same rows.
    let loads: Vec<_> = (loads.into_iter())
        .filter(|load| !kernel::in_guest() || !is_tracked(load.entries[0], load.module))
        .collect();
    let edits = kernel::on_all_cpus(loads, |load| {
        let mut subject = load.subject(&registry).unwrap();
        for entry in &load.entries {
            if entry.fresh {
                subject.loaded.instance.forget().unwrap();
            }
            for before in &entry.before {
                subject.loaded.run(before, 0).unwrap();
            }
            let once = subject.loaded.run(&entry.input, 0).unwrap().run.packet;
            assert_ne!(once, entry.input, "{} {}", entry.name, load.hook);
            let twice = subject.loaded.run(&once, 0).unwrap().run.packet;
            assert_eq!(once, twice, "{} {}", entry.name, load.hook);
        }
        load.entries.len()
    });
    let edits: usize = edits.into_iter().sum();
    assert!(edits > 100, "{edits}");
}

/// Each module again, on its hooks, by a user that has nothing but what emptcp asks for.
#[test]
fn root_three_capabilities_are_enough_for_every_module() {
    if kernel::in_guest() {
        return kernel::skipped("no setpriv in the guest");
    }
    // Copies, that the user can read wherever the tree is.
    let folder = std::env::temp_dir().join(format!("emptcp-fixtures-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("fixtures");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let rows = folder.join("modules");
    std::fs::create_dir(&rows).unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modules")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), rows.join(file.file_name())).unwrap();
    }
    let three = "-all,+bpf,+perfmon,+net_admin";
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}={three}")))
        .arg(&program)
        .args(["--exact", "root_every_row_on_every_hook", "--nocapture"])
        .env("EMPTCP_FIXTURES", &rows)
        .env("EMPTCP_FIXTURES_MOST", "2")
        .env("HOME", &folder)
        .output();
    std::fs::remove_dir_all(&folder).unwrap();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

/// What would forge an authentication or break connections cannot even be written down.
#[test]
fn inject_has_no_option_that_is_not_an_outsiders() {
    let registry = Registry::builtin().unwrap();
    let with = |params: Value| {
        let act = json!([{ "inject": params }]);
        let chains = [json!({ "name": "c", "act": act })];
        kernel::compile(&registry, Hook::TcEgress, &chains).map(|_| ())
    };
    let compile = |option: &str| with(json!({ "option": option }));
    for option in ["mp_capable", "mp_join", "dss", "add_addr", "mp_tcprst"] {
        let error = compile(option).unwrap_err();
        assert!(error.contains("expected \"remove_addr\""), "{error}");
    }
    assert_eq!(compile("remove_addr"), Ok(()));
    assert_eq!(compile("mp_fail"), Ok(()));
    let error = compile("mp_fastclose").unwrap_err();
    assert!(
        error.contains("\"number\" is missing: option \"mp_fastclose\" needs it"),
        "{error}"
    );
    let known = json!({ "option": "mp_fastclose", "number": "0x1122334455667788" });
    assert_eq!(with(known), Ok(()));
}

/// The headers that make packets grow, by a module that knows nothing else and remembers nothing;
/// and that a row says so: without `"twice": false` it fails.
#[test]
fn root_a_module_from_outside_makes_packets_grow() {
    if kernel::in_guest() {
        return kernel::skipped("there is no compiler");
    }
    let registry = kernel::registry_with(&["add_nops"]);
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/modules-src/add_nops.json"
    );
    let cases = fixtures::load(std::path::Path::new(path)).unwrap_or_else(|e| panic!("{e}"));
    let module = module(&registry, "add_nops");
    let mut outputs: Vec<(&Entry, Hook, Vec<u8>)> = Vec::new();
    let entries: Vec<Entry> = cases.iter().flat_map(Case::expand).collect();
    for entry in &entries {
        for hook in hooks(entry, module) {
            let options = Options {
                raw_ip: entry.framing == Framing::RawIp,
                ..Options::default()
            };
            let mut subject =
                Subject::load(&registry, module, given(entry), hook, options).unwrap();
            let (done, wrong) = subject.check(entry, hook).unwrap();
            assert_eq!(wrong, [""; 0], "{} {hook}", entry.name);
            outputs.push((entry, hook, done.run.packet));
        }
    }
    assert_eq!(decode(&outputs), [""; 0]);

    let mut entry = entries[0].clone();
    entry.twice = true;
    let mut subject = Subject::load(
        &registry,
        module,
        given(&entry),
        Hook::TcEgress,
        Options::default(),
    )
    .unwrap();
    let (_, wrong) = subject.check(&entry, Hook::TcEgress).unwrap();
    assert!(wrong.iter().any(|w| w.starts_with("twice: ")), "{wrong:?}");
}
