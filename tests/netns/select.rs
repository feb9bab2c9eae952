// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `emptcp monitor --select`: events by expressions of selectors, of connections of Multipath TCP.
//! The policy is at the client.

use serde_json::Value;
use serde_json::json;

use super::monitor::Connection;
use super::monitor::Flood;
use super::monitor::LIMIT;
use super::monitor::PORT;
use super::monitor::events;
use super::monitor::rig;
use super::monitor::story;
use super::monitor::track;
use super::reader::Reader;
use super::reader::counts;
use super::rig::Rig;
use super::rig::wait_for;

const OTHER: u16 = PORT + 1;

/// The token of the server at this port.
fn token(rig: &Rig, port: u16) -> String {
    let all = rig.run(&["--json", "connections"]).ok().json();
    let all = all.as_array().unwrap();
    let of_port = |c: &&Value| c["server"].as_str().unwrap().ends_with(&format!(":{port}"));
    all.iter().find(of_port).unwrap()["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn root_select_one_of_two_connections() {
    let rig = rig();
    track(&rig, &json!([]));
    rig.far
        .sh("ip mptcp endpoint flush; ip mptcp endpoint add 10.77.1.1 id 9 signal");
    let expr = json!({ "all": [
        { "any": [{ "dport": { "in": [OTHER] } }, { "sport": { "in": OTHER } }] },
        { "not": { "subflow_kind": { "is": "joined" } } },
    ] });
    let monitor = Reader::start(
        &rig,
        "m",
        &["--json", "monitor", "--select", &expr.to_string()],
    );
    let mut connections = [PORT, OTHER].map(|port| Connection::open_at(&rig, false, port));
    for connection in &mut connections {
        connection.exchange(4096);
    }
    wait_for("both joined", LIMIT, || {
        let sockets = rig
            .near
            .sh("ss -Htn state established dport ge :5001 and dport le :5002");
        sockets.lines().count() == 4
    });
    let tokens = [PORT, OTHER].map(|port| token(&rig, port));
    // Of the joined subflows, which are left out.
    rig.far.sh("ip mptcp endpoint change id 9 backup");
    wait_for("what is told of the first one", LIMIT, || {
        monitor.out().lines().count() >= 4
    });
    for connection in connections {
        connection.close();
    }
    wait_for("its end", LIMIT, || monitor.out().lines().count() >= 5);
    let (out, err) = monitor.end();
    let all = events(&out);
    // Whether the last subflow of a connection that has gone was the first one, nobody knows then.
    assert_eq!(
        story(&all),
        [
            "connection opened",
            "subflow opened initial",
            "add_addr",
            "add_addr",
            "subflow closed initial",
        ],
        "{out}"
    );
    assert_eq!(counts(&err), (5, 0));
    assert_ne!(tokens[0], tokens[1]);
    assert!(all.iter().all(|event| event["token"] == tokens[1]), "{out}");
}

#[test]
fn root_select_by_what_the_tracker_has() {
    let rig = rig();
    let shared = json!({ "version": 1, "track": ["p0", "p1"],
        "selectors": { "other": { "any": [{ "sport": { "in": OTHER } }] } } });
    let path = rig.folder.write("shared.json", shared.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    let mut connections = [PORT, OTHER].map(|port| Connection::open_at(&rig, false, port));
    for connection in &mut connections {
        connection.exchange(4096);
    }
    let floods = connections.each_ref().map(|c| Flood::of(&rig, c));
    let tokens = [PORT, OTHER].map(|port| token(&rig, port));
    let file = rig.folder.write(
        "expr.json",
        json!({ "role": { "is": "server" } }).to_string(),
    );
    let file = format!("@{}", file.display());
    let exprs = [
        (json!({ "connection": { "token": tokens[1] } }), 2),
        (
            json!({ "not": { "connection": { "token": tokens[1] } } }),
            3,
        ),
        (json!({ "use": "other" }), 2),
        (json!({ "backup": {} }), 5),
        (json!({ "backup": { "set": false } }), 0),
        (json!({ "subflow_count": { "min": 1, "max": 1 } }), 5),
        (json!({ "subflow_count": { "min": 2 } }), 0),
        (json!({ "subflow_index": { "max": 0 } }), 5),
        (json!({ "role": { "is": "client", "of": "subflow" } }), 0),
        (json!({ "role": { "is": "server", "of": "subflow" } }), 5),
        (
            json!({ "conn_bytes": { "min": 4096, "direction": "up" } }),
            5,
        ),
        (json!({ "conn_bytes": { "min": 8193 } }), 0),
        (json!({ "subflow_bytes": { "max": 8192 } }), 5),
        (json!({ "age": { "max": "1h" } }), 5),
        (json!({ "age": { "min": "1h", "of": "connection" } }), 0),
        (json!({ "version": { "any": ["v1"] } }), 5),
        (json!({ "addr_id": { "in": [0] } }), 5),
        (json!({ "fallback": {} }), 0),
        (json!({ "not": { "fallback": {} } }), 5),
        // Of these no such event tells.
        (json!({ "announced": {} }), 0),
        (json!({ "not": { "announced": {} } }), 0),
    ];
    let exprs = exprs.map(|(expr, count)| (expr.to_string(), count));
    for (expr, count) in exprs.into_iter().chain([(file, 5)]) {
        let monitor = Reader::start(&rig, "m", &["monitor", "prio", "--select", &expr]);
        floods[0].send(3);
        floods[1].send(2);
        let (out, err) = monitor.end();
        assert_eq!(counts(&err), (count, 0), "{expr}: {out}");
    }
    let (first, last) = (["--dev", "p0"], ["--dev", "p1", "--dev", "p?0"]);
    for (args, count) in [(&first[..], 3), (&last[..], 0)] {
        let monitor = Reader::start(&rig, "m", &[&["monitor"], args].concat());
        floods[0].send(3);
        assert_eq!(counts(&monitor.end().1), (count, 0), "{args:?}");
    }
    for connection in connections {
        connection.close();
    }
}

#[test]
fn root_select_refusals() {
    let rig = rig();
    track(&rig, &json!([]));
    let refused = |expr: &str, words: &[&str]| {
        rig.run(&["monitor", "--select", expr]).fails(words);
    };
    refused(
        r#"{ "rtt": { "min": "1ms" } }"#,
        &[
            "--select:1:3",
            "no event tells what rtt looks at",
            "backup",
            "subflow_kind",
        ],
    );
    refused(
        r#"{ "subflow_kid": {} }"#,
        &["did you mean \"subflow_kind\""],
    );
    refused(
        r#"{ "announced": { "sets": ["private"] } }"#,
        &["\"sets\" of announced"],
    );
    refused(
        r#"{ "dport": { "table": "ports" } }"#,
        &["tables are for packets"],
    );
    refused(
        r#"{ "use": "web" }"#,
        &["no shared selector is named \"web\""],
    );
    refused(r#"{ "dport": 443 }"#, &["expected an object of parameters"]);
    refused("@/nowhere", &["/nowhere: cannot be read"]);
    let json = rig.run(&["--json", "monitor", "--select", "{}"]);
    assert_eq!(
        (json.code, json.json()["valid"].clone()),
        (Some(1), json!(false))
    );
}
