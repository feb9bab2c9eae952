//! A module with parameters on a hook, loaded, and what it did with packets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use emptcp::datapath::Options;
use emptcp::datapath::TestRun;
use emptcp::datapath::Verdict;
use emptcp::module::Hook;
use emptcp::module::Kind;
use emptcp::module::Module;
use emptcp::module::Registry;
use emptcp_test::Framing;
use emptcp_test::fixtures::Entry;
use serde_json::Value;
use serde_json::json;

use super::judge;
use super::judge::May;
use super::judge::Run;
use super::kernel;
use super::kernel::Loaded;

/// What is loaded once.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'r> {
    pub(crate) module: &'r Module,
    pub(crate) params: Value,
    pub(crate) tables: Value,
    /// Actors of a chain in front.
    pub(crate) first: Vec<Value>,
    pub(crate) hook: Hook,
    pub(crate) framing: Framing,
    /// A row with these parameters changes its packet.
    pub(crate) changes: bool,
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} at {}, {:?}",
            self.module.name, self.params, self.hook, self.framing
        )?;
        match self.tables.as_object() {
            Some(tables) if tables.is_empty() => {}
            _ => write!(f, ", tables {}", self.tables)?,
        }
        match self.first[..] {
            [] => Ok(()),
            _ => write!(f, ", behind {}", Value::from(self.first.clone())),
        }
    }
}

/// All modules with the parameters of their fixtures, by module and hook.
pub(crate) fn wanted<'r>(registry: &'r Registry, entries: &[Entry]) -> Vec<Vec<Wanted<'r>>> {
    let mut groups: BTreeMap<(&str, Hook), BTreeMap<String, Wanted<'r>>> = BTreeMap::new();
    for entry in entries {
        let module = registry.modules().iter().find(|m| m.name == entry.module);
        let Some(module) = module.filter(|m| m.since <= kernel::version()) else {
            continue;
        };
        for hook in module.hooks.iter().copied() {
            let named = entry.hooks.as_ref();
            if named.is_some_and(|names| !names.iter().any(|name| *name == hook.name())) {
                continue;
            }
            let key = format!(
                "{} {} {:?} {:?}",
                entry.params, entry.tables, entry.first, entry.framing
            );
            let group = groups.entry((&module.name, hook)).or_default();
            let wanted = group.entry(key).or_insert_with(|| Wanted {
                module,
                params: entry.params.clone(),
                tables: entry.tables.clone(),
                first: entry.first.clone(),
                hook,
                framing: entry.framing,
                changes: false,
            });
            wanted.changes |= entry.input != entry.expected;
        }
    }
    groups
        .into_values()
        .map(|g| g.into_values().collect())
        .collect()
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) packets: usize,
    /// By the kernel, which gives no test run to some.
    pub(crate) refused: usize,
    changed: usize,
    /// Of these: payload became an option.
    carriers: usize,
    dropped: usize,
    evaluated: u64,
    matched: u64,
    errors: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.refused += other.refused;
        self.changed += other.changed;
        self.carriers += other.carriers;
        self.dropped += other.dropped;
        self.evaluated += other.evaluated;
        self.matched += other.matched;
        self.errors += other.errors;
    }

    /// A test that packets do not reach proves nothing.
    pub(crate) fn did_its_work(&self, may: &May) -> Result<(), String> {
        for (what, is) in [
            ("no packet reached it", self.evaluated > 0),
            ("did nothing", self.matched > 0 || !may.matches()),
            ("changed nothing", self.changed > 0 || !may.edits()),
            ("made no carrier", self.carriers > 0 || !may.carries()),
            ("dropped nothing", self.dropped > 0 || !may.drops()),
        ] {
            if !is {
                return Err(format!("{what}: {self}"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} packets, {} refused, {} evaluated, {} matched, {} errors, {} changed, {} carriers, \
             {} dropped",
            self.packets,
            self.refused,
            self.evaluated,
            self.matched,
            self.errors,
            self.changed,
            self.carriers,
            self.dropped
        )
    }
}

/// A packet that went through.
#[derive(Debug)]
pub(crate) struct Went {
    /// What the actors in front made of it: the packet that the module is given.
    given: Vec<u8>,
    /// The mark then, and at the end.
    marks: (u32, u32),
    /// The actors in front ended it: the module is not asked.
    ended: Option<Verdict>,
    pub(crate) verdict: Verdict,
    pub(crate) run: TestRun,
}

/// One of them, loaded.
pub(crate) struct Subject<'w, 'r> {
    wanted: &'w Wanted<'r>,
    /// Where actors come first: these alone. What leaves them is what the module is given.
    front: Option<Loaded>,
    loaded: Loaded,
    node: usize,
    seen: Seen,
}

impl<'w, 'r> Subject<'w, 'r> {
    pub(crate) fn load(registry: &Registry, wanted: &'w Wanted<'r>) -> Result<Self, String> {
        let kind = wanted.module.kind;
        let step = json!({ wanted.module.name.as_str(): wanted.params });
        let chain = match kind {
            Kind::Selector => json!({ "name": "fuzz", "select": step, "act": [{ "accept": {} }] }),
            Kind::Actor => json!({ "name": "fuzz", "act": [step] }),
        };
        let options = Options {
            raw_ip: wanted.framing == Framing::RawIp,
            ..Options::default()
        };
        let first = (!wanted.first.is_empty())
            .then(|| json!({ "name": "first", "priority": -1, "act": wanted.first }));
        let load = |chains: &[Value]| {
            Loaded::with_tables(registry, wanted.hook, chains, &wanted.tables, options)
        };
        let front = first.as_ref().map(|f| load(std::slice::from_ref(f)));
        let front = front.transpose()?;
        let before = usize::from(front.is_some());
        let chains: Vec<Value> = first.into_iter().chain([chain]).collect();
        let loaded = load(&chains)?;
        let node = loaded.nodes(before, kind)[0];
        let subject = Self {
            wanted,
            front,
            loaded,
            node,
            seen: Seen::default(),
        };
        subject.are_read();
        Ok(subject)
    }

    /// Nobody reads the rings: most packets are copied, the others find them full.
    fn are_read(&self) {
        let hour = Duration::from_secs(3600);
        kernel::captures_are_read(&self.loaded.instance, hour, 0);
        kernel::events_are_read(&self.loaded.instance, hour);
    }

    /// Runs packets that only matter for what is remembered of them, and forgets all before.
    pub(crate) fn remember(&self, packets: &[Vec<u8>]) {
        for loaded in self.front.iter().chain([&self.loaded]) {
            loaded.instance.forget().unwrap();
        }
        self.are_read();
        for packet in packets {
            // What the kernel gives no test run was not seen.
            let _ = self.run(packet, 0);
        }
    }

    /// Runs a packet once.
    pub(crate) fn run(&self, packet: &[u8], mark: u32) -> Result<Went, String> {
        let at_tc = self.wanted.hook != Hook::Xdp;
        let run = |loaded: &Loaded| {
            let run = loaded.instance.run(packet, at_tc.then_some(mark), 1);
            run.map_err(|e| format!("{e:#}"))
        };
        let (given, mark, ended) = match &self.front {
            Some(front) => {
                let (verdict, run) = run(front)?;
                let ended = (verdict != Verdict::Pass).then_some(verdict);
                (run.packet, run.mark, ended)
            }
            None => (packet.to_vec(), mark, None),
        };
        let (verdict, run) = run(&self.loaded)?;
        Ok(Went {
            given,
            // XDP has none.
            marks: if at_tc { (mark, run.mark) } else { (0, 0) },
            ended,
            verdict,
            run,
        })
    }

    /// Runs a packet, and judges what became of it.
    pub(crate) fn try_packet(
        &mut self,
        may: &May,
        packet: &[u8],
        mark: u32,
    ) -> Result<(), Vec<String>> {
        self.seen.packets += 1;
        let Ok(went) = self.run(packet, mark) else {
            self.seen.refused += 1;
            return Ok(());
        };
        let (given, run) = (&went.given, &went.run);
        self.seen.dropped += usize::from(went.verdict == Verdict::Drop);
        let mut faults = match went.ended {
            None => judge::faults(
                may,
                &Run {
                    framing: self.wanted.framing,
                    before: (given, went.marks.0),
                    after: (&run.packet, went.marks.1),
                    verdict: went.verdict,
                },
            ),
            Some(ended) => {
                // What a step in front takes (hold_join) it lets pass where the module has sent it.
                let was_sent = matches!(ended, Verdict::Other(_)) && went.verdict == Verdict::Pass;
                let same = (ended == went.verdict || was_sent)
                    && *given == run.packet
                    && went.marks.0 == went.marks.1;
                let fault = format!("{:?}, without the module {ended:?}", went.verdict);
                (!same).then_some(fault).into_iter().collect()
            }
        };
        if run.packet != *given {
            self.seen.changed += 1;
            let carrier = judge::is_carrier(self.wanted.framing, given, &run.packet);
            self.seen.carriers += usize::from(carrier && may.carries());
            self.once_more(packet, mark, &went, &mut faults);
        }
        if faults.is_empty() {
            return Ok(());
        }
        faults.push(format!("in  {}", hex(packet)));
        if self.front.is_some() {
            faults.push(format!("for {} {}", self.wanted.module.name, hex(given)));
        }
        faults.push(format!("out {}", hex(&run.packet)));
        Err(faults)
    }

    /// A packet that was changed counts as one that was treated; one that has been edited is not
    /// edited again.
    fn once_more(&mut self, packet: &[u8], mark: u32, went: &Went, faults: &mut Vec<String>) {
        if self.wanted.module.flags.impure {
            return;
        }
        // So that what was counted before is not taken for this packet's.
        let again = self.counted().and_then(|before| {
            let again = self.run(packet, mark)?;
            let after = self.counted()?;
            Ok((again, after.0 - before.0, after.1 - before.1))
        });
        match again {
            Err(e) => faults.push(e),
            Ok((again, matched, errors)) => {
                let treated = again.run.packet != again.given;
                if treated && (matched, errors) != (1, 0) {
                    faults.push(format!("counts {matched} matches and {errors} errors"));
                }
            }
        }
        let edited = &went.run.packet;
        if edited.len() != went.given.len() {
            return;
        }
        match self.run(edited, mark) {
            Ok(twice) if twice.verdict == Verdict::Pass && twice.run.packet != twice.given => {
                faults.push(format!("edited twice {}", hex(&twice.run.packet)));
            }
            Ok(_) => {}
            Err(e) => faults.push(format!("what was edited is refused: {e}")),
        }
    }

    /// Matches and errors.
    fn counted(&self) -> Result<(u64, u64), String> {
        let counters = self
            .loaded
            .instance
            .counters()
            .map_err(|e| format!("{e:#}"))?;
        Ok((counters[self.node].matched, counters[self.node].errors))
    }

    /// What was counted, at the end.
    pub(crate) fn finish(mut self, may: &May) -> Result<Seen, String> {
        let counters = self
            .loaded
            .instance
            .counters()
            .map_err(|e| format!("{e:#}"))?;
        let counters = counters[self.node];
        (self.seen.evaluated, self.seen.matched, self.seen.errors) =
            (counters.evaluated, counters.matched, counters.errors);
        let reasons = self
            .loaded
            .instance
            .reasons()
            .map_err(|e| format!("{e:#}"))?;
        match reasons.iter().find(|(name, _)| !may.counts(name)) {
            Some((name, n)) => Err(format!("{n} packets count as {name}, which cannot be")),
            None => Ok(self.seen),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A packet of a message.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    module: String,
    params: Value,
    tables: Value,
    #[serde(default)]
    first: Vec<Value>,
    hook: String,
    raw_ip: bool,
    /// Packets before, of modules that go by them.
    #[serde(default)]
    since: Vec<String>,
    pub(crate) mark: u32,
    pub(crate) packet: String,
}

impl Replay {
    pub(crate) fn of(wanted: &Wanted<'_>, since: &[Vec<u8>], packet: &[u8], mark: u32) -> Self {
        Self {
            module: wanted.module.name.clone(),
            params: wanted.params.clone(),
            tables: wanted.tables.clone(),
            first: wanted.first.clone(),
            hook: wanted.hook.name().to_owned(),
            raw_ip: wanted.framing == Framing::RawIp,
            since: since.iter().map(|p| hex(p)).collect(),
            mark,
            packet: hex(packet),
        }
    }

    pub(crate) fn wanted<'r>(&self, registry: &'r Registry) -> Wanted<'r> {
        let module = registry.modules().iter().find(|m| m.name == self.module);
        Wanted {
            module: module.unwrap_or_else(|| panic!("there is no module {}", self.module)),
            params: self.params.clone(),
            tables: self.tables.clone(),
            first: self.first.clone(),
            hook: kernel::hook(&self.hook),
            framing: if self.raw_ip {
                Framing::RawIp
            } else {
                Framing::Ethernet
            },
            changes: false,
        }
    }

    pub(crate) fn packet(&self) -> Vec<u8> {
        bytes(&self.packet)
    }

    pub(crate) fn since(&self) -> Vec<Vec<u8>> {
        self.since.iter().map(|p| bytes(p)).collect()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "again: scripts/fuzz.sh again '{json}'")
    }
}
