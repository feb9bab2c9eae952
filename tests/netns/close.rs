// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! MP_FAIL and MP_FASTCLOSE that the actor `inject` puts into an ACK of a real connection.

use std::time::Duration;

use serde_json::json;

use super::grow::Ends;
use super::grow::LIMIT;
use super::grow::SIZE;
use super::grow::Sender;
use super::grow::chain;
use super::grow::runs_of;
use super::mptcp::counter;
use super::mptcp::subflows;
use super::rig::Killed;
use super::rig::TempDir;
use super::rig::wait_for;

/// With several subflows the receiver counts it, and goes on with all of them.
fn fail(hook: &str, sender: Sender) {
    let ends = Ends::new();
    let act = json!({ "inject": { "option": "mp_fail", "number": "0x1122334455667788" } });
    runs_of(&ends, 2, |what, v6| {
        let what = format!("{hook}, {what}");
        let mut connection = ends.connect(v6);
        let errors = ends.errors();
        let received = || counter(ends.netns(sender), "MPTcpExtMPFailRx");
        let before = received();
        ends.apply(&[chain("fail", hook, &["p1"], &act)]);
        wait_for("MP_FAIL", LIMIT, || {
            connection.send(sender, 65536);
            received() > before
        });
        connection.send(sender, 2 * SIZE);
        connection.send(sender.other(), SIZE);
        println!("{what}: {:?} ACKs", ends.treated("inject"));
        assert_eq!(received(), before + 1, "{what}");
        assert_eq!(ends.treated("inject"), (1, 0), "{what}");
        assert!(!connection.fell_back(), "{what}");
        assert_eq!(subflows(&ends.0.near), 2, "{what}");
        assert_eq!(ends.errors(), errors, "{what}");
        drop(connection);
        ends.0.run(&["delete"]).ok();
    });
}

#[test]
fn root_close_inject_mp_fail_at_egress() {
    fail("tc-egress", Sender::Far);
}

#[test]
fn root_close_inject_mp_fail_at_ingress() {
    fail("tc-ingress", Sender::Near);
}

/// The keys that a connection begins with: of the client and of the server.
fn keys(text: &str) -> Option<(String, String)> {
    let line = text.lines().find(|line| line.contains('\t'))?;
    let (client, server) = line.split_once('\t')?;
    let number = |key: &str| {
        let number: u64 = key.parse().unwrap();
        format!("{number:#x}")
    };
    Some((number(client), number(server)))
}

/// Whoever receives it with its own key ends the connection; with another key nothing happens.
fn fastclose(hook: &str, sender: Sender) {
    let ends = Ends::new();
    for v6 in [false, true] {
        let what = format!("{hook}, IPv6 {v6}");
        let folder = TempDir::new();
        let out = folder.0.join("keys");
        let mut tshark = ends.0.near.command("tshark");
        tshark.args(["-lnq", "-i", "p0", "-Y"]);
        tshark.args(["tcp.options.mptcp.sendkey && tcp.options.mptcp.recvkey"]);
        tshark.args(["-T", "fields", "-e", "tcp.options.mptcp.sendkey"]);
        tshark.args(["-e", "tcp.options.mptcp.recvkey"]);
        tshark.stdout(std::fs::File::create(&out).unwrap());
        let _tshark = Killed(tshark.stderr(std::process::Stdio::null()).spawn().unwrap());
        // Until it listens.
        std::thread::sleep(Duration::from_secs(3));
        let mut connection = ends.connect(v6);
        let read = || keys(&std::fs::read_to_string(&out).unwrap());
        wait_for("the keys", LIMIT, || read().is_some());
        let (client, server) = read().unwrap();
        let own = if sender == Sender::Near {
            client
        } else {
            server
        };
        let received = || counter(ends.netns(sender), "MPTcpExtMPFastcloseRx");
        let before = received();
        for (key, ends_it) in [("0x1122334455667788", false), (&own, true)] {
            let act = json!({ "inject": { "option": "mp_fastclose", "number": key } });
            ends.apply(&[chain("close", hook, &["p0"], &act)]);
            let mut data = 0;
            wait_for("MP_FASTCLOSE", LIMIT, || {
                data += 1;
                if data < 3 || !ends_it {
                    let sent = std::panic::AssertUnwindSafe(|| connection.send(sender, 65536));
                    let _ = std::panic::catch_unwind(sent);
                }
                ends.treated("inject").0 > 0
            });
            if !ends_it {
                connection.send(sender, SIZE);
                assert_eq!(received(), before, "{what}: another key");
                continue;
            }
            wait_for("the end", LIMIT, || subflows(&ends.0.near) == 0);
            assert_eq!(received(), before + 1, "{what}");
        }
        drop(connection);
        ends.0.run(&["delete"]).ok();
    }
}

#[test]
fn root_close_inject_mp_fastclose_at_egress() {
    fastclose("tc-egress", Sender::Far);
}

#[test]
fn root_close_inject_mp_fastclose_at_ingress() {
    fastclose("tc-ingress", Sender::Near);
}
