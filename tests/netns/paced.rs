//! Where packets cannot be paced. How they are: tests/paced.rs, on kernels that have fq.

use serde_json::json;

use super::rig::Rig;
use super::rig::Tc;

#[test]
fn root_only_fq_paces() {
    let rig = Rig::new(2, Tc::Tcx);
    let chain = json!({ "name": "c", "hook": "tc-egress", "interfaces": ["p*"],
        "act": [{ "record": {} }, { "pace": { "rate": "20Mbit" } }] });
    let paced = json!([chain]);
    let words = [
        "policy.json:1:",
        "chains[0].act[1].pace: pace tells packets when to leave",
        "p0 has noqueue: tc qdisc replace dev p0 root fq",
        "tc qdisc replace dev p1 root fq",
    ];
    rig.apply(&paced).fails(&words);
    assert_eq!(rig.attached(), 0);
    rig.near.sh("tc qdisc replace dev p0 root pfifo");
    rig.apply(&paced)
        .fails(&["p0 has pfifo: tc qdisc replace dev p0 root fq"]);

    // Only a warning where nothing is put in force, and nothing about another machine.
    let path = rig.policy("policy.json", &paced);
    let checked = rig.run(&["check", &path]).ok();
    assert!(
        checked.err.contains("warning: ") && checked.err.contains("p0 has pfifo"),
        "{}",
        checked.err
    );
    assert_eq!(rig.run(&["check", "--kernel", "5.10", &path]).ok().err, "");

    // Chains that are not loaded need none.
    let mut disabled = paced.clone();
    disabled[0]["enabled"] = json!(false);
    rig.apply(&disabled).ok();
}
