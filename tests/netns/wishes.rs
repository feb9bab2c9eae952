// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Several owners that want a subflow to be backup, or not: MP_PRIO goes out when the answer of all
//! of them changes, and only then. The connection has one subflow left, so that it stays in use
//! whatever it is.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::grow::Connection;
use super::grow::Ends;
use super::grow::LIMIT;
use super::grow::SIZE;
use super::grow::Sender;
use super::mptcp::counter;
use super::mptcp::subflows;
use super::rig::wait_for;

const PORT: &str = "5001";

/// Two tables of wishes, by the port of the connection, and a chain for each owner, which is its
/// number. `sender`: who is to stop sending, whose peer's ACKs pass the client at this hook.
struct Wishes {
    ends: Ends,
    sender: Sender,
    connection: Connection,
}

impl Wishes {
    fn new(sender: Sender, owners: &[u8]) -> Self {
        let ends = Ends::new();
        let connection = ends.connect(false);
        ends.0.far.sh("ip mptcp endpoint flush");
        wait_for("one subflow", LIMIT, || subflows(&ends.0.near) == 1);
        let wishes = Self {
            ends,
            sender,
            connection,
        };
        wishes.apply(owners);
        wishes
    }

    fn apply(&self, owners: &[u8]) {
        // ACKs leave the client where the server sends.
        let (hook, port) = match self.sender {
            Sender::Far => ("tc-egress", "dport"),
            Sender::Near => ("tc-ingress", "sport"),
        };
        let chain = |owner: &u8| {
            let table = format!("t{owner}");
            json!({ "name": format!("owner{owner}"), "hook": hook, "interfaces": ["p0"],
                "select": { port: { "table": table } },
                "act": [{ "set_flow_prio": { "backup": { "table": table }, "owner": owner } }] })
        };
        let tables: serde_json::Map<String, Value> = owners
            .iter()
            .map(|owner| {
                (
                    format!("t{owner}"),
                    json!({ "type": "port", "value": "bool" }),
                )
            })
            .collect();
        let chains: Vec<Value> = owners.iter().map(chain).collect();
        let text = json!({ "version": 1, "tables": tables, "chains": chains }).to_string();
        let path = self.ends.0.folder.write("wishes.json", text);
        self.ends.0.run(&["apply", path.to_str().unwrap()]).ok();
    }

    fn want(&self, owner: u8, backup: bool) {
        let table = format!("t{owner}");
        let value = backup.to_string();
        self.ends
            .0
            .run(&["table", "add", &table, PORT, &value])
            .ok();
    }

    /// MP_PRIO that the one who sends has got.
    fn told(&self) -> u64 {
        counter(self.ends.netns(self.sender), "MPTcpExtMPPrioRx")
    }

    /// Waits until it has been told so often.
    fn wait(&mut self, told: u64) {
        wait_for(&format!("{told} MP_PRIO"), LIMIT, || {
            self.connection.send(self.sender, SIZE / 8);
            self.told() >= told
        });
    }

    /// Data enough for whoever would be told something to hear it.
    fn stays(&mut self, told: u64, what: &str) {
        for _ in 0..20 {
            self.connection.send(self.sender, SIZE / 4);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.told(), told, "{what}");
    }
}

/// Backup and back, 50 times in turn.
fn to_and_fro(sender: Sender) {
    let mut wishes = Wishes::new(sender, &[0]);
    let errors = wishes.ends.errors();
    let before = wishes.told();
    for change in 1..=100 {
        wishes.want(0, change % 2 == 1);
        wishes.wait(before + change);
        assert_eq!(wishes.told(), before + change);
    }
    wishes.stays(before + 100, "nothing changes any more");
    let (treated, refused) = wishes.ends.treated("set_flow_prio");
    println!("{sender:?}: {treated} ACKs, {refused} refused");
    assert_eq!(treated, 100);
    let other = counter(wishes.ends.netns(sender.other()), "MPTcpExtMPPrioRx");
    assert_eq!(other, 0, "the wrong end");
    assert!(!wishes.connection.fell_back());
    assert_eq!(subflows(&wishes.ends.0.near), 1);
    assert_eq!(wishes.ends.errors(), errors);
}

#[test]
fn root_wishes_to_and_fro_at_egress() {
    to_and_fro(Sender::Far);
}

#[test]
fn root_wishes_to_and_fro_at_ingress() {
    to_and_fro(Sender::Near);
}

/// The whole changes with the first who wants backup and with the last who does not any more.
fn disagree(sender: Sender) {
    let mut wishes = Wishes::new(sender, &[3, 31]);
    let before = wishes.told();
    wishes.want(3, true);
    wishes.wait(before + 1);
    wishes.want(31, false);
    wishes.stays(before + 1, "one of two wants backup");
    wishes.want(31, true);
    wishes.stays(before + 1, "both want backup");
    wishes.want(3, false);
    wishes.stays(before + 1, "the other one wants backup");
    // The wishes outlive the policy that had them.
    wishes.apply(&[3, 31, 7]);
    wishes.stays(before + 1, "a new policy");
    let state = wishes
        .ends
        .0
        .run(&["--json", "status", "--state"])
        .ok()
        .json();
    let maps = state["state"].as_array().unwrap();
    let map = maps.iter().find(|m| m["map"] == "prio_wishes").unwrap();
    for entry in map["entries"].as_array().unwrap() {
        assert_eq!(entry["owners"], json!(1_u64 << 31), "{entry}");
        assert_eq!(entry["backup"], true, "{entry}");
    }
    wishes.want(31, false);
    wishes.wait(before + 2);
    wishes.stays(before + 2, "nobody wants backup any more");
    assert!(!wishes.connection.fell_back());
    assert_eq!(subflows(&wishes.ends.0.near), 1);
}

#[test]
fn root_wishes_that_disagree() {
    for sender in [Sender::Far, Sender::Near] {
        disagree(sender);
    }
}
