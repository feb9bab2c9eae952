use proptest::prelude::*;
use serde_json::Value as Plain;
use serde_json::json;

use super::fake::TwoInterfaces;
use super::fake::colours;
use super::fake::list;
use super::fake::module;
use super::fake::paint;
use super::fake::registry;
use super::*;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Type;
use crate::policy::Diagnostic;
use crate::policy::Fragment;
use crate::policy::Table;
use crate::schema::tests::accepts_params;

fn named(name: &str) -> Module {
    registry()
        .into_iter()
        .find(|module| module.name == name)
        .unwrap()
}

fn tables() -> Vec<Table> {
    let text = br#"{ "version": 1, "tables": {
        "slow": { "type": "subflow", "value": "bytes" },
        "capped": { "type": "subflow", "value": "bytes", "default": "8KiB" },
        "tiny": { "type": "subflow", "value": "bytes", "default": 1 },
        "seen": { "type": "subflow" },
        "rates": { "type": "prefix", "value": "rate" },
        "private": { "type": "prefix" } } }"#;
    let fragment = Fragment {
        name: "t".to_owned(),
        bytes: text.to_vec(),
    };
    crate::policy::parse(&[fragment]).unwrap().tables
}

fn encode_text(module: &Module, text: &str) -> Result<Encoded, Vec<Diagnostic>> {
    let (json, _) = crate::policy::read("p.json", text.as_bytes()).unwrap();
    let encoded = encode(module, &json, &TwoInterfaces, &tables());
    if encoded.is_ok() {
        accepts_params(module, text);
    }
    encoded
}

/// The bytes of one parameter.
fn bytes_of(module: &Module, name: &str, text: &str) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let param = module
        .params
        .iter()
        .find(|param| param.name == name)
        .unwrap();
    let encoded = encode_text(module, &format!("{{ {name:?}: {text} }}"))?;
    Ok(encoded.bytes[param.offset..][..scalar::size(&param.ty).unwrap()].to_vec())
}

fn error(result: Result<impl std::fmt::Debug, Vec<Diagnostic>>) -> String {
    let errors = result.expect_err("must fail");
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_single_type() {
    let mapped = |last: [u8; 4]| [&[0; 10][..], &[0xff, 0xff], &last].concat();
    let v4_mask = |last: [u8; 4]| [&[0xff; 12][..], &last].concat();
    for (name, text, expected) in [
        ("bytes", "\"64KiB\"", 65536u64.to_ne_bytes().to_vec()),
        ("rate", "\"20Mbit\"", 20_000_000u64.to_ne_bytes().to_vec()),
        ("time", "\"100ms\"", 100_000_000u64.to_ne_bytes().to_vec()),
        ("ratio", "0.5", 0x8000_0000u32.to_ne_bytes().to_vec()),
        ("ratio", "1", u32::MAX.to_ne_bytes().to_vec()),
        ("addr", "\"10.0.0.1\"", mapped([10, 0, 0, 1])),
        ("addr", "\"::1\"", [&[0; 15][..], &[1]].concat()),
        (
            "prefix",
            "\"10.0.0.0/8\"",
            [mapped([10, 0, 0, 0]), v4_mask([255, 0, 0, 0])].concat(),
        ),
        ("prefix", "\"::/0\"", vec![0; 32]),
        ("port", "443", 443u16.to_ne_bytes().to_vec()),
        (
            "ports",
            "\"8000-8010\"",
            [8000u16.to_ne_bytes(), 8010u16.to_ne_bytes()].concat(),
        ),
        (
            "token",
            "\"0x1a2b3c4d\"",
            0x1a2b_3c4du32.to_ne_bytes().to_vec(),
        ),
        ("interface", "\"wwan0\"", 3u32.to_ne_bytes().to_vec()),
        ("text", "\"fifteen bytes..\"", b"fifteen bytes..\0".to_vec()),
        (
            "cgroup",
            "\"/web\"",
            [&7u64.to_ne_bytes()[..], &1u32.to_ne_bytes(), &[0; 4]].concat(),
        ),
        ("bool", "true", vec![1]),
        ("u8", "255", vec![255]),
        ("u16", "\"0xfff\"", 0xfffu16.to_ne_bytes().to_vec()),
        ("u32", "4294967295", u32::MAX.to_ne_bytes().to_vec()),
        (
            "u64",
            "18446744073709551615",
            u64::MAX.to_ne_bytes().to_vec(),
        ),
        ("s8", "-128", vec![0x80]),
        ("s16", "-2", (-2i16).to_ne_bytes().to_vec()),
        ("s32", "-10", (-10i32).to_ne_bytes().to_vec()),
        (
            "s64",
            "-9223372036854775808",
            i64::MIN.to_ne_bytes().to_vec(),
        ),
        ("enum", "\"blue\"", 5u32.to_ne_bytes().to_vec()),
        (
            "set",
            "[\"blue\", \"red\"]",
            0b10_0001u64.to_ne_bytes().to_vec(),
        ),
        ("set", "\"green\"", 0b10u64.to_ne_bytes().to_vec()),
        ("set", "[]", vec![0; 8]),
    ] {
        assert_eq!(
            bytes_of(&paint(), name, text).unwrap(),
            expected,
            "{name} {text}"
        );
    }
}

#[test]
fn errors_of_single_values() {
    for (name, text, expected) in [
        (
            "bytes",
            "\"64kk\"",
            "bytes: expected bytes such as \"64KiB\", found \"64kk\"; did you mean \"64kB\"?",
        ),
        (
            "bytes",
            "\"1023B\"",
            "bytes: expected 1KiB to 1GiB, found \"1023B\"",
        ),
        (
            "bytes",
            "\"2GiB\"",
            "bytes: expected 1KiB to 1GiB, found \"2GiB\"",
        ),
        ("rate", "{}", "rate: the field \"table\" is missing"),
        (
            "addr",
            "\"10.0.0.1/8\"",
            "addr: expected an address such as \"10.0.0.1\" or \"fc00::1\", found \"10.0.0.1/8\"; did you mean \"10.0.0.1\"?",
        ),
        (
            "prefix",
            "\"10.0.0.1/8\"",
            "prefix: \"10.0.0.1/8\" has bits of the host set: the prefix is 10.0.0.0/8; did you mean \"10.0.0.0/8\"?",
        ),
        (
            "port",
            "65536",
            "port: expected a port from 0 to 65535, found 65536",
        ),
        (
            "ports",
            "\"0-9\"",
            "ports: expected at least 1, found \"0-9\"",
        ),
        (
            "interface",
            "\"eth1\"",
            "interface: there is no interface \"eth1\"; did you mean \"eth0\"?",
        ),
        (
            "interface",
            "2",
            "interface: expected the name of an interface, found 2",
        ),
        (
            "cgroup",
            "\"/mail\"",
            "cgroup: there is no cgroup \"/mail\"",
        ),
        (
            "cgroup",
            "\"/web/../mail\"",
            "cgroup: expected the path of a cgroup such as \"/system.slice/nginx.service\", \
             found \"/web/../mail\"",
        ),
        (
            "text",
            "\"sixteen bytes...\"",
            "text: expected a text of 1 to 15 printable characters of ASCII, found \"sixteen bytes...\"",
        ),
        (
            "text",
            "\"\"",
            "text: expected a text of 1 to 15 printable characters of ASCII, found \"\"",
        ),
        (
            "text",
            "\"caf\u{e9}\"",
            "text: expected a text of 1 to 15 printable characters of ASCII, found \"caf\u{e9}\"",
        ),
        ("bool", "1", "bool: expected true or false, found 1"),
        (
            "u8",
            "256",
            "u8: expected a number from 0 to 255, found 256",
        ),
        ("u8", "-1", "u8: expected a number from 0 to 255, found -1"),
        (
            "u8",
            "1.5",
            "u8: expected a number from 0 to 255, found 1.5",
        ),
        ("u16", "4097", "u16: expected at most 0x1000, found 4097"),
        (
            "s8",
            "128",
            "s8: expected a number from -128 to 127, found 128",
        ),
        ("s32", "-11", "s32: expected -10 to 10, found -11"),
        (
            "enum",
            "\"gren\"",
            "enum: expected \"red\", \"green\" or \"blue\", found \"gren\"; did you mean \"green\"?",
        ),
        (
            "set",
            "[\"red\", \"red\"]",
            "set[1]: \"red\" is given twice",
        ),
        (
            "set",
            "[\"rod\", 1]",
            "set[0]: expected \"red\", \"green\" or \"blue\", found \"rod\"; did you mean \"red\"?\np.json:1:18: set[1]: expected \"red\", \"green\" or \"blue\", found 1",
        ),
        ("set", "1", "set: expected an array of names, found 1"),
        (
            "time",
            "null",
            "time: expected a time such as \"100ms\", found null",
        ),
    ] {
        let found = error(bytes_of(&paint(), name, text));
        let found = found.split_once(": ").unwrap().1;
        assert_eq!(found, expected, "{name} {text}");
    }
}

#[test]
fn required_default_unknown() {
    let cap = named("cap");
    let encoded = encode_text(&cap, r#"{ "bytes": 7 }"#).unwrap();
    let expected = [
        7u64.to_ne_bytes().to_vec(),
        [1u32, 0].map(u32::to_ne_bytes).concat(),
        100_000_000u64.to_ne_bytes().to_vec(),
    ];
    assert_eq!(encoded.bytes, expected.concat());
    assert_eq!(
        error(encode_text(&cap, r#"{ "byte": 7, "mode": 1 }"#)),
        "p.json:1:1: the parameter \"bytes\" is missing\n\
         p.json:1:3: byte: cap has no parameter \"byte\"; did you mean \"bytes\"?\n\
         p.json:1:22: mode: expected \"red\", \"green\" or \"blue\", found 1"
    );
    let even = named("even");
    assert_eq!(encode_text(&even, "{}").unwrap(), Encoded::default());
    assert_eq!(
        error(encode_text(&even, r#"{ "x": 1 }"#)),
        "p.json:1:3: x: \"even\" takes no parameters"
    );
    assert_eq!(
        error(encode_text(&even, "[]")),
        "p.json:1:1: expected an object of parameters, found an empty array"
    );
}

/// What stands for what the tracker knows has a value of its own where it is not given.
#[test]
fn absent_is_no_value() {
    let clamp = |max: &str| {
        module(Kind::Actor, "clamp")
            .with("scale", Type::Uint(1))
            .between("", max)
            .tracked_unless()
    };
    let scale = |text| encode_text(&clamp("14"), text).unwrap().bytes;
    assert_eq!(scale("{}"), [0xff]);
    assert_eq!(scale(r#"{ "scale": 0 }"#), [0]);
    assert!(check_description(&clamp("14")).is_empty());
    for wrong in [
        clamp("255"),
        clamp(""),
        clamp("14").default("0"),
        clamp("14").required(),
        module(Kind::Actor, "clamp")
            .with("scale", Type::Int(1))
            .between("", "14")
            .tracked_unless(),
    ] {
        let found = check_description(&wrong);
        assert!(found[0].contains("EMPTCP_TRACKED_UNLESS"), "{found:?}");
    }
}

#[test]
fn lists() {
    let within = named("within");
    let short = encode_text(&within, r#"{ "ports": ["22", "8000-8010"] }"#).unwrap();
    let offset = within.params[2].offset;
    let items = [22u16, 22, 8000, 8010].map(u16::to_ne_bytes).concat();
    let expected = [2u32.to_ne_bytes().to_vec(), items].concat();
    assert_eq!(short.bytes[offset..offset + 12], expected[..]);
    assert!(short.tables.is_empty());
    let bare = encode_text(&within, r#"{ "ports": 22 }"#).unwrap();
    assert_eq!(bare.bytes[offset..offset + 4], 1u32.to_ne_bytes());
    assert_eq!(
        error(encode_text(&within, r#"{ "few": ["1s", "2s", "3s"] }"#)),
        "p.json:1:10: few: expected at most 2 items, found 3"
    );
    assert_eq!(
        error(encode_text(&within, r#"{ "few": ["1s", "1us"] }"#)),
        "p.json:1:17: few[1]: expected at least 1ms, found \"1us\""
    );
    assert_eq!(
        error(encode_text(&within, r#"{ "ports": [1, "2-1"] }"#)),
        "p.json:1:16: ports[1]: the range \"2-1\" ends before it begins; did you mean \"1-2\"?"
    );
}

#[test]
fn longer_lists_are_tables() {
    let within = named("within");
    let entries = |text: &str| -> (Vec<u8>, Vec<Vec<u8>>, TableKey) {
        let mut encoded = encode_text(&within, text).unwrap();
        assert_eq!(encoded.tables.len(), 1, "{text}");
        let TableContents::Anonymous { key, entries } = encoded.tables.remove(0).contents else {
            panic!("not anonymous")
        };
        assert!(entries.iter().all(|(_, value)| *value == [1]));
        (
            encoded.bytes,
            entries.into_iter().map(|(key, _)| key).collect(),
            key,
        )
    };
    let (bytes, keys, key) =
        entries(r#"{ "prefixes": ["10.0.0.0/8", "fc00::/7", "::ffff:192.0.2.0/120"] }"#);
    assert_eq!(bytes[..4], LIST_IN_TABLE.to_ne_bytes());
    assert!(bytes[4..].iter().all(|b| *b == 0));
    assert_eq!(key, TableKey::Prefix);
    let key_of = |bits: u32, family: u8, addr: &str| {
        let addr: std::net::Ipv6Addr = addr.parse().unwrap();
        [&bits.to_ne_bytes()[..], &[0, 0, 0, family], &addr.octets()].concat()
    };
    let mut expected = vec![
        key_of(32 + 96 + 8, 4, "::ffff:10.0.0.0"),
        key_of(32 + 7, 6, "fc00::"),
        key_of(32 + 120, 4, "::ffff:192.0.2.0"),
    ];
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(keys[0].len(), key_size(TableKey::Prefix));

    let (_, keys, key) = entries(r#"{ "ports": ["1-3", 7, "9"] }"#);
    assert_eq!(key, TableKey::Port);
    assert_eq!(
        keys,
        [1u32, 2, 3, 7, 9].map(|port| port.to_ne_bytes().to_vec())
    );
    let (_, keys, _) = entries(r#"{ "single_ports": [7, 9, 8] }"#);
    assert_eq!(keys, [7u32, 8, 9].map(|port| port.to_ne_bytes().to_vec()));
    let (_, keys, key) = entries(r#"{ "tokens": [1, 2, "0x3"] }"#);
    assert_eq!((keys.len(), key), (3, TableKey::Token));
    let (_, keys, key) = entries(r#"{ "addrs": ["::1", "::2", "10.0.0.1"] }"#);
    assert_eq!((keys.len(), keys[0].len(), key), (3, 16, TableKey::Addr));
    // What fits once repetition is gone stays in the parameters.
    for text in [
        r#"{ "prefixes": ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::/0"] }"#,
        r#"{ "ports": ["1-3", "2-8", "9", 4] }"#,
        r#"{ "ports": ["1-3", 4, 5, 9] }"#,
    ] {
        assert!(
            encode_text(&within, text).unwrap().tables.is_empty(),
            "{text}"
        );
    }
}

#[test]
fn named_tables() {
    let known = named("known");
    let encoded = encode_text(&known, r#"{ "table": "slow" }"#).unwrap();
    let contents = TableContents::Named("slow".to_owned());
    assert_eq!(
        encoded.tables,
        [TableBinding {
            map: "table".to_owned(),
            lookup: true,
            contents
        }]
    );
    for (module, text, expected) in [
        (
            &known,
            "{}",
            "p.json:1:1: the parameter \"table\" is missing",
        ),
        (
            &known,
            r#"{ "table": "slwo" }"#,
            "p.json:1:12: table: no table is named \"slwo\"; did you mean \"slow\"?",
        ),
        (
            &known,
            r#"{ "table": "rates" }"#,
            "p.json:1:12: table: expected a table of type subflow, found \"rates\", a table of type prefix",
        ),
        (
            &known,
            r#"{ "table": ["slow"] }"#,
            "p.json:1:12: table: expected the name of a table, found an array",
        ),
        (
            &named("paced"),
            r#"{ "rates": "private" }"#,
            "p.json:1:12: rates: expected a table with values of type rate, found \"private\" without values",
        ),
        (
            &named("paced"),
            r#"{ "rates": "slow" }"#,
            "p.json:1:12: rates: expected a table of type prefix, found \"slow\", a table of type subflow\np.json:1:12: rates: expected a table with values of type rate, found \"slow\" with values of type bytes",
        ),
    ] {
        assert_eq!(error(encode_text(module, text)), expected, "{text}");
    }
    assert!(encode_text(&named("paced"), r#"{ "rates": "rates" }"#).is_ok());
    assert!(
        encode_text(&named("paced"), "{}")
            .unwrap()
            .tables
            .is_empty()
    );
}

#[test]
fn values_from_tables() {
    let paint = paint();
    let from = |text: &str| encode_text(&paint, text).map(|encoded| encoded.from_table);
    let expected = FromTable {
        param: "bytes".to_owned(),
        offset: 0,
        size: 8,
        table: "slow".to_owned(),
        default: None,
    };
    assert_eq!(
        from(r#"{ "bytes": { "table": "slow" } }"#).unwrap(),
        std::slice::from_ref(&expected)
    );
    let with = |table: &str, bytes: u64| FromTable {
        table: table.to_owned(),
        default: Some(bytes.to_ne_bytes().to_vec()),
        ..expected.clone()
    };
    let own = from(r#"{ "bytes": { "table": "slow", "default": "4KiB" } }"#).unwrap();
    assert_eq!(own, [with("slow", 4096)]);
    assert_eq!(
        from(r#"{ "bytes": { "table": "capped" } }"#).unwrap(),
        [with("capped", 8192)]
    );
    for (text, expected) in [
        (
            r#"{ "bytes": { "table": "rates" } }"#,
            "p.json:1:23: bytes.table: expected a table with values of type bytes, found \"rates\" with values of type rate",
        ),
        (
            r#"{ "bytes": { "table": "seen" } }"#,
            "p.json:1:23: bytes.table: expected a table with values of type bytes, found \"seen\" without values",
        ),
        (
            r#"{ "bytes": { "table": "nowhere" } }"#,
            "p.json:1:23: bytes.table: no table is named \"nowhere\"",
        ),
        (
            r#"{ "bytes": { "table": "tiny" } }"#,
            "p.json:1:23: bytes.table: expected 1KiB to 1GiB, found 1",
        ),
        (
            r#"{ "bytes": { "table": "slow", "default": 1 } }"#,
            "p.json:1:42: bytes.default: expected 1KiB to 1GiB, found 1",
        ),
        (
            r#"{ "bytes": { "tabel": "slow" } }"#,
            "p.json:1:12: bytes: the field \"table\" is missing\np.json:1:14: bytes.tabel: unknown field \"tabel\"; did you mean \"table\"?",
        ),
    ] {
        assert_eq!(error(from(text)), expected, "{text}");
    }
    // A selector has no earlier step to take a value from.
    assert_eq!(
        error(encode_text(
            &named("spot"),
            r#"{ "n": { "table": "slow" } }"#
        )),
        "p.json:1:8: n: expected a number from 0 to 4294967295, found an object"
    );
}

#[test]
fn elements_of_tables() {
    let parse = |text: &str| {
        let text = format!(r#"{{ "version": 1, "tables": {{ "t": {text} }} }}"#);
        let fragment = Fragment {
            name: "p".to_owned(),
            bytes: text.into_bytes(),
        };
        crate::policy::parse(&[fragment]).unwrap().tables.remove(0)
    };
    let entries = |text: &str| encode_table(&parse(text), &TwoInterfaces);
    let set = entries(r#"{ "type": "port", "elements": [22, "8000-8002", "8001-8003"] }"#);
    let ports: Vec<_> = set
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|(k, v)| (k.len(), v))
        .collect();
    assert_eq!(ports, vec![(4, vec![1]); 5]);
    let map = entries(
        r#"{ "type": "subflow", "value": "rate",
             "elements": { "10.0.0.1:40000-10.0.0.2:443": "1kbit" } }"#,
    );
    let map = map.unwrap().unwrap();
    assert_eq!(map[0].0.len(), key_size(TableKey::Subflow));
    assert_eq!(map[0].1, 1000u64.to_ne_bytes());
    assert_eq!(
        decode_key(TableKey::Subflow, &map[0].0),
        Some(json!("10.0.0.1:40000-10.0.0.2:443"))
    );
    assert_eq!(entries(r#"{ "type": "token" }"#).unwrap(), None);
    for (text, expected) in [
        (
            r#"{ "type": "token", "elements": ["a", 1] }"#,
            "p:1:66: tables.t.elements[0]: expected a token such as \"0x1a2b3c4d\", found \"a\"",
        ),
        (
            r#"{ "type": "addr", "value": "u8", "elements": { "::1": 256, "x": 1 } }"#,
            "p:1:88: tables.t.elements[\"::1\"]: expected a number from 0 to 255, found 256\np:1:93: tables.t.elements.x: expected an address such as \"10.0.0.1\" or \"fc00::1\", found \"x\"",
        ),
        (
            r#"{ "type": "addr", "value": "u8", "elements": { "10.0.0.1": 1, "::ffff:10.0.0.1": 2 } }"#,
            "p:1:96: tables.t.elements[\"::ffff:10.0.0.1\"]: the key \"::ffff:10.0.0.1\" is given twice",
        ),
        (
            r#"{ "type": "port", "size": 3, "elements": ["1-4"] }"#,
            "p:1:75: tables.t.elements: 4 elements do not fit in the size 3",
        ),
    ] {
        let mut errors = entries(text).expect_err(text);
        errors.sort();
        assert_eq!(error(Err::<(), _>(errors)), expected, "{text}");
    }
}

#[test]
fn descriptions_are_checked() {
    for module in registry() {
        assert_eq!(
            check_description(&module),
            Vec::<String>::new(),
            "{}",
            module.name
        );
    }
    let selector = || module(Kind::Selector, "bad");
    let mut outside = selector().with("a", Type::Uint(4));
    outside.params[0].offset = 2;
    let mut twice = selector().with("a", Type::Uint(4)).with("a", Type::Uint(4));
    twice.params[1].offset = 2;
    for (module, expected) in [
        (
            outside,
            vec!["a: 4 bytes at 2 do not fit in a structure of 4"],
        ),
        (
            twice,
            vec![
                "two parameters are named a",
                "a and a take up the same bytes",
            ],
        ),
        (
            selector().with("a", Type::Uint(3)),
            vec!["a: an integer of 3 bytes"],
        ),
        (
            selector().with("a", Type::Bytes).default("64kk"),
            vec!["a: default 64kk: expected bytes such as \"64KiB\", found \"64kk\""],
        ),
        (
            selector()
                .with("a", Type::Bytes)
                .default("1")
                .between("2", "x"),
            vec![
                "a: max x is not a value of its type",
                "a: default 1: expected at least 2, found 1",
            ],
        ),
        (
            selector().with("a", Type::Bool).between("0", ""),
            vec!["a: its type has no min"],
        ),
        (
            selector().with(
                "a",
                Type::Set {
                    values: vec![("x".to_owned(), 64)],
                },
            ),
            vec!["a: x is 64: a set takes values from 0 to 63"],
        ),
        (
            selector().with("a", list(Type::Time, 2, Some("many"))),
            vec!["a: a table for items that are no keys"],
        ),
        (
            selector().with(
                "a",
                Type::Enum {
                    size: 4,
                    values: Vec::new(),
                },
            ),
            vec!["a: an enum without values"],
        ),
    ] {
        assert_eq!(check_description(&module), expected);
    }
}

#[test]
fn a_wrong_description_does_no_harm() {
    let mut module = module(Kind::Selector, "bad").with("a", list(Type::Uint(8), 4, None));
    module.params_size = 20;
    assert_eq!(
        error(encode_text(&module, r#"{ "a": [1, 2] }"#)),
        "p.json:1:8: a: bad describes itself wrongly: a ends at byte 24 of 20"
    );
    let absurd = module.clone().with("b", Type::Uint(8));
    let mut absurd = Module {
        params_size: 8,
        ..absurd
    };
    absurd.params[1].offset = usize::MAX;
    assert!(encode_text(&absurd, r#"{ "b": 1 }"#).is_err());
}

fn values() -> impl Strategy<Value = Plain> {
    let name = || prop::sample::select(colours()).prop_map(|(name, _)| json!(name));
    let addr = || {
        prop_oneof![
            any::<u32>().prop_map(|a| std::net::Ipv4Addr::from(a).to_string()),
            any::<u128>().prop_map(|a| std::net::Ipv6Addr::from(a).to_string()),
        ]
    };
    let prefix = prop_oneof![
        (any::<u32>(), 0..=32u32).prop_map(|(a, bits)| {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            format!("{}/{bits}", std::net::Ipv4Addr::from(a & mask))
        }),
        (any::<u128>(), 0..=128u32).prop_map(|(a, bits)| {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            format!("{}/{bits}", std::net::Ipv6Addr::from(a & mask))
        }),
    ];
    let ports = (1..=300u16, 0..=20u16).prop_map(|(p, n)| json!(format!("{p}-{}", p + n)));
    let optional = |key: &'static str, value: BoxedStrategy<Plain>| {
        prop::option::of(value).prop_map(move |value| (key, value))
    };
    let single = vec![
        optional("bytes", (1024..=1u64 << 30).prop_map(Plain::from).boxed()),
        optional("rate", any::<u64>().prop_map(Plain::from).boxed()),
        optional(
            "time",
            any::<u64>().prop_map(|n| json!(format!("{n}ns"))).boxed(),
        ),
        optional("ratio", (0.0..=1.0f64).prop_map(Plain::from).boxed()),
        optional("addr", addr().prop_map(Plain::from).boxed()),
        optional("prefix", prefix.clone().prop_map(Plain::from).boxed()),
        optional("port", any::<u16>().prop_map(Plain::from).boxed()),
        optional("ports", ports.clone().boxed()),
        optional("token", any::<u32>().prop_map(Plain::from).boxed()),
        optional("interface", Just(json!("eth0")).boxed()),
        optional("cgroup", Just(json!("/web")).boxed()),
        optional("text", "[ -~]{1,15}".prop_map(Plain::from).boxed()),
        optional("bool", any::<bool>().prop_map(Plain::from).boxed()),
        optional("u8", any::<u8>().prop_map(Plain::from).boxed()),
        optional("u64", any::<u64>().prop_map(Plain::from).boxed()),
        optional("s8", any::<i8>().prop_map(Plain::from).boxed()),
        optional("s32", (-10..=10i32).prop_map(Plain::from).boxed()),
        optional("s64", any::<i64>().prop_map(Plain::from).boxed()),
        optional("enum", name().boxed()),
    ];
    let lists =
        |item: BoxedStrategy<Plain>| prop::collection::vec(item, 0..6).prop_map(Plain::from);
    let listed = vec![
        optional(
            "prefixes",
            lists(prefix.prop_map(Plain::from).boxed()).boxed(),
        ),
        optional("addrs", lists(addr().prop_map(Plain::from).boxed()).boxed()),
        optional("ports", lists(ports.boxed()).boxed()),
        optional(
            "single_ports",
            lists((1..9u16).prop_map(Plain::from).boxed()).boxed(),
        ),
        optional(
            "tokens",
            lists((1..9u32).prop_map(Plain::from).boxed()).boxed(),
        ),
    ];
    let object = |pairs: Vec<(&'static str, Option<Plain>)>| -> Plain {
        let given = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Plain::Object(given.collect())
    };
    (single, listed).prop_map(move |(single, listed)| json!([object(single), object(listed)]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decode_is_the_inverse_of_encode(both in values()) {
        for (module, params) in [(paint(), &both[0]), (named("within"), &both[1])] {
            let encoded = encode_text(&module, &params.to_string());
            prop_assert!(encoded.is_ok(), "{:?} of {}", encoded, params);
            let encoded = encoded.unwrap();
            let decoded = decode(&module, &encoded, &TwoInterfaces);
            let again = encode_text(&module, &decoded.to_string());
            prop_assert!(again.is_ok(), "{:?} of {}", again, decoded);
            prop_assert_eq!(&again.unwrap(), &encoded, "{} became {}", params, decoded);
        }
    }
}

#[test]
fn decode_is_for_people() {
    let text = r#"{ "bytes": 65536, "rate": 20000000, "time": "600s", "ratio": 0.1,
        "addr": "::ffff:10.0.0.1", "prefix": "::ffff:10.0.0.0/104", "port": "443", "ports": "22",
        "token": 1, "interface": "eth0", "cgroup": "/web", "text": "a b", "bool": true, "enum": "red", "set": ["blue", "red"] }"#;
    let encoded = encode_text(&paint(), text).unwrap();
    assert_eq!(
        decode(&paint(), &encoded, &TwoInterfaces),
        json!({ "bytes": "64KiB", "rate": "20Mbit", "time": "10m", "ratio": 0.1,
            "addr": "10.0.0.1", "prefix": "10.0.0.0/8", "port": 443, "ports": 22,
            "token": "0x00000001", "interface": "eth0", "cgroup": "/web", "text": "a b", "bool": true, "set": ["red", "blue"] })
    );
    for (module, text) in [
        (named("cap"), r#"{ "bytes": { "table": "capped" } }"#),
        (named("known"), r#"{ "table": "slow" }"#),
        (named("within"), r#"{ "ports": ["1-3", 7, "9"] }"#),
    ] {
        let encoded = encode_text(&module, text).unwrap();
        let decoded = decode(&module, &encoded, &TwoInterfaces);
        assert_eq!(
            encode_text(&module, &decoded.to_string()).unwrap(),
            encoded,
            "{decoded}"
        );
    }
}
