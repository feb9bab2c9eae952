//! Fixtures: tables of packets, parameters and outcomes in `tests/modules`.
//! Their format is described in `tests/README.md`.
//!
//! ```no_run
//! for case in emptcp_test::fixtures::load_dir("tests/modules".as_ref()).unwrap() {
//!     for entry in case.expand() {
//!         println!("{} {} -> {:?}", entry.name, entry.params, entry.outcome);
//!         // load entry.module with entry.params, run it on entry.input,
//!         // compare the bytes with entry.expected and the mark with entry.expected_mark
//!     }
//! }
//! ```

use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;

use crate::Framing;
use crate::hosts::Family;
use crate::hosts::substitute;
use crate::options::Opt;
use crate::packet::Packet;
use crate::packet::Vlan;

/// Names of hooks.
pub const HOOKS: [&str; 3] = ["xdp", "tc-ingress", "tc-egress"];

/// One row of a fixture.
#[derive(Clone, Debug)]
pub struct Case {
    /// Module under test.
    pub module: String,
    /// Name, unique in its file.
    pub name: String,
    /// Hooks to run on; all of the module if not given.
    pub hooks: Option<Vec<String>>,
    families: Vec<Family>,
    variants: Vec<Variant>,
    params: Value,
    tables: Value,
    first: Vec<Value>,
    fresh: bool,
    before: Vec<Packet>,
    input: Packet,
    mark: u32,
    output: Packet,
    twice: bool,
    expect: Expect,
}

/// One run: a row in one family and variant.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Module under test.
    pub module: String,
    /// Name of the row.
    pub case: String,
    /// Name for messages: module, case, family, variant.
    pub name: String,
    /// Family of the packet.
    pub family: Family,
    /// Variant of the packet.
    pub variant: Variant,
    /// Hooks to run on; all of the module if not given.
    pub hooks: Option<Vec<String>>,
    /// Parameters of the step, hosts replaced by addresses.
    pub params: Value,
    /// Tables of the policy, hosts replaced by addresses.
    pub tables: Value,
    /// Actors of a chain in front.
    pub first: Vec<Value>,
    /// What the frame begins with.
    pub framing: Framing,
    /// Runs where the module remembers nothing but the packets of `before`.
    pub fresh: bool,
    /// Frames that the step sees first.
    pub before: Vec<Vec<u8>>,
    /// Frame before.
    pub input: Vec<u8>,
    /// Mark before (tc).
    pub mark: u32,
    /// Where the step has to go on.
    pub outcome: Outcome,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Frame after.
    pub expected: Vec<u8>,
    /// Mark after (tc).
    pub expected_mark: u32,
    /// Reason that is counted although the packet was treated.
    pub counts: Option<String>,
    /// What comes out stays as it is when it runs through the step again.
    pub twice: bool,
    /// Description of the frame after, to compare with what tshark finds in it.
    pub output: Packet,
}

/// Where a step goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On its match link (an actor: has done its work).
    Match,
    /// On its miss link.
    Miss,
    /// Nowhere: the packet passes as it was and this reason is counted.
    Error(String),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Passes; chains behind go on.
    #[default]
    Pass,
    /// Passes; emptcp's part ends here.
    Accept,
    /// Is dropped.
    Drop,
    /// Goes to another interface.
    Redirect,
}

/// A change of the packet that must not change the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// None.
    Plain,
    /// One VLAN tag.
    Vlan,
    /// Two VLAN tags, 0x88a8 outside.
    Qinq,
    /// No Ethernet header.
    RawIp,
    /// IPv4 options; hop-by-hop and destination options of IPv6.
    IpOptions,
    /// A timestamps option before all others.
    Timestamps,
}

impl Variant {
    fn apply(self, mut packet: Packet) -> Result<Packet, String> {
        match self {
            Variant::Plain => {}
            Variant::Vlan | Variant::Qinq if !packet.vlan.is_empty() => {
                return Err("the packet has tags of its own".into());
            }
            Variant::Vlan => packet.vlan = vec![Vlan::new(5)],
            Variant::Qinq => packet.vlan = vec![Vlan::new(100), Vlan::new(5)],
            Variant::RawIp => packet.raw_ip = true,
            Variant::IpOptions if packet.ip4.is_some() || packet.ip6.is_some() => {
                return Err("the packet has a family of its own".into());
            }
            Variant::IpOptions => packet.ip.get_or_insert_default().options = true,
            Variant::Timestamps => {
                let mut tcp = packet.tcp_header().ok_or("the packet is not TCP")?;
                tcp.options.insert(0, Opt::Timestamps(1000, 2000));
                packet.tcp = Some(tcp);
            }
        }
        Ok(packet)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    module: String,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    defaults: Map<String, Value>,
    cases: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    params: Map<String, Value>,
    #[serde(default)]
    tables: Map<String, Value>,
    #[serde(default)]
    first: Vec<Value>,
    #[serde(default)]
    hooks: Option<Vec<String>>,
    #[serde(default)]
    families: Option<Vec<String>>,
    #[serde(default)]
    variants: Option<Vec<Variant>>,
    #[serde(default)]
    fresh: bool,
    /// Each laid over `in` before it is read: see `read_case`.
    #[serde(default)]
    before: Vec<Map<String, Value>>,
    #[serde(default = "yes")]
    twice: bool,
    #[serde(default, rename = "in")]
    input: Packet,
    #[serde(default)]
    mark: u32,
    expect: Expect,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(rename = "match", default = "matches")]
    outcome: Outcome,
    #[serde(default)]
    verdict: Verdict,
    /// Merged into the JSON of the input before it is read: see `read_case`.
    #[serde(default)]
    out: Option<Map<String, Value>>,
    #[serde(default)]
    mark: Option<u32>,
    /// A reason that is counted although the packet was treated.
    #[serde(default)]
    counts: Option<String>,
}

fn yes() -> bool {
    true
}

fn matches() -> Outcome {
    Outcome::Match
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::Bool(true) => return Ok(Self::Match),
            Value::Bool(false) => return Ok(Self::Miss),
            Value::String(s) => s.strip_prefix("error:").map(|r| Self::Error(r.into())),
            _ => None,
        }
        .ok_or_else(|| D::Error::custom("expected true, false or \"error:<reason>\""))
    }
}

/// JSON in which no key stands twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, _>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} stands twice")));
            }
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

/// Lays `over` over `base`: objects field by field, null takes a field away,
/// everything else replaces.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn typed<'de, T: Deserialize<'de>>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|e| match e.path().to_string().as_str() {
        "." => e.inner().to_string(),
        path => format!("{path}: {}", e.inner()),
    })
}

fn read_case(module: &str, defaults: &Value, case: Value) -> Result<Case, String> {
    let mut merged = defaults.clone();
    merge(&mut merged, case);
    let row: Row = typed(merged.clone())?;

    let mut output = match merged.get_mut("in").map(Value::take) {
        Some(input) => input,
        None => Map::new().into(),
    };
    if !row.before.is_empty() && !row.fresh {
        return Err("before: another row would see it; this one must be \"fresh\"".into());
    }
    let before = row.before.iter().map(|packet| {
        let mut seen = output.clone();
        merge(&mut seen, packet.clone().into());
        typed(seen).map_err(|e| format!("before: {e}"))
    });
    let before = before.collect::<Result<Vec<Packet>, _>>()?;
    if let Some(out) = row.expect.out.clone() {
        if row.expect.outcome != Outcome::Match {
            return Err("expect.out: only an actor that matches changes a packet".into());
        }
        merge(&mut output, out.into());
    }
    let output: Packet = typed(output).map_err(|e| format!("expect.out: {e}"))?;

    let hooks = row.hooks.as_deref().unwrap_or_default();
    if let Some(hook) = hooks.iter().find(|h| !HOOKS.contains(&h.as_str())) {
        return Err(format!("hooks: expected one of {HOOKS:?}, found {hook:?}"));
    }
    let possible = row.input.families();
    let families = match row.families {
        None => possible,
        Some(names) => names
            .iter()
            .map(|name| {
                possible
                    .iter()
                    .find(|f| f.name() == name)
                    .copied()
                    .ok_or_else(|| format!("families: the packet does not exist as {name:?}"))
            })
            .collect::<Result<_, _>>()?,
    };
    let variants = row.variants.unwrap_or_else(|| vec![Variant::Plain]);
    if families.is_empty() || variants.is_empty() {
        return Err("no family or no variant: the case would never run".into());
    }
    Ok(Case {
        module: module.into(),
        name: row.name,
        hooks: row.hooks,
        families,
        variants,
        params: row.params.into(),
        tables: row.tables.into(),
        first: row.first,
        fresh: row.fresh,
        before,
        input: row.input,
        mark: row.mark,
        output,
        twice: row.twice,
        expect: row.expect,
    })
}

impl Case {
    fn entry(&self, family: Family, variant: Variant) -> Result<Entry, String> {
        let of_variant = |e| format!("variant {variant:?}: {e}");
        let mut params = self.params.clone();
        substitute(&mut params, family).map_err(|e| format!("params: {e}"))?;
        let mut tables = self.tables.clone();
        substitute(&mut tables, family).map_err(|e| format!("tables: {e}"))?;
        let input = variant.apply(self.input.clone()).map_err(of_variant)?;
        let output = variant.apply(self.output.clone()).map_err(of_variant)?;
        let seen = self.before.iter().map(|packet| {
            let packet = variant.apply(packet.clone()).map_err(of_variant)?;
            let built = packet.build(family);
            Ok(built.map_err(|e| format!("before: {e}"))?.bytes)
        });
        let before = seen.collect::<Result<_, String>>()?;
        let built = input.build(family).map_err(|e| format!("in: {e}"))?;
        let after = output
            .build(family)
            .map_err(|e| format!("expect.out: {e}"))?;
        if built.bytes == after.bytes && self.expect.out.is_some() {
            return Err("expect.out: changes nothing".into());
        }
        Ok(Entry {
            module: self.module.clone(),
            case: self.name.clone(),
            name: format!(
                "{}: {} ({}, {variant:?})",
                self.module,
                self.name,
                family.name()
            ),
            family,
            variant,
            hooks: self.hooks.clone(),
            params,
            tables,
            first: self.first.clone(),
            framing: built.framing,
            fresh: self.fresh,
            before,
            input: built.bytes,
            mark: self.mark,
            outcome: self.expect.outcome.clone(),
            verdict: self.expect.verdict,
            expected: after.bytes,
            expected_mark: self.expect.mark.unwrap_or(self.mark),
            counts: self.expect.counts.clone(),
            twice: self.twice,
            output,
        })
    }

    fn entries(&self) -> Result<Vec<Entry>, String> {
        let runs = self
            .families
            .iter()
            .flat_map(|f| self.variants.iter().map(|v| (*f, *v)));
        runs.map(|(family, variant)| self.entry(family, variant))
            .collect()
    }

    /// The runs of this case: one for each family and variant.
    pub fn expand(&self) -> Vec<Entry> {
        // `parse` has built every one of them.
        self.entries().unwrap()
    }
}

/// Reads the text of a fixture. Errors name the file, the case and the field.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let Strict(value) = serde_json::from_str(text).map_err(|e| format!("{file}: {e}"))?;
    let parsed: File = typed(value).map_err(|e| format!("{file}: {e}"))?;
    let defaults = Value::Object(parsed.defaults);
    let mut cases: Vec<Case> = Vec::new();
    for (i, case) in parsed.cases.into_iter().enumerate() {
        let name = case
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("without name")
            .to_string();
        let error = |e| format!("{file}: case {i} ({name}): {e}");
        let case = read_case(&parsed.module, &defaults, case.into()).map_err(error)?;
        if cases.iter().any(|c| c.name == name) {
            return Err(error("name: stands twice".into()));
        }
        case.entries().map_err(error)?;
        cases.push(case);
    }
    if cases.is_empty() {
        return Err(format!("{file}: no cases"));
    }
    Ok(cases)
}

/// Reads a fixture. A file is named for its module, unless its name begins with `_`.
pub fn load(path: &Path) -> Result<Vec<Case>, String> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
    let cases = parse(&file, &text)?;
    let stem = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    match cases.first() {
        Some(case) if !stem.starts_with('_') && case.module != stem => Err(format!(
            "{file}: module: expected {stem:?}, found {:?}",
            case.module
        )),
        _ => Ok(cases),
    }
}

/// Paths of the fixtures in a directory, in their order.
fn paths(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let error = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut paths = Vec::new();
    for file in fs::read_dir(dir).map_err(error)? {
        let path = file.map_err(error)?.path();
        if path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads every fixture in a directory, by name of file.
pub fn load_dir(dir: &Path) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for path in paths(dir)? {
        cases.extend(load(&path)?);
    }
    Ok(cases)
}
