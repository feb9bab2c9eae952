//! What a module of a third party can say and get: compiled here against the
//! headers only, loaded from a folder, unknown to the tree.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use emptcp::datapath::Options;
use emptcp::datapath::Verdict;
use emptcp::module::Hook;
use emptcp::module::Module;
use emptcp::module::Param;
use emptcp::module::Registry;
use emptcp::module::TableKey;
use emptcp::module::Type;
use emptcp::params::check_description;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use emptcp_test::packet::Tcp;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;

/// The modules of these tests, compiled once.
fn registry() -> Registry {
    static COMPILED: LazyLock<Registry> = LazyLock::new(|| {
        kernel::registry_with(&["every_type", "ctx_put", "ctx_get", "tables", "fails"])
    });
    COMPILED.clone()
}

fn module<'r>(registry: &'r Registry, name: &str) -> &'r Module {
    registry.modules().iter().find(|m| m.name == name).unwrap()
}

/// A parameter in words: name, type, documentation, and what is tagged.
fn described(param: &Param) -> String {
    let mut text = format!("{}: {}: {}", param.name, param.ty, param.doc);
    if param.required {
        text += ", required";
    }
    for (what, value) in [
        ("default", &param.default),
        ("min", &param.min),
        ("max", &param.max),
    ] {
        if let Some(value) = value {
            text += &format!(", {what} {value}");
        }
    }
    text
}

#[test]
fn a_module_describes_every_type() {
    let registry = registry();
    let every = module(&registry, "every_type");
    assert_eq!(check_description(every), Vec::<String>::new());
    assert_eq!(every.doc, "Writes down its parameters");
    assert_eq!(every.hooks, Hook::ALL);
    let found: Vec<String> = every.params.iter().map(described).collect();
    assert_eq!(
        found,
        [
            "bytes: bytes: Bytes, min 1KiB, max 1GiB",
            "rate: rate: Rate, default 20Mbit",
            "time: time: Time, required",
            "ratio: ratio: Ratio",
            "addr: address: Address",
            "prefix: prefix: Prefix",
            "port: port: Port",
            "ports: port range: Ports",
            "token: token: Token",
            "interface: interface: Interface",
            "cgroup: cgroup: Cgroup",
            "text: text: Text",
            "yes: bool: Bool",
            "u8: u8: u8",
            "u16: u16: u16",
            "u32: u32: u32",
            "u64: u64: u64",
            "s8: s8: s8, min -100, max 100",
            "s16: s16: s16",
            "s32: s32: s32",
            "s64: s64: s64",
            "colour: one of red, dark_green, blue: Enum, default blue",
            "colours: set of red, dark_green, blue: Set",
            "times: list of time (at most 3): List without a table, min 1ms",
            "palette: list of one of red, dark_green, blue (at most 2): List of an enum",
            "numbers: list of u8 (at most 5): List of small numbers",
            "cgroups: list of cgroup (at most 2): List of cgroups",
            "prefixes: list of prefix: List of prefixes",
            "addrs: list of address: List of addresses",
            "ranges: list of port range: List of ranges",
            "single_ports: list of port: List of ports",
            "tokens: list of token: List of tokens",
        ]
    );
    let values = |name: &str| match &every.params.iter().find(|p| p.name == name).unwrap().ty {
        Type::Enum { values, .. } | Type::Set { values } => {
            values.iter().map(|(_, v)| *v).collect::<Vec<_>>()
        }
        ty => panic!("{ty}"),
    };
    assert_eq!(values("colour"), [0, 5, 40]);
    assert_eq!(values("colours"), [0, 5, 40]);
}

#[test]
fn a_module_describes_references_to_tables() {
    let registry = registry();
    let tables = module(&registry, "tables");
    assert_eq!(check_description(tables), Vec::<String>::new());
    let found: Vec<(String, Type)> = tables
        .params
        .iter()
        .map(|p| (described(p), p.ty.clone()))
        .collect();
    let table = |key, value: Option<Type>| Type::Table {
        key,
        value: value.map(Box::new),
    };
    let wanted = [
        ("yes: bool: Beside the tables", Type::Bool),
        (
            "subflows: table of subflow to bytes: Bytes of subflows, required",
            table(TableKey::Subflow, Some(Type::Bytes)),
        ),
        (
            "prefixes: table of prefix: Any table of prefixes",
            table(TableKey::Prefix, None),
        ),
        (
            "addrs: table of addr to u32: ",
            table(TableKey::Addr, Some(Type::Uint(4))),
        ),
        (
            "tokens: table of token to address: ",
            table(TableKey::Token, Some(Type::Addr)),
        ),
        (
            "ports: table of port to bool: ",
            table(TableKey::Port, Some(Type::Bool)),
        ),
    ];
    let wanted: Vec<(String, Type)> = wanted
        .into_iter()
        .map(|(text, ty)| (text.to_owned(), ty))
        .collect();
    assert_eq!(found, wanted);

    // A required table must be named, and one of that name must exist.
    let chain = |params: Value| {
        let chain =
            json!({ "name": "t", "select": { "tables": params }, "act": [{ "accept": {} }] });
        kernel::compile(&registry, Hook::TcIngress, &[chain]).map(|_| ())
    };
    let missing = chain(json!({})).unwrap_err();
    assert!(missing.contains("\"subflows\" is missing"), "{missing}");
    let unknown = chain(json!({ "subflows": "slow" })).unwrap_err();
    assert!(unknown.contains("no table is named"), "{unknown}");
}

/// Each kind of key but prefixes, which `src` looks up too: the module matches where one of its
/// tables has the packet's.
#[test]
fn root_a_module_from_outside_looks_into_tables() {
    let registry = registry();
    let params = json!({ "subflows": "subflows", "prefixes": "prefixes", "addrs": "addrs",
        "tokens": "tokens", "ports": "ports" });
    let chain = json!({ "name": "t", "select": { "tables": params }, "act": [{ "drop": {} }] });
    let packet: Packet = serde_json::from_value(json!({ "tcp": {} })).unwrap();
    let packet = packet.build(Family::Ip4).unwrap().bytes;
    let empty = json!({
        "subflows": { "type": "subflow", "value": "bytes", "elements": {} },
        "prefixes": { "type": "prefix", "elements": [] },
        "addrs": { "type": "addr", "value": "u32", "elements": {} },
        "tokens": { "type": "token", "value": "addr", "elements": {} },
        "ports": { "type": "port", "value": "bool", "elements": {} },
    });
    let rows = [
        (
            "subflows",
            json!({ "10.0.0.1:40000-10.0.0.2:80": "1KiB" }),
            Verdict::Drop,
        ),
        (
            "subflows",
            json!({ "10.0.0.1:40001-10.0.0.2:80": "1KiB" }),
            Verdict::Pass,
        ),
        ("addrs", json!({ "10.0.0.1": 7 }), Verdict::Drop),
        ("addrs", json!({ "10.0.0.2": 7 }), Verdict::Pass),
        // It takes the port for a token.
        ("tokens", json!({ "0x50": "10.0.0.9" }), Verdict::Drop),
        ("ports", json!({ "80": true }), Verdict::Drop),
        ("ports", json!({ "81": true }), Verdict::Pass),
    ];
    for hook in Hook::ALL {
        for (table, elements, verdict) in &rows {
            let mut tables = empty.clone();
            tables[table]["elements"] = elements.clone();
            let chains = std::slice::from_ref(&chain);
            let loaded = Loaded::with_tables(&registry, hook, chains, &tables, Options::default());
            let done = loaded.unwrap().run(&packet, 0).unwrap();
            assert_eq!(done.verdict, *verdict, "{hook}: {table} {elements}");
        }
    }
}

#[test]
fn a_module_that_describes_itself_wrongly_is_refused() {
    let folder = kernel::Folder::new("wrong");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    kernel::compile_module(
        &root.join("tests/modules-src/wrong_default.bpf.c"),
        &folder.0,
    );
    let emptcp = |folder: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emptcp"));
        let output = command.arg("--modules").arg(folder).arg("modules").output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), errors)
    };
    let (ok, errors) = emptcp(&folder.0);
    assert!(!ok);
    assert!(
        errors.contains("wrong_default describes itself wrongly: every: default 10 bananas"),
        "{errors}"
    );
    let (ok, errors) = emptcp(&kernel::Folder::new("empty").0);
    assert!(ok, "{errors}");
}

/// A map that is tagged as no more belongs to one step.
#[test]
fn root_each_step_has_a_map_of_its_own() {
    let registry = registry();
    let act = ["1ns", "2ns"].map(|n| json!({ "every_type": { "time": n } }));
    let chain = json!({ "name": "tested", "act": act });
    let mut loaded = Loaded::new(&registry, Hook::TcEgress, &[chain], Options::default()).unwrap();
    loaded.run(&packet(Tcp::new(1, 2)), 0).unwrap();
    let seen = loaded.instance.state("seen").unwrap();
    let times: Vec<u64> = seen
        .iter()
        .filter(|(key, _)| *key == 2u32.to_ne_bytes())
        .map(|(_, value)| u64::from_ne_bytes(*value.first_chunk().unwrap()))
        .collect();
    assert_eq!(times, [1, 2]);
}

fn packet(tcp: Tcp) -> Vec<u8> {
    let packet = Packet::new().tcp(tcp);
    packet.build(Family::Ip4).unwrap().bytes
}

/// What the step of `every_type` wrote down, by parameter.
fn seen(registry: &Registry, hook: Hook, params: &Value) -> Vec<[u64; 4]> {
    let chain = json!({ "name": "tested", "act": [{ "every_type": params }] });
    let mut loaded = Loaded::new(registry, hook, &[chain], Options::default()).unwrap();
    // From 10.0.0.1 to port 80.
    let input = packet(Tcp::new(40000, 80).seq(0x1a2b_3c4d, 0));
    let done = loaded.run(&input, 0).unwrap();
    assert_eq!((done.verdict, done.run.packet), (Verdict::Pass, input));
    assert_eq!(done.counters[0].matched, 1);
    let mut values: Vec<(u32, [u64; 4])> = loaded
        .instance
        .state("seen")
        .unwrap()
        .into_iter()
        .map(|(key, value)| {
            let number = |at: usize| u64::from_ne_bytes(*value[at..].first_chunk().unwrap());
            let numbers = [number(0), number(8), number(16), number(24)];
            (u32::from_ne_bytes(*key.first_chunk().unwrap()), numbers)
        })
        .collect();
    values.sort_unstable();
    values.into_iter().map(|(_, v)| v).collect()
}

/// Half of an address that is IPv4 mapped.
fn mapped(a: u8, b: u8, c: u8, d: u8) -> u64 {
    0xffff << 32 | u64::from(u32::from_be_bytes([a, b, c, d]))
}

#[test]
fn root_a_step_sees_every_value() {
    let registry = registry();
    let all = u64::MAX;
    let table = [0xffff_ffff, 0, 0, 1];
    let one = |v: u64| [v, 0, 0, 0];
    // Parameter, as written, as the program sees it.
    type Row = (&'static str, Value, [u64; 4]);
    let single: Vec<Row> = vec![
        ("bytes", json!("64KiB"), one(65536)),
        ("rate", json!("1.5Gbit"), one(1_500_000_000)),
        ("time", json!("100ms"), one(100_000_000)),
        ("ratio", json!("25%"), one(1 << 30)),
        (
            "addr",
            json!("2001:db8::1:2"),
            [0x2001_0db8 << 32, 0x1_0002, 0, 0],
        ),
        (
            "prefix",
            json!("10.1.0.0/16"),
            [0, mapped(10, 1, 0, 0), all, all << 16],
        ),
        ("port", json!(65535), one(65535)),
        ("ports", json!("8000-8010"), [8000, 8010, 0, 0]),
        ("token", json!("0x1a2b3c4d"), one(0x1a2b_3c4d)),
        ("interface", json!("eth0"), one(1)),
        ("cgroup", json!("/"), one(1)),
        (
            "text",
            json!("ten bytes!"),
            [
                u64::from_ne_bytes(*b"ten byte"),
                u64::from_ne_bytes(*b"s!\0\0\0\0\0\0"),
                0,
                0,
            ],
        ),
        ("yes", json!(true), one(1)),
        ("u8", json!(255), one(255)),
        ("u16", json!("0xfffe"), one(0xfffe)),
        ("u32", json!(4_294_967_295_u64), one(0xffff_ffff)),
        (
            "u64",
            json!("0xfedcba9876543210"),
            one(0xfedc_ba98_7654_3210),
        ),
        ("s8", json!(-100), one(-100_i64 as u64)),
        ("s16", json!(-32768), one(-32768_i64 as u64)),
        (
            "s32",
            json!(-2_147_483_648_i64),
            one(-2_147_483_648_i64 as u64),
        ),
        ("s64", json!(-2), one(-2_i64 as u64)),
        ("colour", json!("dark_green"), one(5)),
        ("colours", json!(["blue", "red"]), one(1 << 40 | 1)),
        (
            "times",
            json!(["1s", "1ms", "2s"]),
            [3, 1_000_000_000, 1_000_000, 0],
        ),
        ("palette", json!(["blue", "dark_green"]), [2, 40, 5, 0]),
        ("numbers", json!([1, 2, 3, 4, 5]), [5, 1, 2, 0]),
        ("cgroups", json!(["/", "/a/b"]), [2, 0, 2, 0]),
    ];
    // Each list as it fits into the parameters, then too long for them.
    let lists: Vec<(&str, Value, [u64; 4], Value, bool)> = vec![
        (
            "prefixes",
            json!(["10.0.0.0/8", "2001:db8::/32"]),
            [2, mapped(10, 0, 0, 0) ^ (all << 24), 0, 0],
            json!(["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"]),
            true,
        ),
        (
            "addrs",
            json!("10.0.0.9"),
            [1, mapped(10, 0, 0, 9), mapped(10, 0, 0, 9), 0],
            json!(["10.0.0.9", "10.0.0.1", "::1"]),
            true,
        ),
        (
            "ranges",
            json!([22, "8000-8010"]),
            [2, 22 << 32 | 22, 8000 << 32 | 8010, 0],
            json!([22, "8000-8010", "79-81"]),
            true,
        ),
        (
            "single_ports",
            json!([443, 22]),
            [2, 443, 22, 0],
            json!([443, 22, 81]),
            false,
        ),
        (
            "tokens",
            json!(["0x10", 7]),
            [2, 16, 7, 0],
            json!([1, 2, "0x1a2b3c4d"]),
            true,
        ),
    ];
    let mut params = json!({});
    let mut long = json!({});
    let mut wanted = Vec::new();
    for (name, value, seen) in &single {
        params[*name] = value.clone();
        wanted.push(*seen);
    }
    let mut wanted_long = wanted.clone();
    for (name, value, seen, longer, hit) in &lists {
        params[*name] = value.clone();
        long[*name] = longer.clone();
        wanted.push(*seen);
        wanted_long.push([table[0], 0, 0, u64::from(*hit)]);
    }
    for (name, value, _) in &single {
        long[*name] = value.clone();
    }
    let names = &module(&registry, "every_type").params;
    for hook in Hook::ALL {
        for (params, wanted) in [(&params, &wanted), (&long, &wanted_long)] {
            let found = seen(&registry, hook, params);
            assert_eq!(found.len(), names.len());
            for ((param, found), wanted) in names.iter().zip(&found).zip(wanted) {
                assert_eq!(found, wanted, "{} at {hook}: {params}", param.name);
            }
        }
        // Defaults, and zero where there is none.
        let found = seen(&registry, hook, &json!({ "time": "1ns" }));
        for (param, found) in names.iter().zip(&found) {
            let wanted = match param.name.as_str() {
                "time" => one(1),
                "rate" => one(20_000_000),
                "colour" => one(40),
                _ => [0; 4],
            };
            assert_eq!(*found, wanted, "{} at {hook}, default", param.name);
        }
    }
    // Bounds of the module hold.
    let chain = json!({ "name": "t", "act": [{ "every_type":
        { "bytes": 1023, "time": "1s", "s8": 101, "times": ["1us"], "numbers": [1, 2, 3, 4, 5, 6] } }] });
    let errors = kernel::compile(&registry, Hook::Xdp, &[chain]).unwrap_err();
    for name in ["bytes", "s8", "times[0]", "numbers"] {
        assert!(errors.contains(name), "{name}: {errors}");
    }
}

/// A word that a selector leaves is there for the actor behind, and gone in the next run.
#[test]
fn root_steps_hand_on_words() {
    let registry = registry();
    let chains = [
        json!({ "name": "before", "act": [{ "ctx_get": { "place": 0 } }] }),
        json!({
            "name": "puts", "priority": 1,
            "select": { "all": [{ "tcp": {} }, { "ctx_put": { "value": 0xbeef } }] },
            "act": [{ "ctx_get": { "place": 1 } }],
        }),
        json!({ "name": "behind", "priority": 2, "act": [{ "ctx_get": { "place": 2 } }] }),
    ];
    for hook in Hook::ALL {
        for family in Family::ALL {
            let packet = Packet::new().build(family).unwrap().bytes;
            let mut loaded = Loaded::new(&registry, hook, &chains, Options::default()).unwrap();
            // The second run begins with what the first one left: the context of a packet at tc
            // stays for all runs of one test, and so does the array at XDP.
            loaded.run(&packet, 0).unwrap();
            loaded
                .instance
                .run(&packet, Some(0).filter(|_| hook != Hook::Xdp), 3)
                .unwrap();
            let found: BTreeMap<u32, Vec<u32>> = loaded
                .instance
                .state("found")
                .unwrap()
                .into_iter()
                .map(|(key, value)| {
                    let word = |bytes: &[u8]| u32::from_ne_bytes(*bytes.first_chunk().unwrap());
                    (word(&key), value.chunks(4).map(word).collect())
                })
                .collect();
            let put = vec![0xbef0, 0xbef1, 0xbeef, 0];
            assert_eq!(found[&0], [0; 4], "{hook}: a run begins with zeros");
            assert_eq!(found[&1], put, "{hook}");
            assert_eq!(found[&2], put, "{hook}: chains behind find it too");
        }
    }
}

/// A step that fails: the packet passes with its reason counted, and the next chain
/// runs; or it is dropped, where the chain says so.
#[test]
fn root_a_step_that_fails_passes_or_drops() {
    let registry = registry();
    for hook in Hook::ALL {
        for on_error in ["pass", "drop"] {
            let chains = [
                json!({ "name": "fails", "on_error": on_error, "act": [{ "fails": {} }] }),
                json!({ "name": "behind", "priority": 1, "act": [{ "accept": {} }] }),
            ];
            let mut loaded = Loaded::new(&registry, hook, &chains, Options::default()).unwrap();
            for (flags, reason) in [("S", "map_full"), ("A", "write")] {
                let packet = packet(Tcp::new(40000, 80).flags(flags));
                let done = loaded.run(&packet, 0).unwrap();
                assert_eq!(done.reasons, BTreeMap::from([(reason.to_owned(), 1)]));
                assert_eq!(done.run.packet, packet);
                let (failed, behind) = (done.counters[0], done.counters.get(1));
                assert_eq!((failed.evaluated, failed.matched, failed.errors), (1, 0, 1));
                let (verdict, runs) = match on_error {
                    "pass" => (Verdict::Pass, 1),
                    _ => (Verdict::Drop, 0),
                };
                assert_eq!(done.verdict, verdict, "{hook} {on_error}");
                assert_eq!(behind.map_or(0, |c| c.evaluated), runs, "{hook} {on_error}");
            }
        }
    }
}
