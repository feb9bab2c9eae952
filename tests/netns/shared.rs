//! Sub-policies that many chains share, over the fragments of a folder.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::foreign::At;
use super::foreign::Judge;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::probe;

/// Each fragment alone is not valid: names are of the whole policy.
const FRAGMENTS: [(&str, &str); 3] = [
    (
        "10-chains.json",
        r#"{ "version": 1, "chains": [
  { "name": "a", "hook": "tc-ingress", "interfaces": ["p0"], "select": { "use": "web" }, "act": [{ "use": "tag" }] },
  { "name": "b", "hook": "tc-ingress", "interfaces": ["p0"], "select": { "not": { "use": "web" } }, "act": [{ "use": "watch" }] } ] }"#,
    ),
    (
        "20-selectors.json",
        r#"{ "version": 1, "selectors": { "web": { "all": [{ "use": "lan" }, { "dport": { "in": [80] } }] } } }"#,
    ),
    (
        "30-more.json",
        r#"{ "version": 1,
  "selectors": { "lan": { "any": [{ "src": { "in": ["10.0.0.0/8", "2001:db8::/32"] } }] } },
  "actors": { "watch": [{ "record": {} }], "tag": [{ "use": "watch" }, { "set_mark": { "value": 9 } }] } }"#,
    ),
];

fn folder(rig: &Rig, name: &str) -> PathBuf {
    let folder = rig.folder.0.join(name);
    fs::create_dir(&folder).unwrap();
    for (name, text) in FRAGMENTS {
        fs::write(folder.join(name), text).unwrap();
    }
    folder
}

#[test]
fn root_shared_over_fragments() {
    let rig = Rig::new(1, Tc::Tcx);
    let folder = folder(&rig, "d");
    let path = folder.to_str().unwrap();
    rig.run(&["apply", path]).ok();
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    probe(&rig.far, "p0", 3);
    let status = rig.status();
    assert_eq!((judge.read().total, judge.read().mark), (6, 9));
    assert_eq!(
        (chain_packets(&status, "a"), chain_packets(&status, "b")),
        (Some(6), Some(0))
    );
    assert_eq!(status["applied"]["from"], json!(path));

    // One definition changes: all chains that use it do, and the plan names it.
    let lan = FRAGMENTS[2].1.replace("10.0.0.0/8", "10.78.0.0/16");
    fs::write(folder.join("30-more.json"), lan).unwrap();
    let plan = rig.run(&["apply", "--dry-run", path]);
    assert_eq!(plan.code, Some(3));
    assert!(plan.out.starts_with("~ selector lan\n"), "{}", plan.out);
    let plan = rig.run(&["--json", "apply", "--dry-run", path]).json();
    assert_eq!(plan["selectors"]["changed"], json!(["lan"]));
    rig.run(&["apply", path]).ok();
    probe(&rig.far, "p0", 3);
    let status = rig.status();
    assert_eq!(
        (chain_packets(&status, "a"), chain_packets(&status, "b")),
        (Some(9), Some(3))
    );
}

#[test]
fn root_shared_errors_name_both_places() {
    let rig = Rig::new(0, Tc::Tcx);
    let rows: [(&str, &[&str]); 7] = [
        (
            r#""selectors": { "lan": { "mptcp": {} } }"#,
            &[
                "40-x.json:1:",
                "\"lan\" is defined twice: first at ",
                "30-more.json:2:18",
            ],
        ),
        (
            r#""actors": { "tag": [{ "record": {} }] }"#,
            &[
                "40-x.json:1:",
                "\"tag\" is defined twice: first at ",
                "30-more.json:3:44",
            ],
        ),
        (
            r#""selectors": { "r": { "not": { "use": "s" } }, "s": { "use": "r" } }"#,
            &["40-x.json:1:", "\"r\" uses itself: r → s → r"],
        ),
        (
            r#""selectors": { "s": { "use": "wep" } }"#,
            &["selectors.s.use: no shared selector is named \"wep\"; did you mean \"web\"?"],
        ),
        (
            r#""selectors": { "s": { "use": "tag" } }"#,
            &["no shared selector is named \"tag\": it is a list of actors"],
        ),
        (
            r#""actors": { "s": [{ "use": "lan" }] }"#,
            &["no shared list of actors is named \"lan\": it is a selector"],
        ),
        (
            r#""selectors": { "s": { "lan": {} } }"#,
            &["no selector is named \"lan\": a shared one is used by { \"use\": \"lan\" }"],
        ),
    ];
    for (number, (text, words)) in rows.into_iter().enumerate() {
        let folder = folder(&rig, &format!("d{number}"));
        let text = format!("{{ \"version\": 1, {text} }}");
        fs::write(folder.join("40-x.json"), text).unwrap();
        rig.run(&["check", folder.to_str().unwrap(), "--kernel", "6.12"])
            .fails(words);
    }
}
