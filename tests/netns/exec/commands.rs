// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Commands that are no entries of tables, or stand for some: injection, and holding of joins.

use std::time::Duration;

use serde_json::json;

use super::stage::*;
use crate::held;
use crate::mptcp::counter;
use crate::rig::Tc;
use crate::rig::wait_for;

#[test]
fn root_exec_injects_where_it_may() {
    let rig = rig();
    rig.far.sh("ip mptcp endpoint flush");
    policy(&rig);
    let connection = Connection::open(&rig);
    let key = format!("{}-10.77.0.1:{PORT}", connection.near.local_addr().unwrap());
    let inject = |subflow: &str, option: &str| {
        json!({ "cmd": "inject", "subflow": subflow, "to": "server",
            "option": { "option": option, "backup": true } })
    };
    let told = || counter(&rig.far, "MPTcpExtMPPrioRx");
    let path = socket(&rig);
    let path = path.to_str().unwrap();
    {
        let _daemon = run(&rig, &["--socket", path]);
        let answer = Client::connect(&rig).ask(inject(&key, "mp_prio"));
        refused(&answer, &["--allow-inject"]);
    }
    let _daemon = run(&rig, &["--socket", path, "--allow-inject"]);
    let mut program = Client::connect(&rig);
    refused(&program.ask(inject(NONE, "mp_prio")), &["knows no subflow"]);
    refused(&program.ask(inject(&key, "mp_pri0")), &["mp_prio"]);
    assert_eq!(told(), 0);
    let answer = program.ask(inject(&key, "mp_prio"));
    ok(&answer);
    assert_eq!(answer["frames"], 1);
    wait_for("MP_PRIO", LIMIT, || told() == 1);
    // Others are served behind it, entries too.
    ok(&program.add("window", NONE, json!(8192)));
}

#[test]
fn root_exec_holds_joins() {
    let rig = held::rig(Tc::Tcx);
    let held = json!({ "connection": { "table": "hold" } });
    let policy = json!({ "version": 1, "tables": { "hold": { "type": "token" } },
        "chains": [
            { "name": "hold", "hook": "tc-egress", "interfaces": ["p*"],
              "select": { "all": [{ "packet_type": { "any": ["mp_join"] } }, held] },
              "act": [{ "hold_join": {} }] },
            { "name": "release", "hook": ["tc-ingress", "tc-egress"], "interfaces": ["p*"],
              "priority": 1, "select": { "not": held }, "act": [{ "release_join": {} }] },
        ] });
    let path = rig.folder.write("hold.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let path = socket(&rig);
    let _daemon = run(&rig, &["--socket", path.to_str().unwrap()]);
    let mut program = Client::connect(&rig);
    let joins = || counter(&rig.far, "MPTcpExtMPJoinSynRx");
    // One that is held until the program says so, and one that goes as it was held when it ends.
    for (number, ends) in [(1, false), (2, true)] {
        rig.near.sh("ip mptcp endpoint flush");
        let mut connection = Connection::open(&rig);
        let all = rig.run(&["--json", "connections"]).ok().json();
        let newest = all
            .as_array()
            .unwrap()
            .iter()
            .max_by_key(|c| c["created"].as_u64());
        let token = newest.unwrap()["token"].clone();
        ok(&program.ask(json!({ "cmd": "hold", "token": token })));
        held::endpoint(&rig, "10.77.0.1".parse().unwrap());
        connection.exchange(4096);
        wait_for("the SYN is held", LIMIT, || {
            rig.status()["held_joins"]["waiting"] == 1
        });
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(joins(), number - 1, "{all}");
        match ends {
            true => drop(std::mem::replace(&mut program, Client::connect(&rig))),
            false => ok(&program.ask(json!({ "cmd": "release", "token": token }))),
        }
        wait_for("nothing is held", LIMIT, || {
            table(&rig, "hold") == json!([])
        });
        connection.exchange(4096);
        wait_for("a further subflow", LIMIT, || {
            counter(&rig.far, "MPTcpExtMPJoinAckRx") == number
        });
        connection.exchange(4096);
    }
}
