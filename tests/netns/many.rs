// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Many chains at one hook.

use serde_json::Value;
use serde_json::json;

use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::traffic::probe;

fn step<'a>(status: &'a Value, key: &str) -> &'a Value {
    let chains = status["chains"].as_array().unwrap().iter();
    let mut steps = chains.flat_map(|chain| chain["steps"].as_array().unwrap());
    steps.find(|step| step["step"] == key).unwrap()
}

/// A test that the chain before has made is not made again, and `status` says where it counts.
#[test]
fn root_chains_share_tests() {
    let rig = Rig::new(2, Tc::Tcx);
    let chain = |name: &str, interfaces: Value, port: &str, act: Value| {
        json!({ "name": name, "hook": "tc-ingress", "interfaces": interfaces,
            "select": { "all": [{ "tcp": { "flags": ["ack"] } }, { "dport": { "in": [port] } }] },
            "act": act })
    };
    let record = json!([{ "record": {} }]);
    let mark = json!([{ "set_mark": { "value": 1 } }]);
    rig.apply(&json!([
        chain("a", json!(["p0"]), "9", record.clone()),
        chain("b", json!(["p0"]), "80", mark),
        chain("c", json!(["p0", "p1"]), "80", record),
    ]))
    .ok();
    probe(&rig.far, "p0", 10);
    let status = rig.status();
    let packets = ["a", "b", "c"].map(|chain| chain_packets(&status, chain));
    assert_eq!(packets, [Some(0), Some(20), Some(20)]);
    let first = step(&status, "a/select/all[0]");
    assert_eq!(first["evaluated"], 20);
    assert_eq!(first["shared_with"], Value::Null);
    let shared = step(&status, "b/select/all[0]");
    assert_eq!(shared["shared_with"], json!(["a/select/all[0]"]));
    assert_eq!(shared["only_shared"], true);
    assert_eq!(
        (&shared["evaluated"], &shared["matched"]),
        (&json!(20), &json!(20))
    );
    // Behind set_mark it is made again, and on p1 by nobody else.
    let again = step(&status, "c/select/all[0]");
    assert_eq!(again["shared_with"], json!(["a/select/all[0]"]));
    assert_eq!(again["only_shared"], Value::Null);
    assert_eq!(again["evaluated"], 20);
    probe(&rig.far, "p1", 10);
    let status = rig.status();
    assert_eq!(step(&status, "c/select/all[0]")["evaluated"], 40);
    let text = rig.run(&["status"]).ok().out;
    let row = text.lines().find(|line| line.starts_with("b ")).unwrap();
    assert!(row.ends_with("  a/select/all[0]"), "{text}");
}
