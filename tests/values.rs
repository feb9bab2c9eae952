//! Values that selectors find in tables and actors take, in the kernel.

#![allow(clippy::unwrap_used)]

mod kernel;

use std::collections::BTreeMap;

use emptcp::datapath::Options;
use emptcp::graph::bind;
use emptcp::graph::check_values;
use emptcp::module::Hook;
use emptcp::module::Registry;
use emptcp::params::AnyInterface;
use emptcp::policy;
use emptcp::policy::Fragment;
use emptcp_test::hosts::Family;
use emptcp_test::packet::Packet;
use kernel::Loaded;
use serde_json::Value;
use serde_json::json;

/// Tables that know the packet from 10.0.0.1 to port 80, with another value each.
fn tables() -> Value {
    json!({
        "slow": { "type": "subflow", "value": "bytes",
                  "elements": { "10.0.0.1:40000-10.0.0.2:80": "16KiB" } },
        "other": { "type": "port", "value": "bytes", "elements": { "80": "8KiB" } },
        "scales": { "type": "prefix", "value": "u8", "elements": { "10.0.0.0/8": 2 } },
        "scale-of": { "type": "addr", "value": "u8", "elements": { "10.0.0.2": 1 } },
        "empty": { "type": "subflow", "value": "bytes", "elements": {} },
        "spare": { "type": "addr", "value": "bytes", "default": "32KiB", "elements": {} },
    })
}

fn slow() -> Value {
    json!({ "subflow": { "table": "slow" } })
}

fn other() -> Value {
    json!({ "dport": { "table": "other" } })
}

fn clamp(bytes: Value, wscale: Value) -> Value {
    json!([{ "set_recv_win": { "bytes": bytes, "wscale": wscale } }])
}

/// The window behind these chains, and the reasons that were counted.
fn window(hook: Hook, chains: &[Value]) -> (u16, BTreeMap<String, u64>) {
    let registry = Registry::builtin().unwrap();
    let mut loaded =
        Loaded::with_tables(&registry, hook, chains, &tables(), Options::default()).unwrap();
    let packet: Packet = serde_json::from_value(json!({ "tcp": { "window": 65535 } })).unwrap();
    let packet = packet.build(Family::Ip4).unwrap().bytes;
    // The second run begins with what the first one left.
    loaded.run(&packet, 0).unwrap();
    let done = loaded.run(&packet, 0).unwrap();
    let window = &done.run.packet[14 + 20 + 14..];
    (u16::from_be_bytes([window[0], window[1]]), done.reasons)
}

fn chain(select: Value, act: Value) -> Value {
    json!({ "name": "c", "select": select, "act": act })
}

#[test]
fn root_each_actor_takes_from_the_table_it_names() {
    let from = |table: &str| json!({ "table": table });
    let all = |parts: &[Value]| json!({ "all": parts });
    let scales = json!({ "src": { "table": "scales" } });
    let scale_of = json!({ "dst": { "table": "scale-of" } });
    let rows = [
        (slow(), clamp(from("slow"), json!(0)), 16384),
        (
            all(&[slow(), other()]),
            clamp(from("slow"), json!(0)),
            16384,
        ),
        (
            all(&[other(), slow()]),
            clamp(from("slow"), json!(0)),
            16384,
        ),
        (
            all(&[slow(), other()]),
            clamp(from("other"), json!(0)),
            8192,
        ),
        (
            all(&[slow(), scales.clone()]),
            clamp(from("slow"), from("scales")),
            4096,
        ),
        (
            all(&[scales, slow()]),
            clamp(from("slow"), from("scales")),
            4096,
        ),
        (
            all(&[scale_of, slow()]),
            clamp(from("slow"), from("scale-of")),
            8192,
        ),
        // Two actors, each with its own.
        (
            all(&[slow(), other()]),
            json!([{ "set_recv_win": { "bytes": from("slow"), "wscale": 0 } },
                   { "set_recv_win": { "bytes": from("other"), "wscale": 1 } }]),
            4096,
        ),
    ];
    for hook in Hook::ALL {
        for (select, act, expected) in &rows {
            let (found, reasons) = window(hook, &[chain(select.clone(), act.clone())]);
            assert_eq!(
                (found, reasons),
                (*expected, BTreeMap::new()),
                "{hook} {select} {act}"
            );
        }
    }
}

#[test]
fn root_defaults_stand_where_nothing_was_found() {
    let or = |table: &str, default: &str| json!({ "table": table, "default": default });
    let empty = json!({ "not": { "subflow": { "table": "empty" } } });
    // Found by way of the first part, so never looked up.
    let short = json!({ "any": [{ "tcp": {} }, slow()] });
    let rows = [
        (empty, or("empty", "5000"), 5000),
        (short, or("slow", "6000"), 6000),
        (
            json!({ "any": [slow(), { "tcp": {} }] }),
            or("slow", "6000"),
            16384,
        ),
        (json!({}), or("slow", "7000"), 7000),
        (json!({}), json!({ "table": "spare" }), 32768),
    ];
    for hook in Hook::ALL {
        for (select, bytes, expected) in &rows {
            let only = chain(select.clone(), clamp(bytes.clone(), json!(0)));
            let (found, reasons) = window(hook, &[only]);
            assert_eq!(
                (found, reasons),
                (*expected, BTreeMap::new()),
                "{hook} {select}"
            );
        }
    }
}

/// What an earlier chain found is nothing to a later one.
#[test]
fn root_values_belong_to_their_chain() {
    let first = json!({ "name": "first", "select": slow(),
        "act": clamp(json!({ "table": "slow" }), json!(0)) });
    let take = |bytes: Value| json!({ "name": "second", "priority": 1, "select": { "tcp": {} }, "act": clamp(bytes, json!(0)) });
    for hook in Hook::ALL {
        let second = take(json!({ "table": "slow", "default": "9000" }));
        assert_eq!(
            window(hook, &[first.clone(), second]),
            (9000, BTreeMap::new())
        );
        // Without a default, and without the check that would have refused it: untreated.
        let second = take(json!({ "table": "slow" }));
        let missing = BTreeMap::from([("no_value".to_owned(), 1)]);
        assert_eq!(window(hook, &[first.clone(), second]), (16384, missing));
    }
}

/// What cannot be right is refused before anything is loaded.
#[test]
fn values_that_cannot_be_had_are_refused() {
    let errors = |select: Value, act: Value| {
        let mut tables = tables();
        for n in 0..5 {
            tables[format!("t{n}")] = json!({ "type": "port", "value": "bytes" });
        }
        tables["addrs"] = json!({ "type": "addr", "value": "addr" });
        let chain = json!({ "name": "c", "hook": "xdp", "interfaces": ["x"], "select": select, "act": act });
        let text = json!({ "version": 1, "tables": tables, "chains": [chain] }).to_string();
        let fragment = Fragment {
            name: "p".to_owned(),
            bytes: text.into_bytes(),
        };
        let policy = policy::parse(&[fragment]).unwrap();
        let registry = Registry::builtin().unwrap();
        let bound = bind(&policy, registry.modules(), &AnyInterface).unwrap();
        let errors = check_values(&bound[0], registry.modules())
            .err()
            .unwrap_or_default();
        errors
            .iter()
            .map(|e| e.message.clone())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let take = |table: &str| clamp(json!({ "table": table }), json!(0));
    assert_eq!(errors(slow(), take("slow")), "");
    let missing = errors(json!({ "any": [{ "tcp": {} }, slow()] }), take("slow"));
    assert!(
        missing.contains("by way of c/select/any[0] without a match"),
        "{missing}"
    );
    assert!(
        errors(other(), take("slow")).contains("without a match"),
        "another table"
    );
    assert!(errors(json!({ "not": slow() }), take("slow")).contains("without a match"));
    // One more than there are slots.
    let ports = |n: usize| (0..n).map(|n| format!("t{n}"));
    let five = |n| {
        let all: Vec<Value> = ports(n)
            .map(|t| json!({ "dport": { "table": t } }))
            .collect();
        let act: Vec<Value> = ports(n)
            .map(|t| json!({ "set_recv_win": { "bytes": { "table": t }, "wscale": 0 } }))
            .collect();
        errors(json!({ "all": all }), act.into())
    };
    assert_eq!(five(4), "");
    assert!(
        five(5)
            .contains("take values from 5 tables, t0, t1, t2, t3, t4: a chain hands on those of 4")
    );
}
