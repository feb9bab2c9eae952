// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Frames that `emptcp run` makes when a table is changed.

use super::*;

/// Makes the subflows of a connection backup, in both directions, by a table.
fn by_table(rig: &Rig) {
    let chain = |name: &str, hook: &str| {
        json!({ "name": name, "hook": hook, "interfaces": ["p*"],
            "select": { "all": [{ "mptcp": {} }, { "connection": { "table": "slow" } }] },
            "act": [{ "set_flow_prio": { "backup": { "table": "slow" } } }] })
    };
    let policy = json!({ "version": 1, "track": ["p*"],
        "tables": { "slow": { "type": "token", "value": "bool", "size": 100 } },
        "chains": [chain("in", "tc-ingress"), chain("out", "tc-egress")] });
    let path = rig.folder.write("slow.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
}

/// A table changes while no packet comes by: `run` sends one, which meets the chains.
#[test]
fn root_frames_of_run_for_changes_of_a_table() {
    let rig = rig(1);
    for (address, _) in ADDRESSES {
        by_table(&rig);
        let connection = Connection::new(&rig, address.parse().unwrap());
        connection.send(true, SIZE);
        connection.send(false, SIZE);
        connection.rest();
        let token = rig.run(&["--json", "subflows"]).ok().json()[0]["token"].clone();
        let set = |value: &str| {
            let args = ["table", "add", "slow", token.as_str().unwrap(), value];
            rig.run(&args).ok();
        };
        let (before, none) = (received(&rig), errors(&rig));

        // Without run it waits, as status says.
        set("true");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(received(&rig), before);
        assert_eq!(rig.status()["waiting"], 2);
        let status = rig.run(&["status"]).ok().out;
        assert!(status.contains("2 directions of subflows wait"), "{status}");

        let daemon = Reader::start(&rig, "run", &["run"]);
        let mut expected = before;
        for value in ["", "false", "true", "false"] {
            let start = Instant::now();
            if !value.is_empty() {
                set(value);
            }
            expected = expected.map(|n| n + 1);
            wait_for("MP_PRIO", LIMIT, || received(&rig) == expected);
            println!("{address} {value}: after {:?}", start.elapsed());
            // Contradicting wishes are 100 ms apart.
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(received(&rig), expected);
            assert_eq!(rig.status()["waiting"], 0);
        }
        // What changes nothing sends nothing but an ACK.
        set("false");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(received(&rig), expected);
        connection.assert_whole();
        assert_eq!(errors(&rig), none, "{address}");
        let (out, err) = daemon.end();
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("", "emptcp: running, until a signal (Ctrl-C) ends it\n")
        );
        drop(connection);
        rig.run(&["delete"]).ok();
    }
}

/// Who only sends has no ACK that could carry anything: `run` sends one among its data.
#[test]
fn root_frames_of_run_while_data_flow() {
    let rig = rig(1);
    for (address, _) in ADDRESSES {
        track(&rig, &json!([]));
        let connection = Connection::new(&rig, address.parse().unwrap());
        connection.send(false, SIZE);
        connection.send(true, SIZE);
        connection.rest();
        let before = received(&rig);
        let none = errors(&rig);
        let stop = std::sync::atomic::AtomicBool::new(false);
        connection
            .server
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let bytes = fill(3, 20_000);
                let mut sent = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    (&connection.client).write_all(&bytes).unwrap();
                    sent += bytes.len();
                    std::thread::sleep(Duration::from_micros(700));
                }
                sent
            });
            let receiver = scope.spawn(|| {
                let mut got = 0;
                let mut buffer = vec![0; 65536];
                // Until nothing comes any more.
                while let Ok(count @ 1..) = (&connection.server).read(&mut buffer) {
                    got += count;
                }
                got
            });
            let wish = |backup: bool| {
                let act = json!([{ "set_flow_prio": { "backup": backup } }]);
                json!([{ "name": "prio", "hook": "tc-ingress", "interfaces": ["p0"],
                    "select": { "mptcp": {} }, "act": act }])
            };
            // Without run nothing carries it.
            track(&rig, &wish(true));
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(received(&rig), before);
            assert_eq!(rig.status()["waiting"], 1);
            let daemon = Reader::start(&rig, "run", &["run"]);
            let mut expected = before[0];
            for number in 0..20 {
                let start = Instant::now();
                track(&rig, &wish(number % 2 == 0));
                expected += 1;
                wait_for("MP_PRIO", LIMIT, || received(&rig)[0] == expected);
                println!("{address}: {expected} after {:?}", start.elapsed());
            }
            // Those of a command.
            let subflow = only(&rig);
            for _ in 0..20 {
                rig.run(&["set-prio", &subflow, "nobackup", "--to", "server"])
                    .ok();
            }
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(received(&rig)[0], expected + 20);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(receiver.join().unwrap(), sender.join().unwrap());
            daemon.end();
        });
        connection.assert_whole();
        assert_eq!(errors(&rig), none, "{address}");
        drop(connection);
        rig.run(&["delete"]).ok();
    }
}
