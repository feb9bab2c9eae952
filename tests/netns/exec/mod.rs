// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `emptcp run --exec` and `--socket`: programs that decide, on connections of Multipath TCP; what
//! becomes of their entries, and of traffic, when they fail. The policy is at the client.

mod commands;
mod cost;
mod disjoint;
mod examples;
mod idle;
mod overflow;
mod rate;
mod socket;
mod stage;
mod unruly;

use nix::sys::signal::Signal;
use serde_json::json;

use self::stage::*;
use super::mptcp::subflows;
use super::rig::chain_packets;
use super::rig::wait_for;

#[test]
fn root_exec_a_program_decides() {
    let rig = rig();
    policy(&rig);
    let program = program(
        &rig,
        "decides.py",
        r#"
for line in open("/proc/self/status"):
    if line.split(":")[0] in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs", "SigBlk"):
        log("status", *line.split())
log("arguments", sys.argv[1:], "of run", os.environ.get("EMPTCP_BPFFS"))
say(id=0, cmd="subscribe", events=["connection", "subflow"], metrics=True)
for line in sys.stdin:
    line = json.loads(line)
    if line.get("event") == "metrics":
        for s in line["subflows"]:
            if s["from"]["kernel"]:
                log("metric", s["subflow"], s["from"]["kernel"]["cwnd"] > 0)
        continue
    log("told", json.dumps(line))
    if line.get("type") == "subflow" and line["event"] == "opened":
        key = "%s:%d-%s:%d" % (line["src"], line["sport"], line["dst"], line["dport"])
        say(id="mark", cmd="table_add", table="marks", key=key, value=7)
        say(id="window", cmd="window", subflow=key, value="16KiB")
"#,
    );
    let run = run(
        &rig,
        &["--exec", program.to_str().unwrap(), "--", "--some", "words"],
    );
    wait_for("the subscription", LIMIT, || {
        said(&rig).contains("\"ok\": true")
    });
    let mut connection = Connection::open(&rig);
    wait_for("two subflows", LIMIT, || subflows(&rig.near) == 2);
    wait_for("both in both tables", LIMIT, || {
        let both = |name| table(&rig, name).as_object().unwrap().len() == 2;
        both("marks") && both("window")
    });
    assert!(
        table(&rig, "marks")
            .as_object()
            .unwrap()
            .values()
            .all(|v| *v == 7)
    );
    let packets = |chain| chain_packets(&rig.status(), chain).unwrap();
    let before = ["mark", "window"].map(packets);
    connection.exchange(1 << 20);
    let after = ["mark", "window"].map(packets);
    assert!(
        after[0] > before[0] + 20 && after[1] > before[1] + 20,
        "{before:?} {after:?}"
    );
    let status = rig.status();
    let steps = status["chains"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|c| c["steps"].as_array().unwrap());
    for step in steps.filter(|s| s["module"] == "set_mark" || s["module"] == "set_recv_win") {
        assert!(step["matched"].as_u64().unwrap() > 0, "{step}");
    }
    wait_for("metrics of both", LIMIT, || {
        let said = said(&rig);
        let of = |said: &str, link| said.contains(&format!("-10.77.{link}.1:{PORT} True"));
        of(&said, 0) && of(&said, 1)
    });
    let said = said(&rig);
    for line in [
        "status Uid: 65534 65534 65534 65534",
        "status Gid: 65534 65534 65534 65534",
        "status Groups:\n",
        "status CapPrm: 0000000000000000",
        "status CapEff: 0000000000000000",
        "status CapInh: 0000000000000000",
        "status CapAmb: 0000000000000000",
        "status NoNewPrivs: 1",
        "status SigBlk: 0000000000000000",
        "arguments ['--some', 'words'] of run None",
        "\"emptcp\": 1",
        "\"type\": \"connection\"",
        "\"kind\": \"joined\"",
    ] {
        assert!(said.contains(line), "no {line:?} in: {said}");
    }
    assert!(
        said.lines().all(|line| line.starts_with("emptcp: ")),
        "{said}"
    );
    // What it was told is searched for keys when the rig goes (secrets.rs).
    let told = std::fs::read_to_string(rig.folder.0.join("told")).unwrap();
    assert!(told.contains("\"kind\":\"joined\""), "{told}");
    // What ends it takes everything back, and the program along.
    run.end();
    assert_eq!(table(&rig, "marks"), json!({}));
    assert_eq!(table(&rig, "window"), json!({}));
    connection.exchange(1 << 20);
    assert_eq!(subflows(&rig.near), 2);
    rig.run(&["delete"]).ok();
    rig.assert_nothing_left();
}

#[test]
fn root_exec_entries_go_with_their_program() {
    let rig = rig();
    policy(&rig);
    let program = program(
        &rig,
        "crashes.py",
        r#"
say(id="add", cmd="table_add", table="marks", key="192.0.2.1:1-192.0.2.2:2", value=7)
for line in sys.stdin:
    if json.loads(line).get("id") == "add":
        time.sleep(0.1)
        os.abort()
"#,
    );
    let mut connection = Connection::open(&rig);
    let daemon = run(&rig, &["--exec", program.to_str().unwrap()]);
    let there = || table(&rig, "marks") == json!({ NONE: 7 });
    for pause in ["100ms", "200ms", "400ms"] {
        wait_for("its entry", LIMIT, there);
        wait_for("nothing", LIMIT, || table(&rig, "marks") == json!({}));
        wait_for("the pause", LIMIT, || {
            let said = said(&rig);
            said.contains("SIGABRT") && said.contains(&format!("starts again in {pause}"))
        });
        connection.exchange(1 << 16);
    }
    assert!(said(&rig).contains("1 entry of tables is taken back"));
    // The guard does what the process that was killed cannot.
    wait_for("its entry", LIMIT, there);
    daemon.signal(Signal::SIGKILL);
    wait_for("nothing", LIMIT, || table(&rig, "marks") == json!({}));
    connection.exchange(1 << 20);
    assert_eq!(subflows(&rig.near), 2);
    wait_for("the program has gone", LIMIT, || {
        crate::rig::sh("pgrep -f [c]rashes.py || true").is_empty()
    });
}

#[test]
fn root_exec_guard_that_is_killed_has_a_successor() {
    let rig = rig();
    policy(&rig);
    let path = socket(&rig);
    let daemon = run(&rig, &["--socket", path.to_str().unwrap()]);
    let guards = || {
        let all = crate::rig::sh(&format!("pgrep -P {} || true", daemon.child.0.id()));
        all.split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect::<Vec<i32>>()
    };
    let mut client = Client::connect(&rig);
    ok(&client.add("marks", NONE, json!(1)));
    let [first] = guards()[..] else {
        panic!("{:?}", guards());
    };
    // Signals that end a process it does not mind.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), signal).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(table(&rig, "marks"), json!({ NONE: 1 }));
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let [guard] = guards()[..] else {
            panic!("{:?}", guards());
        };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard), signal).unwrap();
        // Of one that is stopped it takes as many as its pipe holds.
        for number in 0..2000 {
            let key = format!("192.0.2.1:{number}-192.0.2.2:2");
            ok(&client.add("window", &key, json!(number)));
        }
        wait_for(
            "another guard",
            LIMIT,
            || matches!(guards()[..], [other] if other != guard),
        );
    }
    daemon.signal(Signal::SIGKILL);
    wait_for("nothing", LIMIT, || {
        table(&rig, "marks") == json!({}) && table(&rig, "window") == json!({})
    });
}
