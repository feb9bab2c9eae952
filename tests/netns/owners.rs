// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Commands and chains that want a subflow to be backup, and do not undo each other: `emptcp set-prio`
//! with its owners, on what the server sends.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::announced::Ends;
use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::fill;
use super::pair::send;
use super::raw;
use super::rig::Ran;
use super::rig::wait_for;

const PORT: u16 = 7101;

fn apply(ends: &Ends, backup: Option<bool>) {
    let chain = |backup| {
        json!({ "name": "prio", "hook": ends.hook, "interfaces": ["p0"], "select": { "mptcp": {} },
            "act": [{ "set_flow_prio": { "backup": backup, "owner": 3 } }] })
    };
    let chains: Vec<Value> = backup.into_iter().map(chain).collect();
    let policy = json!({ "version": 1, "track": ["p*"], "chains": chains });
    let path = ends.rig.folder.write("owners.json", policy.to_string());
    ends.rig.run(&["apply", path.to_str().unwrap()]).ok();
}

#[test]
fn root_owners_of_commands_and_chains() {
    let ends = Ends::new("tc-egress");
    apply(&ends, None);
    let listener = ends.listen(false, PORT);
    let (client, server) = ends.connect(false, PORT, &listener);
    let bytes = fill(1, 64 << 10);
    let both_ways = || {
        send(&client, &server, &bytes);
        send(&server, &client, &bytes);
        std::thread::sleep(Duration::from_millis(60));
    };
    both_ways();
    let subflow = format!(
        "{}-{}",
        client.local_addr().unwrap(),
        SocketAddr::new(ends.address(false, 0), PORT)
    );
    // Told to the client, so wanted of what the server sends.
    let told = || counter(ends.client(), "MPTcpExtMPPrioRx");
    let set = |args: &[&str]| -> Ran {
        let args = [&["set-prio", &subflow, "--to", "client"], args].concat();
        ends.rig.run(&args).ok()
    };
    let wanted_by = || {
        let all = ends.rig.run(&["--json", "subflows"]).ok().json();
        assert_eq!(all[0]["from"]["backup_wanted_by"], json!([]), "{all:#}");
        all[0]["to"]["backup_wanted_by"].clone()
    };
    let release = set(&["--release"]);
    assert!(release.out.contains("wanted nothing"), "{}", release.out);
    assert_eq!(wanted_by(), json!([]));

    // Only a look.
    let looked = set(&["backup", "--dry-run", "--owner", "nobody"]);
    assert!(looked.out.contains("would be sent"), "{}", looked.out);
    set(&["backup"]);
    set(&["backup", "--owner", "ops"]);
    wait_for("both", LIMIT, || told() == 2);
    assert_eq!(wanted_by(), json!(["cli", "ops"]));
    let release = set(&["--release"]);
    assert!(
        release.out.contains("stays backup, wanted by ops"),
        "{}",
        release.out
    );
    assert_eq!(wanted_by(), json!(["ops"]));

    // A chain that wants none does not undo it.
    apply(&ends, Some(false));
    both_ways();
    assert_eq!((told(), wanted_by()), (2, json!(["ops"])));
    set(&["--release", "--owner", "ops"]);
    wait_for("no backup", LIMIT, || told() == 3);
    assert_eq!(wanted_by(), json!([]));

    // Nor does a command undo what a chain wants.
    apply(&ends, Some(true));
    wait_for("the chain", LIMIT, || {
        both_ways();
        told() == 4
    });
    assert_eq!(wanted_by(), json!(["3"]));
    let args = ["--json", "set-prio", &subflow, "--to", "client", "nobackup"];
    let kept = ends.rig.run(&args).ok().json();
    assert_eq!(
        (&kept[0]["sent"], &kept[0]["wanted_by"]),
        (&json!(false), &json!(["3"]))
    );
    both_ways();
    assert_eq!((told(), wanted_by()), (4, json!(["3"])));

    // Of one whose chain is gone.
    apply(&ends, None);
    set(&["--release", "--owner", "3"]);
    wait_for("no backup, again", LIMIT, || told() == 5);
    both_ways();
    assert_eq!((told(), wanted_by()), (5, json!([])));
    assert_eq!(counter(ends.server(), "MPTcpExtMPPrioRx"), 0);
    assert!(!raw::mptcp_fell_back(&client), "fell back");
    for (wrong, says) in [("Ops", "a-z"), ("32", "0 to 31")] {
        let args = ["set-prio", &subflow, "backup", "--owner", wrong];
        let refused = ends.rig.run(&args);
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains(says), "{}", refused.err);
    }
}
