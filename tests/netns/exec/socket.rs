// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Clients of the socket: who may come in, and whose value is in force.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::stage::*;
use crate::rig::Rig;
use crate::rig::wait_for;

#[test]
fn root_exec_clients_of_the_socket() {
    let rig = rig();
    policy(&rig);
    rig.run(&["table", "add", "window", NONE, "64KiB"]).ok();
    let path = socket(&rig);
    let path = path.to_str().unwrap();
    let daemon = run(&rig, &["--socket", path]);
    let window = || table(&rig, "window");
    let (mut a, mut b) = (Client::connect(&rig), Client::connect(&rig));
    ok(&a.ask(json!({ "cmd": "ping" })));
    // The least of what several want, and what was there before.
    ok(&a.add("window", NONE, json!("16KiB")));
    assert_eq!(window(), json!({ NONE: "16KiB" }));
    ok(&b.ask(json!({ "cmd": "window", "subflow": NONE, "value": 8192 })));
    assert_eq!(window(), json!({ NONE: "8KiB" }));
    ok(&a.add("window", NONE, json!("128KiB")));
    ok(&b.ask(json!({ "cmd": "window", "subflow": NONE, "value": null })));
    assert_eq!(window(), json!({ NONE: "64KiB" }));
    ok(&a.add("window", NONE, json!("32KiB")));
    let shown = b.ask(json!({ "cmd": "table_show", "table": "window" }));
    assert_eq!(shown["elements"], json!({ NONE: "32KiB" }));
    ok(&a.add("marks", NONE, json!(1)));
    ok(&b.add("marks", NONE, json!(2)));
    let lasting = json!({ "cmd": "table_add", "table": "lasting", "key": "192.0.2.1", "value": 1, "timeout": "10s" });
    ok(&a.ask(lasting));
    let left = rig.run(&["--json", "table", "show", "lasting"]).ok().json();
    let left = left["milliseconds_left"]["192.0.2.1"].as_u64().unwrap();
    assert!((5000..10_001).contains(&left), "{left}");
    // What is wrong is said.
    refused(&a.add("fixed", "81", json!(null)), &["fixed", "elements"]);
    refused(&a.add("window", "10.0.0.1", json!(1)), &["subflow"]);
    refused(&a.add("windov", NONE, json!(1)), &["windov", "window"]);
    refused(&a.add("lasting", "192.0.2.1", json!("x")), &["x"]);
    let del = json!({ "cmd": "table_del", "table": "window", "key": NONE });
    refused(&b.ask(del), &["no such entry"]);
    refused(
        &b.ask(json!({ "cmd": "subscribe", "events": ["flood"] })),
        &["flood", "add_addr"],
    );
    refused(&b.ask(json!({ "cmd": "fly" })), &["fly", "table_add"]);
    // A client that goes takes its own along; what others have changed since stays.
    drop(a);
    wait_for("what was before", LIMIT, || {
        window() == json!({ NONE: "64KiB" })
    });
    wait_for("nothing", LIMIT, || table(&rig, "lasting") == json!({}));
    assert_eq!(table(&rig, "marks"), json!({ NONE: 2 }));
    rig.run(&["table", "add", "marks", NONE, "9"]).ok();
    drop(b);
    wait_for("b has gone", LIMIT, || {
        said(&rig).matches("taken back").count() == 2
    });
    assert_eq!(table(&rig, "marks"), json!({ NONE: 9 }));
    // Another one cannot be there; a dead socket is no hindrance.
    let second = rig.run(&["run", "--socket", path]);
    second.fails(&["cannot listen", "another process"]);
    daemon.signal(Signal::SIGKILL);
    std::thread::sleep(Duration::from_millis(50));
    let again = run(&rig, &["--socket", path]);
    ok(&Client::connect(&rig).ask(json!({ "cmd": "ping" })));
    again.end();
    assert!(!socket(&rig).exists());
}

/// Connects as another user, and prints what comes.
fn as_user(rig: &Rig, user: &str, group: &str) -> String {
    let text = format!(
        "import os, socket, sys\n\
         os.setgroups([]); os.setgid({group}); os.setuid({user})\n\
         s = socket.socket(socket.AF_UNIX)\n\
         try: s.connect({:?})\n\
         except OSError as e: print(e); sys.exit()\n\
         print(s.recv(1000).decode())",
        socket(rig)
    );
    let output = std::process::Command::new("python3")
        .arg("-c")
        .arg(text)
        .output()
        .unwrap();
    crate::secrets::heard(&output.stdout);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn root_exec_socket_is_for_some() {
    let rig = rig();
    policy(&rig);
    let path = socket(&rig);
    let path = path.to_str().unwrap();
    for (args, user, group, word) in [
        // Not even by the permissions.
        (
            &["--socket", path][..],
            "65534",
            "65534",
            "Permission denied",
        ),
        (
            &["--socket", path, "--mode", "0666"],
            "65534",
            "65534",
            "not for this user",
        ),
        (
            &["--socket", path, "--group", "nogroup"],
            "1234",
            "65534",
            "hello",
        ),
        (
            &["--socket", path, "--group", "nogroup"],
            "1234",
            "1234",
            "Permission denied",
        ),
        (
            &["--socket", path, "--group", "nogroup", "--mode", "0666"],
            "1234",
            "1234",
            "not for this user",
        ),
        (&["--socket", path, "--mode", "0600"], "0", "0", "hello"),
    ] {
        let daemon = run(&rig, args);
        let got = as_user(&rig, user, group);
        assert!(got.contains(word), "{args:?} {user} {group}: {got}");
        daemon.end();
    }
    rig.run(&["run", "--exec", "/bin/true", "--user", "root"])
        .fails(&["root"]);
    rig.run(&["run", "--exec", "/bin/true", "--user", "nosuch"])
        .fails(&["nosuch"]);
}

/// Links are told without a policy, and beside another reader of events.
#[test]
fn root_exec_is_told_of_links() {
    let rig = rig();
    let path = socket(&rig);
    let daemon = run(&rig, &["--socket", path.to_str().unwrap()]);
    crate::links::links_are_up(&rig);
    let mut client = Client::connect(&rig);
    ok(&client.ask(json!({ "cmd": "subscribe", "events": ["link", "reason"] })));
    for (command, event, up) in [
        ("ip link set p1 down", "down", false),
        ("ip link set p1 up", "up", true),
        ("ip link del p1", "gone", false),
    ] {
        rig.near.sh(command);
        let told = client.next();
        assert_eq!(
            [
                &told["type"],
                &told["interface"],
                &told["event"],
                &told["up"]
            ],
            [&json!("link"), &json!("p1"), &json!(event), &json!(up)],
            "{told}"
        );
    }
    policy_at_p0(&rig);
    let monitor = crate::reader::Reader::start(&rig, "m", &["monitor", "prio"]);
    monitor.end();
    drop(client);
    let (_, err) = daemon.end();
    assert!(!err.contains("events:"), "{err}");
}

/// One that tracks.
fn policy_at_p0(rig: &Rig) {
    let text = json!({ "version": 1, "track": ["p0"] }).to_string();
    let path = rig.folder.write("p0.json", text);
    rig.run(&["apply", path.to_str().unwrap()]).ok();
}
