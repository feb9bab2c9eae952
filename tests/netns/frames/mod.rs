// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Frames that user space makes for connections of Multipath TCP between real stacks: `emptcp
//! set-prio` and `emptcp inject` at the server, towards its own stack and towards the client's.

mod by_run;
mod forwarded;

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::mptcp::counter;
use crate::pair::LIMIT;
use crate::pair::connect;
use crate::pair::fill;
use crate::pair::listen;
use crate::pair::send;
use crate::raw;
use crate::reader::Reader;
use crate::rig::Netns;
use crate::rig::Rig;
use crate::rig::Tc;
use crate::rig::often;
use crate::rig::wait_for;

const PORT: u16 = 5001;
/// Bytes of a transfer.
const SIZE: usize = 1 << 20;
/// Addresses of the server, and its second ones, of both families.
const ADDRESSES: [(&str, &str); 2] = [("10.77.0.2", "10.77.1.2"), ("fd77:0::2", "fd77:1::2")];

/// A connection whose client is `far`, and whose server `near`, where the policy is.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// The kernel takes further subflows as long as somebody listens.
    _listener: TcpListener,
}

impl Connection {
    fn new(rig: &Rig, address: IpAddr) -> Self {
        Self::to(&rig.far, &rig.near, address)
    }

    fn to(client: &Netns, server: &Netns, address: IpAddr) -> Self {
        let listener = listen(server, address.is_ipv6(), PORT);
        let (client, server) = connect(client, SocketAddr::new(address, PORT), &listener);
        Self {
            client,
            server,
            _listener: listener,
        }
    }

    /// Sends so many bytes one way, and compares what arrives.
    fn send(&self, up: bool, size: usize) {
        let (from, to) = match up {
            true => (&self.client, &self.server),
            false => (&self.server, &self.client),
        };
        send(from, to, &fill(size, size));
    }

    /// Until its last packet is over.
    fn rest(&self) {
        std::thread::sleep(Duration::from_millis(100));
    }

    /// It is whole: what is sent arrives, both ways.
    #[track_caller]
    fn assert_whole(&self) {
        self.send(true, SIZE);
        self.send(false, SIZE);
        assert!(!raw::mptcp_fell_back(&self.client), "fell back");
        assert!(!raw::mptcp_fell_back(&self.server), "fell back");
    }
}

fn rig(links: usize) -> Rig {
    let rig = Rig::new(links, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 && ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig
}

/// A policy that tracks, with these chains.
fn track(rig: &Rig, chains: &Value) {
    let policy = json!({ "version": 1, "track": ["p*"], "chains": chains });
    let path = rig.folder.write("track.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
}

fn offload(rig: &Rig, state: &str) {
    for netns in [&rig.near, &rig.far] {
        netns.sh(&format!("ethtool -K p0 tx {state}"));
    }
}

/// The only subflow, as `emptcp subflows` prints it.
fn only(rig: &Rig) -> String {
    let all = rig.run(&["--json", "subflows"]).ok().json();
    let [subflow] = &all.as_array().unwrap()[..] else {
        panic!("{all:#}");
    };
    let place = |end: &Value| {
        let address: IpAddr = end["address"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(address, end["port"].as_u64().unwrap() as u16)
    };
    format!("{} → {}", place(&subflow["from"]), place(&subflow["to"]))
}

/// MP_PRIO that the server and the client have received.
fn received(rig: &Rig) -> [u64; 2] {
    [&rig.near, &rig.far].map(|end| counter(end, "MPTcpExtMPPrioRx"))
}

/// What no frame may cause.
fn errors(rig: &Rig) -> Vec<(String, u64)> {
    let names = [
        "TcpInCsumErrors",
        "TcpInErrs",
        "TcpEstabResets",
        "TcpOutRsts",
        "IpInHdrErrors",
        "IpExtInCsumErrors",
        "Ip6InHdrErrors",
        "TcpExtPAWSEstab",
        "TcpExtTCPChallengeACK",
        "TcpExtTCPOFOMerge",
        "TcpExtTCPSpuriousRTOs",
        "MPTcpExtDataCsumErr",
        "MPTcpExtMPRstTx",
        "MPTcpExtMPFailTx",
        "MPTcpExtDssFallback",
        "MPTcpExtMPCapableDataFallback",
        "MPTcpExtDSSCorruptionReset",
    ];
    let of = |(end, netns): (&str, &Netns)| {
        names.map(|name| (format!("{end} {name}"), counter(netns, name)))
    };
    [("near", &rig.near), ("far", &rig.far)].map(of).concat()
}

/// So many frames, there and back, to one end of an idle connection; how long a command took.
fn there_and_back(rig: &Rig, to: &str, times: u32, pause: Duration) -> Duration {
    let subflow = only(rig);
    let start = Instant::now();
    for number in 0..times {
        let priority = ["backup", "nobackup"][(number % 2) as usize];
        rig.run(&["set-prio", &subflow, priority, "--to", to]).ok();
        std::thread::sleep(pause);
    }
    start.elapsed() / times - pause
}

#[test]
fn root_frames_set_prio_of_an_idle_connection() {
    let rig = rig(1);
    for state in ["on", "off"] {
        offload(&rig, state);
        for (address, _) in ADDRESSES {
            // Either end has sent the last data.
            for up_last in [true, false] {
                // Fifty times there and back; by default of one of these alone, for the time it takes.
                let long = state == "on" && address == ADDRESSES[0].0 && !up_last;
                let times = often(if long { 100 } else { 10 }, 100);
                track(&rig, &json!([]));
                let connection = Connection::new(&rig, address.parse().unwrap());
                connection.send(!up_last, SIZE);
                connection.send(up_last, SIZE);
                connection.rest();
                let (before, none) = (received(&rig), errors(&rig));
                // Frames so close to each other go ahead of the sequence numbers, as if data came.
                let pause = Duration::from_millis(if up_last { 60 } else { 0 });
                let server = there_and_back(&rig, "server", times, pause);
                let changes = u64::from(times);
                assert_eq!(received(&rig), [before[0] + changes, before[1]]);
                let client = there_and_back(&rig, "client", times, pause);
                assert_eq!(received(&rig), [before[0] + changes, before[1] + changes]);
                println!(
                    "tx {state}, {address}: {server:?} to the server, {client:?} to the client"
                );
                connection.assert_whole();
                assert_eq!(errors(&rig), none, "tx {state}, {address}");
                drop(connection);
                rig.run(&["delete"]).ok();
            }
        }
    }
    rig.assert_nothing_left();
}

/// A segment is missing at the server, which has what came behind it (RFC 2018).
#[test]
fn root_frames_beside_a_hole() {
    let rig = rig(1);
    for (address, _) in ADDRESSES {
        track(&rig, &json!([]));
        let connection = Connection::new(&rig, address.parse().unwrap());
        connection.client.set_nodelay(true).unwrap();
        connection.send(false, 4096);
        connection.send(true, 4096);
        connection.rest();
        let subflow = only(&rig);
        let looked = rig.run(&[
            "--json",
            "set-prio",
            &subflow,
            "backup",
            "--to",
            "server",
            "--dry-run",
        ]);
        let looked = looked.ok().json();
        assert_eq!(looked[0]["sent"], false);
        let missing = looked[0]["seq"].as_u64().unwrap() as u32;
        let missing = missing.wrapping_add(1000);
        let lost = json!([{ "name": "lost", "hook": "tc-ingress", "interfaces": ["p0"],
            "select": { "all": [
                { "sequence": { "of": "tcp", "first": missing, "last": missing } },
                { "length": { "min": 1 } } ] },
            "act": [{ "drop": {} }] }]);
        track(&rig, &lost);
        let held = || counter(&rig.near, "TcpExtTCPOFOQueue");
        let before = held();
        let bytes = fill(7, 3000);
        for part in bytes.chunks(1000) {
            (&connection.client).write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        wait_for("a hole", LIMIT, || held() > before);
        let (before, none) = (received(&rig), errors(&rig));
        for number in 1..=4 {
            let priority = ["nobackup", "backup"][number % 2];
            rig.run(&["set-prio", &subflow, priority]).ok();
        }
        assert_eq!(received(&rig), before.map(|n| n + 4), "{address}");
        track(&rig, &json!([]));
        let mut got = vec![0; bytes.len()];
        (&connection.server).read_exact(&mut got).unwrap();
        assert!(got == bytes, "not what was sent");
        connection.assert_whole();
        assert_eq!(errors(&rig), none, "{address}");
        rig.run(&["delete"]).ok();
    }
}

/// The server does not read, until its window is closed.
#[test]
fn root_frames_to_a_closed_window() {
    let rig = rig(1);
    rig.near
        .sh("sysctl -qw net.ipv4.tcp_rmem='4096 16384 16384'");
    for (address, _) in ADDRESSES {
        track(&rig, &json!([]));
        let connection = Connection::new(&rig, address.parse().unwrap());
        connection.send(true, 4096);
        connection.send(false, 4096);
        let subflow = only(&rig);
        connection.client.set_nonblocking(true).unwrap();
        let bytes = fill(8, 16 * SIZE);
        let mut written = 0;
        let window = || {
            let args = [
                "--json",
                "set-prio",
                &subflow,
                "backup",
                "--to",
                "client",
                "--dry-run",
            ];
            rig.run(&args).ok().json()[0]["window"].as_u64().unwrap()
        };
        wait_for("a closed window", LIMIT, || {
            while let Ok(count) = (&connection.client).write(&bytes[written..]) {
                written += count;
            }
            window() == 0
        });
        assert!(written < bytes.len());
        let (before, none) = (received(&rig), errors(&rig));
        for number in 1..=4 {
            let priority = ["nobackup", "backup"][number % 2];
            rig.run(&["set-prio", &subflow, priority]).ok();
        }
        assert_eq!(window(), 0);
        assert_eq!(received(&rig), before.map(|n| n + 4), "{address}");
        connection.client.set_nonblocking(false).unwrap();
        let mut got = vec![0; written];
        (&connection.server).read_exact(&mut got).unwrap();
        assert!(got == bytes[..written], "not what was sent");
        connection.assert_whole();
        assert_eq!(errors(&rig), none, "{address}");
        drop(connection);
        rig.run(&["delete"]).ok();
    }
}

/// All subflows of a connection, and some of them; and another option than MP_PRIO.
#[test]
fn root_frames_of_a_connection() {
    let rig = rig(2);
    for (address, second) in ADDRESSES {
        track(&rig, &json!([]));
        rig.near.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
        ));
        let connection = Connection::new(&rig, address.parse().unwrap());
        connection.send(true, 4096);
        connection.send(false, 4096);
        let subflows = || rig.run(&["--json", "subflows"]).ok().json();
        wait_for("two subflows", LIMIT, || {
            connection.send(true, 4096);
            connection.send(false, 4096);
            subflows().as_array().unwrap().len() == 2
        });
        connection.send(true, SIZE);
        connection.send(false, SIZE);
        connection.rest();
        let token = subflows()[0]["token"].as_str().unwrap().to_owned();
        let (before, none) = (received(&rig), errors(&rig));

        let sent = rig.run(&["--json", "set-prio", "--token", &token, "backup"]);
        let sent = sent.ok().json();
        assert_eq!(sent.as_array().unwrap().len(), 4, "{sent:#}");
        assert_eq!(received(&rig), before.map(|n| n + 2), "{address}");
        // The tracker has seen them as it sees others.
        for subflow in subflows().as_array().unwrap() {
            assert_eq!(subflow["from"]["asks_backup"], true, "{subflow:#}");
            assert_eq!(subflow["to"]["asks_backup"], true, "{subflow:#}");
        }
        let args = [
            "set-prio", "--token", &token, "--id", "9", "nobackup", "--to", "client",
        ];
        let said = rig.run(&args).ok().out;
        assert_eq!(said.lines().count(), 1, "{said}");
        for word in ["mp_prio no backup sent to client", "packet socket, p1"] {
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(received(&rig), [before[0] + 2, before[1] + 3], "{address}");
        assert_eq!(errors(&rig), none, "{address}");

        // The client forgets the second address, so its subflow.
        let all = subflows();
        let first = all.as_array().unwrap().iter().find(|s| s["index"] == 0);
        let end = |name: &str| {
            let end = &first.unwrap()[name];
            let address: IpAddr = end["address"].as_str().unwrap().parse().unwrap();
            SocketAddr::new(address, end["port"].as_u64().unwrap() as u16)
        };
        let key = format!("{}-{}", end("to"), end("from"));
        let option = r#"{"option": "remove_addr", "addr_ids": [9]}"#;
        rig.run(&["inject", &key, option, "--to", "client"]).ok();
        wait_for("one subflow", LIMIT, || {
            subflows().as_array().unwrap().len() == 1
        });
        connection.assert_whole();
        drop(connection);
        rig.run(&["delete"]).ok();
    }
}

#[test]
fn root_frames_refusals() {
    let rig = rig(1);
    let some = "10.77.0.1:999-10.77.0.2:5001";
    let run = |args: &[&str]| rig.run(&[&["set-prio"], args].concat());
    run(&[some, "backup"]).fails(&["no policy is in force"]);
    rig.apply(&json!([])).ok();
    run(&[some, "backup"]).fails(&["tracks no connections", "\"track\""]);
    track(&rig, &json!([]));
    run(&[some, "backup"]).fails(&["knows no subflow", some]);
    let connection = Connection::new(&rig, "10.77.0.2".parse().unwrap());
    connection.send(true, 4096);
    let client = connection.client.local_addr().unwrap();
    // The client has sent nothing but MP_CAPABLE with data.
    let alone = format!("{client} → 10.77.0.2:5001");
    run(&[&alone, "backup", "--to", "server"]).fails(&["no DSS", "not be established yet"]);
    connection.send(false, 4096);
    connection.rest();
    let near = format!("{client} → 10.77.0.2:5002");
    // 10.77.0.1 is the lower end.
    let real = format!("{client}-10.77.0.2:5001");
    run(&[&near, "backup"]).fails(&["knows no subflow", "the nearest is", &real]);
    run(&["10.77.0.1", "backup"]).fails(&["10.77.0.1"]);
    run(&["--token", "1", "backup"]).fails(&["no connection of token 0x00000001"]);
    run(&[&real, "--zone", "7", "backup"]).fails(&["there is one in zone 0"]);
    let all = rig.run(&["--json", "subflows"]).ok().json();
    let token = all[0]["token"].as_str().unwrap();
    run(&["--token", token, "--id", "77", "backup"]).fails(&["no established subflow", "id 77"]);
    // Wrong usage.
    for args in [
        &["backup"][..],
        &[&real],
        &[&real, "--token", "1", "backup"],
    ] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
    // A key is shown nowhere, and not sent by a look.
    let key = r#"{"option": "mp_fastclose", "number": "0x1122334455667788"}"#;
    let looked = rig
        .run(&["inject", &real, key, "--to", "both", "--dry-run"])
        .ok();
    assert!(
        looked.out.contains("1e0c7000") && !looked.out.contains("11223344"),
        "{}",
        looked.out
    );
    let fed = rig
        .feed(&["inject", &real, "-", "--to", "client", "--dry-run"], key)
        .ok();
    assert_eq!(fed.out.lines().count(), 3, "{}", fed.out);
    rig.run(&["inject", &real, r#"{"option": "mp_proi"}"#, "--to", "both"])
        .fails(&["did you mean \"mp_prio\"?"]);
    connection.rest();
    assert_eq!(received(&rig), [0, 0]);
    connection.assert_whole();
}
