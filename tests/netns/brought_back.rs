// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! An announcement that was suppressed comes back though the subflow that carried it is idle: with a
//! packet of another subflow, or one that `emptcp run` sends once a policy brings it back.

use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::announced::Ends;
use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::fill;
use super::pair::send;
use super::raw;
use super::reader::Reader;
use super::restored::errors;
use super::restored::subflows;
use super::rig::wait_for;

const PORT: u16 = 7001;
/// Bytes of a transfer.
const SIZE: usize = 64 << 10;

/// The connection, and who else may join it.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    _listener: TcpListener,
    bytes: Vec<u8>,
}

impl Connection {
    fn new(ends: &Ends, v6: bool) -> Self {
        let listener = ends.listen(v6, PORT);
        let (client, server) = ends.connect(v6, PORT, &listener);
        Self {
            client,
            server,
            _listener: listener,
            bytes: fill(7, SIZE),
        }
    }

    fn both_ways(&self) {
        send(&self.client, &self.server, &self.bytes);
        send(&self.server, &self.client, &self.bytes);
    }
}

fn ends(hook: &'static str) -> Ends {
    let ends = Ends::new(hook);
    // What comes back is not what the stack says again.
    ends.server().sh("sysctl -qw net.mptcp.add_addr_timeout=0");
    ends
}

/// Suppresses what the server announces; with these interfaces, brings it back there.
fn apply(ends: &Ends, back: &[&str]) {
    let mut chains = vec![
        json!({ "name": "suppress", "hook": ends.hook, "interfaces": ["p*"],
        "priority": 0, "act": [{ "rm_add_addr": {} }] }),
    ];
    if !back.is_empty() {
        chains.push(
            json!({ "name": "restore", "hook": ends.hook, "interfaces": back,
            "priority": 1, "select": { "mptcp": {} }, "act": [{ "restore_addr": {} }] }),
        );
    }
    let policy = json!({ "version": 1, "track": ["p*"], "chains": chains });
    let path = ends.rig.folder.write("back.json", policy.to_string());
    ends.rig.run(&["apply", path.to_str().unwrap()]).ok();
}

/// Announcements that were brought back.
fn restored(ends: &Ends) -> u64 {
    let status = ends.rig.status();
    let chains = status["chains"].as_array().unwrap().iter();
    let mut steps = chains.flat_map(|c| c["steps"].as_array().unwrap());
    let step = steps.find(|s| s["module"] == "restore_addr").unwrap();
    assert_eq!(step["errors"], 0, "{status}");
    step["matched"].as_u64().unwrap()
}

fn joins(ends: &Ends) -> u64 {
    counter(ends.server(), "MPTcpExtMPJoinSynRx")
}

/// Directions of subflows that wait for a packet.
fn waiting(ends: &Ends) -> Value {
    ends.rig.status()["waiting"].clone()
}

/// early: `run` is there before the policy that brings it back.
fn idle(hook: &'static str, v6: bool, early: bool) {
    let ends = ends(hook);
    ends.server().sh(&format!(
        "ip mptcp endpoint add {} id 9 signal",
        ends.address(v6, 1)
    ));
    apply(&ends, &[]);
    let connection = Connection::new(&ends, v6);
    connection.both_ways();
    std::thread::sleep(Duration::from_millis(50));
    let none = errors([ends.server(), ends.client()]);
    let early = early.then(|| Reader::start(&ends.rig, "run", &["run"]));
    apply(&ends, &["p*"]);
    if early.is_none() {
        // In one direction of one subflow, as long as nobody sends a packet.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!((restored(&ends), joins(&ends)), (0, 0));
        assert_eq!(waiting(&ends), 1);
    }
    let run = early.unwrap_or_else(|| Reader::start(&ends.rig, "run", &["run"]));
    wait_for("the join", LIMIT, || joins(&ends) == 1);
    assert_eq!((restored(&ends), waiting(&ends)), (1, json!(0)));
    assert_eq!(counter(ends.client(), "MPTcpExtAddAddr"), 1);
    connection.both_ways();
    assert!(!raw::mptcp_fell_back(&connection.client));
    assert_eq!(errors([ends.server(), ends.client()]), none);
    let (_, err) = run.end();
    assert_eq!(err, "emptcp: running, until a signal (Ctrl-C) ends it\n");
}

#[test]
fn root_brought_back_to_an_idle_connection_at_ingress() {
    idle("tc-ingress", true, true);
}

#[test]
fn root_brought_back_to_an_idle_connection_at_egress() {
    idle("tc-egress", false, false);
}

/// Announcements came by the first link, and the chain that brings them back is at the second: with
/// data, and idle.
#[test]
fn root_brought_back_by_another_subflow() {
    let ends = ends("tc-ingress");
    let second = ends.address(false, 1);
    ends.server().sh(&format!(
        "ip addr add 10.77.1.110/24 dev p1 && ip addr add 10.77.1.111/24 dev p1 && \
         ip mptcp endpoint add {second} id 9 signal"
    ));
    let policy = json!({ "version": 1, "track": ["p*"], "chains": [] });
    let path = ends.rig.folder.write("track.json", policy.to_string());
    ends.rig.run(&["apply", path.to_str().unwrap()]).ok();
    let connection = Connection::new(&ends, false);
    wait_for("two subflows", LIMIT, || {
        connection.both_ways();
        subflows(ends.client(), PORT) == 2
    });
    connection.both_ways();
    for (id, before, has_data) in [(10, 1, true), (11, 2, false)] {
        apply(&ends, &[]);
        let sent = counter(ends.server(), "MPTcpExtAddAddrTx");
        ends.server().sh(&format!(
            "ip mptcp endpoint add 10.77.1.1{id} id {id} signal"
        ));
        wait_for("the announcement", LIMIT, || {
            counter(ends.server(), "MPTcpExtAddAddrTx") > sent
        });
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(joins(&ends), before, "suppressed");
        let status = ends.rig.run(&["--json", "status", "--state"]).ok().json();
        let maps = status["state"].as_array().unwrap();
        let lists = maps.iter().find(|m| m["map"] == "stash_lists").unwrap();
        let lists = lists["entries"].as_array().unwrap();
        let waits: Vec<_> = lists.iter().filter(|list| list["ids"] != 0).collect();
        let [list] = waits[..] else {
            panic!("{lists:?}");
        };
        assert_eq!(
            (&list["ids"], &list["by_server"]),
            (&json!(id), &json!(true))
        );
        apply(&ends, &["p1"]);
        let run = (!has_data).then(|| Reader::start(&ends.rig, "run", &["run"]));
        wait_for("the join", LIMIT, || {
            if has_data {
                connection.both_ways();
            }
            joins(&ends) == before + 1
        });
        assert!(restored(&ends) > 0);
        drop(run);
    }
    connection.both_ways();
    assert_eq!(subflows(ends.client(), PORT), 4);
    assert!(!raw::mptcp_fell_back(&connection.client));
}
