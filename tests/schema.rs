//! `emptcp schema` beside `emptcp check`, by a validator that knows nothing of emptcp.

#![allow(clippy::unwrap_used)]

mod policies;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use jsonschema::Validator;
use serde_json::Value;

fn emptcp(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emptcp"))
        .args(args)
        .output()
        .unwrap()
}

fn validator() -> Validator {
    let output = emptcp(&["schema"]);
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::draft202012::new(&schema).unwrap()
}

/// Whether `emptcp check` accepts a policy, whatever the interfaces here.
fn check(name: &str, text: &str) -> bool {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schema-{name}.json"));
    fs::write(&file, text).unwrap();
    let output = emptcp(&["check", "--kernel", "6.12", file.to_str().unwrap()]);
    output.status.success()
}

#[test]
fn examples_and_documentation_are_accepted() {
    let validator = validator();
    let policies = policies::all();
    assert!(policies.len() > 5);
    for (name, text) in policies {
        let policy: Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&policy)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

/// A policy with this select and these actors.
fn policy(select: &str, act: &str) -> String {
    chain(&format!(r#""select": {select}, "act": {act}"#))
}

fn chain(fields: &str) -> String {
    format!(
        r#"{{ "version": 1, "chains": [ {{ "name": "c", "hook": "tc-ingress",
            "interfaces": ["eth0"], {fields} }} ] }}"#
    )
}

const ACT: &str = r#"[{ "accept": {} }]"#;

fn fields(fields: &str) -> String {
    chain(&format!(r#"{fields}, "act": {ACT}"#))
}

#[test]
fn both_accept() {
    let validator = validator();
    let dport = |port: &str| policy(&format!(r#"{{ "dport": {{ "in": {port} }} }}"#), ACT);
    let src = |prefix: &str| policy(&format!(r#"{{ "src": {{ "in": {prefix} }} }}"#), ACT);
    let win = |params: &str| policy("{}", &format!(r#"[{{ "set_recv_win": {{ {params} }} }}]"#));
    let table = |table: &str| format!(r#"{{ "version": 1, "tables": {{ "t": {{ {table} }} }} }}"#);
    for (number, text) in [
        r#"{ "version": 1 }"#.to_owned(),
        r#"{ "$schema": "x", "version": 1, "comment": "", "limits": { "subflows": 1 } }"#.to_owned(),
        dport("22"),
        dport(r#""0022""#),
        dport(r#"[1, "2", "3-65535"]"#),
        dport("[1,2,3,4,5,6,7,8,9,10]"),
        src(r#""10.0.0.0/8""#),
        src(r#"["::/0", "::ffff:10.0.0.0/104", "2001:db8::1", "0.0.0.0/00", "1.2.3.4/032"]"#),
        win(r#""bytes": 1e6, "wscale": 7"#),
        win(r#""bytes": "1.5MiB", "wscale": "0x7""#),
        win(r#""bytes": "65536", "wscale": 14, "floor": 0"#),
        policy("{}", r#"[{ "set_mark": { "value": "0x00000ffff" } }]"#),
        fields(r#""select": { "all": [] }"#),
        fields(r#""select": { "not": { "any": [{ "tcp": {} }, { "mptcp": {} }] } }"#),
        fields(r#""position": { "before": 7 }, "priority": -2147483648"#),
        fields(r#""zone": 4294967295, "enabled": false, "on_error": "drop""#),
        fields(r#""comment": "ü""#),
        // The name of the paper.
        policy("{}", r#"[{ "recover_add_addr": {} }]"#),
        table(r#""type": "port", "elements": [1, "2-3"]"#),
        table(r#""type": "prefix", "value": "rate", "default": "1Mbit", "elements": { "fc00::/7": 5 }"#),
        table(r#""type": "subflow", "elements": ["10.0.0.1:1-10.0.0.2:2", "[fc00::1]:1-[fc00::2]:2"]"#),
        table(r#""type": "token", "value": "s8", "elements": { "0x1a": -128 }, "size": 1"#),
        table(r#""type": "addr", "timeout": "1.5h", "value": "ratio", "default": "1/3""#),
    ]
    .iter()
    .enumerate()
    {
        let json: Value = serde_json::from_str(text).unwrap();
        assert!(check(&format!("good-{number}"), text), "emptcp check refuses {text}");
        let errors: Vec<String> = validator.iter_errors(&json).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {text}");
    }
}

#[test]
fn both_refuse() {
    let validator = validator();
    let act = |act: &str| policy("{}", act);
    let select = |select: &str| policy(select, ACT);
    let document = |fields: &str| format!(r#"{{ "version": 1, {fields} }}"#);
    let table = |table: &str| document(&format!(r#""tables": {{ "t": {{ {table} }} }}"#));
    let at_hook = |hook: &str, field: &str| {
        format!(
            r#"{{ "version": 1, "chains": [ {{ "name": "c", "hook": {hook},
                "interfaces": ["eth0"], "act": {ACT}, {field} }} ] }}"#
        )
    };
    for (number, text) in [
        // The file.
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{ "version": 2 }"#.to_owned(),
        r#"{ "version": "1" }"#.to_owned(),
        document(r#""chain": []"#),
        document(r#""chains": {}"#),
        document(r#""comment": 1"#),
        document(r#""limits": { "subflow": 1 }"#),
        document(r#""limits": { "subflows": 0 }"#),
        document(r#""limits": { "subflows": "0x10" }"#),
        document(r#""selectors": { "A": { "tcp": {} } }"#),
        document(r#""actors": { "a": [] }"#),
        // Chains.
        document(r#""chains": [{}]"#),
        chain(r#""select": {}"#),
        fields(r#""prio": 1"#),
        fields(r#""name": """#),
        at_hook(r#""egress""#, r#""zone": 1"#),
        at_hook("[]", r#""zone": 1"#),
        at_hook(r#"["xdp", "xdp"]"#, r#""zone": 1"#),
        at_hook(r#""tc-egress""#, r#""xdp": {}"#),
        at_hook(r#"["xdp"]"#, r#""position": "first""#),
        at_hook(r#""xdp""#, r#""xdp": { "mode": "offload" }"#),
        at_hook(r#""xdp""#, r#""xdp": { "force": true }"#),
        fields(r#""position": { "before": 0 }"#),
        fields(r#""position": { "after": 1 }"#),
        fields(r#""priority": 2147483648"#),
        fields(r#""priority": 1.5"#),
        fields(r#""priority": "1""#),
        fields(r#""zone": -1"#),
        fields(r#""enabled": "yes""#),
        fields(r#""on_error": "accept""#),
        document(&format!(r#""chains": [{{ "name": "c", "hook": "xdp", "interfaces": [], "act": {ACT} }}]"#)),
        document(&format!(r#""chains": [{{ "name": "c", "hook": "xdp", "interfaces": "a", "act": {ACT} }}]"#)),
        document(&format!(r#""chains": [{{ "name": "c", "hook": "xdp", "interfaces": ["a/b"], "act": {ACT} }}]"#)),
        document(&format!(r#""chains": [{{ "name": "c", "hook": "xdp", "interfaces": ["a", "a"], "act": {ACT} }}]"#)),
        document(&format!(r#""chains": [{{ "name": "c", "hook": "xdp", "interfaces": [{{ "optional": true }}], "act": {ACT} }}]"#)),
        // Expressions and steps.
        select(r#"{ "mtpcp": {} }"#),
        select(r#"{ "accept": {} }"#),
        select(r#"{ "tcp": {}, "mptcp": {} }"#),
        select(r#"{ "all": { "tcp": {} } }"#),
        select(r#"{ "all": [{}] }"#),
        select(r#"{ "not": [] }"#),
        select(r#"{ "use": 1 }"#),
        select("[]"),
        select(r#"{ "tcp": [] }"#),
        select(r#"{ "mptcp": { "version": 1 } }"#),
        act("[]"),
        act("{}"),
        act(r#"[{ "mptcp": {} }]"#),
        act(r#"[{ "all": [] }]"#),
        act(r#"[{ "accept": {}, "drop": {} }]"#),
        // Parameters.
        select(r#"{ "dport": { "in": 65536 } }"#),
        select(r#"{ "dport": { "in": "65536" } }"#),
        select(r#"{ "dport": { "in": "1:2" } }"#),
        select(r#"{ "dport": { "in": [-1] } }"#),
        select(r#"{ "dport": {} }"#),
        select(r#"{ "src": { "in": "10.0.0.0/33" } }"#),
        select(r#"{ "src": { "in": "fc00::/129" } }"#),
        select(r#"{ "src": { "in": "10.0.0.256" } }"#),
        select(r#"{ "src": { "in": "010.0.0.1" } }"#),
        select(r#"{ "src": { "in": "example" } }"#),
        select(r#"{ "src": { "in": [10] } }"#),
        act(r#"[{ "set_recv_win": { "wscale": 7 } }]"#),
        act(r#"[{ "set_recv_win": { "bytes": "64K", "wscale": 7 } }]"#),
        act(r#"[{ "set_recv_win": { "bytes": ".5KiB", "wscale": 7 } }]"#),
        act(r#"[{ "set_recv_win": { "bytes": -1, "wscale": 7 } }]"#),
        act(r#"[{ "set_recv_win": { "bytes": true, "wscale": 7 } }]"#),
        act(r#"[{ "set_recv_win": { "bytes": 65536, "wscale": 15 } }]"#),
        act(r#"[{ "set_recv_win": { "bytes": { "default": 1 }, "wscale": 7 } }]"#),
        act(r#"[{ "set_mark": { "value": "0x1ffffffff" } }]"#),
        act(r#"[{ "set_mark": { "value": 4294967296 } }]"#),
        act(r#"[{ "set_mark": { "value": "15" } }]"#),
        // Tables.
        table(r#""value": "rate""#),
        table(r#""type": "host""#),
        table(r#""type": "port", "value": "prefix""#),
        table(r#""type": "port", "elements": {}"#),
        table(r#""type": "port", "value": "u8", "elements": []"#),
        table(r#""type": "port", "value": "u8", "elements": { "1": 256 }"#),
        table(r#""type": "port", "value": "u8", "elements": { "x": 1 }"#),
        table(r#""type": "port", "default": 1"#),
        table(r#""type": "port", "value": "u8", "default": "x""#),
        table(r#""type": "addr", "elements": ["10.0.0.0/8"]"#),
        table(r#""type": "subflow", "elements": ["10.0.0.1-10.0.0.2"]"#),
        table(r#""type": "port", "timeout": 5"#),
        table(r#""type": "port", "timeout": "0s""#),
        table(r#""type": "port", "timeout": "5s", "elements": []"#),
        table(r#""type": "port", "size": 0"#),
    ]
    .iter()
    .enumerate()
    {
        let json: Value = serde_json::from_str(text).unwrap();
        assert!(!check(&format!("bad-{number}"), text), "emptcp check accepts {text}");
        assert!(!validator.is_valid(&json), "the schema accepts {text}");
    }
}

/// docs/cli.md lists these: `check` finds them, the schema cannot.
#[test]
fn what_a_schema_cannot_say() {
    let validator = validator();
    let select = |select: &str| policy(select, ACT);
    for (number, text) in [
        // Names and keys that occur twice.
        r#"{ "version": 1, "comment": "", "comment": "" }"#.to_owned(),
        format!(
            r#"{{ "version": 1, "chains": [
                {{ "name": "c", "hook": "xdp", "interfaces": ["a"], "act": {ACT} }},
                {{ "name": "c", "hook": "xdp", "interfaces": ["b"], "act": {ACT} }} ] }}"#
        ),
        // What is referred to.
        select(r#"{ "use": "nobody" }"#),
        // Amounts inside strings, and ranges.
        policy(
            "{}",
            r#"[{ "set_recv_win": { "bytes": "0.5B", "wscale": 7 } }]"#,
        ),
        policy(
            "{}",
            r#"[{ "set_recv_win": { "bytes": "64KiB", "wscale": "0xf" } }]"#,
        ),
        select(r#"{ "dport": { "in": "9-8" } }"#),
        // Bits of the host.
        select(r#"{ "src": { "in": "10.0.0.1/8" } }"#),
        // Sums.
        r#"{ "version": 1, "tables": { "t": { "type": "port", "size": 1, "elements": [1, 2] } } }"#
            .to_owned(),
        // Actors behind one that ends.
        policy("{}", r#"[{ "drop": {} }, { "accept": {} }]"#),
    ]
    .iter()
    .enumerate()
    {
        let json: Value = serde_json::from_str(text).unwrap();
        assert!(
            !check(&format!("beyond-{number}"), text),
            "emptcp check accepts {text}"
        );
        assert!(
            validator.is_valid(&json),
            "the schema refuses {text} too: take it from the list"
        );
    }
}

#[test]
fn every_module_and_parameter_is_described() {
    let schema: Value = serde_json::from_slice(&emptcp(&["schema"]).stdout).unwrap();
    let modules: Value = serde_json::from_slice(&emptcp(&["--json", "modules"]).stdout).unwrap();
    for module in modules.as_array().unwrap() {
        let (name, kind) = (
            module["name"].as_str().unwrap(),
            module["kind"].as_str().unwrap(),
        );
        let steps = if kind == "actor" {
            "actor"
        } else {
            "expression"
        };
        assert!(
            schema["$defs"][steps]["properties"][name].is_object(),
            "{name}"
        );
        let described = &schema["$defs"][format!("{kind}-{name}")];
        assert_eq!(described["description"], module["doc"]);
        for param in module["params"].as_array().unwrap() {
            let name = param["name"].as_str().unwrap();
            // One with a table is described in two ways.
            let ways = described["anyOf"].as_array().cloned();
            let ways = ways.unwrap_or_else(|| vec![described.clone()]);
            let docs: Vec<&Value> = ways
                .iter()
                .filter_map(|way| way["properties"][name].get("description"))
                .collect();
            assert!(!docs.is_empty(), "{name}");
            assert!(
                docs.iter().all(|doc| **doc == param["doc"]),
                "{name}: {docs:?}"
            );
        }
    }
}
