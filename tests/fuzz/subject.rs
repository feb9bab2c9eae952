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
            Some(tables) if tables.is_empty() => Ok(()),
            _ => write!(f, ", tables {}", self.tables),
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
            let key = format!("{} {} {:?}", entry.params, entry.tables, entry.framing);
            let group = groups.entry((&module.name, hook)).or_default();
            let wanted = group.entry(key).or_insert_with(|| Wanted {
                module,
                params: entry.params.clone(),
                tables: entry.tables.clone(),
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
        self.dropped += other.dropped;
        self.evaluated += other.evaluated;
        self.matched += other.matched;
        self.errors += other.errors;
    }

    /// A test that packets do not reach proves nothing.
    pub(crate) fn did_its_work(&self, may: &May) -> Result<(), String> {
        for (what, is) in [
            ("no packet reached it", self.evaluated > 0),
            ("did nothing", self.matched > 0),
            ("changed nothing", self.changed > 0 || !may.edits()),
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
            "{} packets, {} refused, {} evaluated, {} matched, {} errors, {} changed, {} dropped",
            self.packets,
            self.refused,
            self.evaluated,
            self.matched,
            self.errors,
            self.changed,
            self.dropped
        )
    }
}

/// One of them, loaded.
pub(crate) struct Subject<'w, 'r> {
    wanted: &'w Wanted<'r>,
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
        let loaded = Loaded::with_tables(registry, wanted.hook, &[chain], &wanted.tables, options)?;
        // Nobody reads the ring: most packets are copied, the others find it full.
        kernel::captures_are_read(&loaded.instance, Duration::from_secs(3600), 0);
        let node = loaded.nodes(0, kind)[0];
        Ok(Self {
            wanted,
            loaded,
            node,
            seen: Seen::default(),
        })
    }

    /// Runs packets that only matter for what is remembered of them, and forgets all before.
    pub(crate) fn remember(&self, packets: &[Vec<u8>]) {
        self.loaded.instance.forget().unwrap();
        for packet in packets {
            // What the kernel gives no test run was not seen.
            let _ = self.run(packet, 0);
        }
    }

    /// Runs a packet once.
    pub(crate) fn run(&self, packet: &[u8], mark: u32) -> Result<(Verdict, TestRun), String> {
        let mark = (self.wanted.hook != Hook::Xdp).then_some(mark);
        self.loaded
            .instance
            .run(packet, mark, 1)
            .map_err(|e| format!("{e:#}"))
    }

    /// Runs a packet, and judges what became of it.
    pub(crate) fn try_packet(
        &mut self,
        may: &May,
        packet: &[u8],
        mark: u32,
    ) -> Result<(), Vec<String>> {
        self.seen.packets += 1;
        let Ok((verdict, run)) = self.run(packet, mark) else {
            self.seen.refused += 1;
            return Ok(());
        };
        // XDP has none.
        let marks = match self.wanted.hook {
            Hook::Xdp => (0, 0),
            _ => (mark, run.mark),
        };
        self.seen.dropped += usize::from(verdict == Verdict::Drop);
        let mut faults = judge::faults(
            may,
            &Run {
                framing: self.wanted.framing,
                before: (packet, marks.0),
                after: (&run.packet, marks.1),
                verdict,
            },
        );
        if run.packet != packet {
            self.seen.changed += 1;
            self.once_more(packet, mark, &run, &mut faults);
        }
        if faults.is_empty() {
            return Ok(());
        }
        faults.push(format!("in  {}", hex(packet)));
        faults.push(format!("out {}", hex(&run.packet)));
        Err(faults)
    }

    /// A packet that was changed counts as one that was treated; one that has been edited is not
    /// edited again.
    fn once_more(&mut self, packet: &[u8], mark: u32, run: &TestRun, faults: &mut Vec<String>) {
        if self.wanted.module.flags.impure {
            return;
        }
        // So that what was counted before is not taken for this packet's.
        let again = self.counted().and_then(|before| {
            let again = self.run(packet, mark)?.1;
            let after = self.counted()?;
            Ok((again, after.0 - before.0, after.1 - before.1))
        });
        match again {
            Err(e) => faults.push(e),
            Ok((again, matched, errors)) => {
                let treated = again.packet != packet;
                if treated && (matched, errors) != (1, 0) {
                    faults.push(format!("counts {matched} matches and {errors} errors"));
                }
            }
        }
        if run.packet.len() != packet.len() {
            return;
        }
        match self.run(&run.packet, mark) {
            Ok((Verdict::Pass, twice)) if twice.packet != run.packet => {
                faults.push(format!("edited twice {}", hex(&twice.packet)));
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
