//! `emptcp explain`: what it says of a policy is what the policy does.

#![allow(clippy::unwrap_used)]

mod policies;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn explain(name: &str, text: &str, option: &str) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("explain-{name}.json"));
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_emptcp"))
        .args(["explain", "--kernel", "6.12"])
        .arg(&file)
        .args(Some(option).filter(|o| !o.is_empty()))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

const POLICY: &str = r#"{ "version": 1, "chains": [
    { "name": "web", "hook": "tc-ingress", "interfaces": ["eth0", "eth1"], "on_error": "drop",
      "select": { "any": [ { "dport": { "in": [80, 443] } },
                           { "not": { "src": { "in": "10.0.0.0/8" } } } ] },
      "act": [ { "record": {} }, { "drop": {} } ] },
    { "name": "rest", "hook": ["tc-ingress", "xdp"], "interfaces": ["eth0"],
      "select": { "mptcp": {} }, "act": [ { "record": {} } ] } ] }"#;

#[test]
fn as_text() {
    let text = explain("text", POLICY, "");
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<String> = text.lines().map(|line| words(line).join(" ")).collect();
    let expected = [
        "xdp of eth0: longest path 1 of 33 calls: 1 → 2",
        "1 rest select mptcp 2 pass pass",
        "tc-ingress of eth0: longest path 1 of 33 calls: 1 → 3 → 4",
        "1 web select/any[0] dport(in=[80,443]) 3 2 drop",
        "2 select/any[1]/not src(in=[\"10.0.0.0/8\"]) 5 3 drop",
        "3 act[0] record 4 drop",
        "program 1: steps 1, 2, 3, 4, 5, 6",
        "tc-ingress of eth1: longest path 1 of 33 calls: 1 → 3 → 4",
    ];
    for line in expected {
        assert!(
            lines.iter().any(|l| l == line),
            "no line {line:?} in\n{text}"
        );
    }
    assert!(
        lines.iter().any(|l| l.starts_with("4 act[1] drop ends")),
        "{text}"
    );
    assert!(
        lines.last().unwrap().starts_with("memory: about "),
        "{text}"
    );
}

/// Follows the way of a packet by what each module says of it.
fn run(attachment: &Value, says: impl Fn(&str) -> &'static str) -> (Vec<String>, String) {
    let mut done = Vec::new();
    let mut at = attachment["start"].clone();
    while let Some(number) = at.as_u64() {
        let step = &attachment["steps"][number as usize - 1];
        assert_eq!(step["number"], number);
        let module = step["module"].as_str().unwrap();
        done.push(module.to_owned());
        at = step[says(module)].clone();
    }
    let end = at.as_str().unwrap_or("ends").to_owned();
    (done, end)
}

#[test]
fn as_json() {
    let json: Value = serde_json::from_str(&explain("json", POLICY, "--json")).unwrap();
    let attachments = json["attachments"].as_array().unwrap();
    let two = attachments
        .iter()
        .find(|a| a["hook"] == "tc-ingress" && a["interfaces"][0] == "eth0")
        .unwrap();
    let way = |says: &dyn Fn(&str) -> &'static str| {
        let (steps, end) = run(two, says);
        format!("{} {end}", steps.join(" "))
    };
    assert_eq!(way(&|_| "match"), "dport record drop ends");
    let outside = |module: &str| {
        if module == "dport" || module == "src" {
            "miss"
        } else {
            "match"
        }
    };
    assert_eq!(way(&outside), "dport src record drop ends");
    let inside = |module: &str| match module {
        "dport" | "mptcp" => "miss",
        _ => "match",
    };
    assert_eq!(way(&inside), "dport src mptcp pass");
    assert_eq!(way(&|_| "error"), "dport drop");
    assert!(json["memory"]["maps"].as_u64().unwrap() > 65536);
}

/// Every edge joins two nodes that are there, once each way.
#[test]
fn as_dot() {
    for (name, text) in policies::all() {
        let dot = explain(&name, &text, "--dot");
        let json: Value = serde_json::from_str(&explain(&name, &text, "--json")).unwrap();
        assert_eq!(dot.matches('{').count(), dot.matches('}').count(), "{dot}");
        let mut nodes = BTreeSet::new();
        let mut edges = 0;
        for line in dot.lines().map(|line| line.trim().trim_end_matches(';')) {
            if let Some((from, to)) = line.split_once(" -> ") {
                let to = to.split(' ').next().unwrap();
                assert!(
                    nodes.contains(from) && nodes.contains(to),
                    "{line} in\n{dot}"
                );
                edges += 1;
            } else if let Some((node, _)) = line.split_once(" [") {
                nodes.insert(node.to_owned());
            }
        }
        let mut expected = 0;
        for attachment in json["attachments"].as_array().unwrap() {
            let steps = attachment["steps"].as_array().unwrap();
            let ways = steps
                .iter()
                .flat_map(|s| ["match", "miss", "error"].map(|w| &s[w]));
            expected += 1 + ways.filter(|way| !way.is_null()).count();
        }
        assert_eq!(edges, expected, "{dot}");
    }
}
