// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What a program decides meets an idle connection, too: `run` sends a packet that carries it.

use serde_json::json;

use super::stage::*;
use crate::mptcp::counter;
use crate::rig::wait_for;

#[test]
fn root_exec_decides_for_an_idle_connection() {
    let rig = rig();
    rig.far.sh("ip mptcp endpoint flush");
    let policy = json!({ "version": 1, "track": ["p*"],
        "tables": { "prio": { "type": "subflow", "value": "bool" } },
        "chains": [{ "name": "prio", "hook": "tc-egress", "interfaces": ["p*"],
            "select": { "any": [{ "subflow": { "table": "prio" } }, { "mptcp": {} }] },
            "act": [{ "set_flow_prio": { "backup": { "table": "prio", "default": false } } }] }] });
    let path = rig.folder.write("idle.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let path = socket(&rig);
    let _daemon = run(&rig, &["--socket", path.to_str().unwrap()]);
    let mut program = Client::connect(&rig);
    let connection = Connection::open(&rig);
    let told = || counter(&rig.far, "MPTcpExtMPPrioRx");
    // That it is none is told first, whoever asks.
    wait_for("the first wish", LIMIT, || told() == 1);
    std::thread::sleep(std::time::Duration::from_millis(150));
    let key = format!("{}-10.77.0.1:{PORT}", connection.near.local_addr().unwrap());
    ok(&program.ask(json!({ "cmd": "prio", "subflow": key, "value": true })));
    wait_for("backup", LIMIT, || told() == 2);
    std::thread::sleep(std::time::Duration::from_millis(150));
    // What it has put there goes with it.
    drop(program);
    wait_for("no backup", LIMIT, || told() == 3);
    assert_eq!(rig.status()["waiting"], 0);
}
