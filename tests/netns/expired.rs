// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A SYN of a further subflow was held until the client gave up, and its connection passes the
//! threshold behind that: `emptcp run` asks the path manager of the client for the subflow again.

use std::net::IpAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_GENERIC;
use serde_json::Value;
use serde_json::json;

use super::held::*;
use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::fill;
use super::pair::send;
use super::raw;
use super::reader::Reader;
use super::rig::Killed;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;

/// Longer than `run` needs to see what expired.
const A_WHILE: Duration = Duration::from_millis(500);

/// A client that gives up after three seconds, with these chains.
fn impatient(chains: &Value) -> Rig {
    let rig = rig(Tc::Tcx);
    rig.near
        .sh("sysctl -qw net.ipv4.tcp_syn_retries=1 net.ipv4.tcp_syn_linear_timeouts=0");
    rig.apply(chains).ok();
    rig
}

/// The only SYN that is held now waits for longer than its client.
fn wait_until_expired(rig: &Rig) {
    for (what, field) in [("the SYN is held", "waiting"), ("its end", "expired")] {
        wait_for(what, LIMIT, || rig.status()["held_joins"][field] == 1);
    }
}

/// A connection that has carried little until its join expired.
fn expire(rig: &Rig, version: u8, port: u16) -> (TcpStream, TcpStream, TcpListener) {
    let connection = connect(rig, server_address(version), port);
    send(&connection.0, &connection.1, &fill(1, 1000));
    wait_until_expired(rig);
    connection
}

/// It passes the threshold.
fn pass(near: &TcpStream, far: &TcpStream) {
    send(near, far, &fill(2, THRESHOLD));
}

/// Data arrive both ways, as they were sent.
fn is_whole(near: &TcpStream, far: &TcpStream) {
    let bytes = fill(3, SIZE);
    send(near, far, &bytes);
    send(far, near, &bytes);
    assert!(!raw::mptcp_fell_back(near), "fell back");
}

/// States of all that were held.
fn states(rig: &Rig) -> Vec<String> {
    let mut states: Vec<_> = held(rig)
        .iter()
        .map(|join| join["state"].as_str().unwrap().to_owned())
        .collect();
    states.sort();
    states
}

fn endpoints(rig: &Rig) -> String {
    rig.near.sh("ip mptcp endpoint show")
}

fn run(rig: &Rig) -> Reader {
    Reader::start(rig, "run", &["run"])
}

/// Lines of `run` about what expired.
fn said(run: Reader) -> Vec<String> {
    let lines = run.end().1;
    let lines = lines.lines().filter(|line| !line.contains("running"));
    lines.map(str::to_owned).collect()
}

fn by_endpoint(version: u8) {
    let rig = impatient(&chains());
    let run = run(&rig);
    endpoint(&rig, server_address(version));
    // Not as the path manager would number it, with what it has besides.
    rig.near
        .sh("ip mptcp endpoint add 10.77.0.9 id 200 subflow backup");
    let before = endpoints(&rig);
    let (near, far, _listener) = expire(&rig, version, PORT);
    // What the policy does not want yet is not asked for.
    sleep(A_WHILE);
    assert_eq!(states(&rig), ["waiting"]);
    let monitor = Reader::start(&rig, "monitor", &["--json", "monitor", "held_join"]);
    let begin = Instant::now();
    pass(&near, &far);
    wait_for("the second subflow", LIMIT, || joins(&rig) == 1);
    println!("IPv{version}: joined after {:?}", begin.elapsed());
    assert_eq!(states(&rig), ["asked"]);
    let told = monitor.end().0;
    // It may have looked between.
    let told: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&told["event"], &told["dst"], &told["dport"]),
        (
            &json!("asked"),
            &json!(server_address(version)),
            &json!(PORT)
        )
    );
    assert_eq!(
        rig.status()["held_joins"],
        json!({ "waiting": 0, "expired": 0, "asked": 1, "left": {} })
    );
    assert_eq!(endpoints(&rig), before);
    is_whole(&near, &far);
    sleep(A_WHILE);
    assert_eq!((joins(&rig), endpoints(&rig)), (1, before));
    let text = rig.run(&["status"]).ok().out;
    assert!(
        text.contains("1 further subflows were held until their client gave up, and asked"),
        "{text}"
    );
    let said = said(run);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].ends_with("asked for again"), "{said:?}");
    assert!(
        said[1].ends_with("id 9 was removed and added again"),
        "{said:?}"
    );
}

#[test]
fn root_expired_and_asked_for_by_its_endpoint() {
    by_endpoint(4);
}

#[test]
fn root_expired_and_asked_for_by_its_endpoint_of_ipv6() {
    by_endpoint(6);
}

/// Of what expired while nobody could ask, `monitor` tells first that it did.
#[test]
fn root_expired_is_told_first() {
    let rig = impatient(&chains());
    endpoint(&rig, server_address(4));
    let (near, far, _listener) = expire(&rig, 4, PORT);
    let monitor = Reader::start(&rig, "monitor", &["--json", "monitor", "held_join"]);
    pass(&near, &far);
    wait_for("the end is told", LIMIT, || !monitor.out().is_empty());
    let _run = run(&rig);
    wait_for("the second subflow", LIMIT, || joins(&rig) == 1);
    wait_for("that it was asked for is told", LIMIT, || {
        monitor.out().lines().count() == 2
    });
    let told = monitor.end().0;
    for (line, event) in told.lines().zip(["expired", "asked"]) {
        let told: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&told["event"], &told["dst"], &told["dport"]),
            (&json!(event), &json!(server_address(4)), &json!(PORT))
        );
    }
    assert_eq!(told.lines().count(), 2, "{told}");
}

/// A subflow of another connection would end: it stays, until it ends by itself.
#[test]
fn root_expired_while_others_use_the_endpoint() {
    let rig = impatient(&chains());
    endpoint(&rig, server_address(4));
    let (before, run) = (endpoints(&rig), run(&rig));
    let (near, far, _listener) = expire(&rig, 4, PORT);
    let other = connect(&rig, server_address(4), PORT + 1);
    send(&other.0, &other.1, &fill(1, 1000));
    wait_for("the SYN of the other one is held", LIMIT, || {
        rig.status()["held_joins"]["waiting"] == 1
    });
    pass(&other.0, &other.1);
    wait_for("the subflow of the other one", LIMIT, || joins(&rig) == 1);
    let subflow = || {
        let sockets = rig.far.sh("ss -tnH dst 10.77.1.2");
        let ends = sockets.split_whitespace().skip(3);
        ends.collect::<Vec<_>>().join(" ")
    };
    let other_before = subflow();
    assert!(other_before.contains("10.77.1.2:"), "{other_before}");
    pass(&near, &far);
    wait_for("the look at it", LIMIT, || {
        states(&rig) == ["in_use", "released"]
    });
    sleep(A_WHILE);
    let status = rig.status();
    assert_eq!(
        status["held_joins"],
        json!({ "waiting": 0, "expired": 1, "asked": 0, "left": { "in_use": 1 } })
    );
    assert_eq!((joins(&rig), endpoints(&rig)), (1, before.clone()));
    for name in ["MPTcpExtRmSubflow", "MPTcpExtRmAddrTx"] {
        assert_eq!(counter(&rig.near, name), 0, "{name}");
    }
    assert_eq!(subflow(), other_before);
    is_whole(&other.0, &other.1);
    is_whole(&near, &far);
    drop(other);
    wait_for("a subflow from the endpoint that is free", LIMIT, || {
        joins(&rig) == 2
    });
    assert_eq!(endpoints(&rig), before);
    is_whole(&near, &far);
    let said = said(run);
    let refused = |line: &&String| line.contains("would end");
    assert_eq!(said.iter().filter(refused).count(), 1, "{said:?}");
    assert_eq!(said.len(), 3, "{said:?}");
}

/// A SYN of another connection waits meanwhile: its client opens that subflow anew, too, and it is
/// held as before.
#[test]
fn root_expired_while_others_wait() {
    let rig = impatient(&chains());
    endpoint(&rig, server_address(4));
    let (near, far, _listener) = expire(&rig, 4, PORT);
    let other = connect(&rig, server_address(4), PORT + 1);
    send(&other.0, &other.1, &fill(1, 1000));
    wait_for("the SYN of the other one is held", LIMIT, || {
        rig.status()["held_joins"]["waiting"] == 1
    });
    let run = run(&rig);
    pass(&near, &far);
    wait_for("the second subflow", LIMIT, || joins(&rig) == 1);
    sleep(A_WHILE);
    assert_eq!(joins(&rig), 1);
    pass(&other.0, &other.1);
    wait_for("the subflow of the other one", LIMIT, || joins(&rig) == 2);
    is_whole(&near, &far);
    is_whole(&other.0, &other.1);
    let said = said(run);
    assert_eq!(said.len(), 2, "{said:?}");
}

/// A connection whose path manager is in user space and opened a subflow, which was held for too long.
fn expire_in_user_space(rig: &Rig, version: u8) -> (TcpStream, TcpStream, TcpListener) {
    rig.near.sh("sysctl -qw net.mptcp.pm_type=1");
    let connection = connect(rig, server_address(version), PORT);
    send(&connection.0, &connection.1, &fill(1, 1000));
    let connections = rig.run(&["--json", "connections"]).ok().json();
    let token = connections[0]["client_token"].as_str().unwrap();
    let token = u32::from_str_radix(token.trim_start_matches("0x"), 16).unwrap();
    rig.near.within(|| create_subflow(token, version));
    wait_until_expired(rig);
    connection
}

/// The path manager of the connection is in user space, and opened the subflow itself.
fn by_user_space(version: u8) {
    let rig = impatient(&chains());
    let run = run(&rig);
    let (near, far, _listener) = expire_in_user_space(&rig, version);
    pass(&near, &far);
    wait_for("the second subflow", LIMIT, || joins(&rig) == 1);
    assert_eq!(states(&rig), ["asked"]);
    is_whole(&near, &far);
    let subflows = rig.run(&["--json", "subflows"]).ok().json();
    let mut joined = subflows.as_array().unwrap().iter();
    let joined = joined.find(|s| s["kind"] == "joined").unwrap();
    assert_eq!(
        (&joined["from"]["address"], &joined["from"]["address_id"]),
        (&json!(own_address(version)), &json!(7)),
        "{joined}"
    );
    assert_eq!(counter(&rig.far, "MPTcpExtMPJoinSynBackupRx"), 1);
    let said = said(run);
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn root_expired_and_asked_for_in_user_space() {
    by_user_space(4);
}

#[test]
fn root_expired_and_asked_for_in_user_space_of_ipv6() {
    by_user_space(6);
}

/// The kernel cannot open the subflow: the address has gone meanwhile. That is told once, and the
/// connection goes on.
#[test]
fn root_expired_and_the_kernel_refuses() {
    for version in [4, 6] {
        let rig = impatient(&chains());
        let run = run(&rig);
        let (near, far, _listener) = expire_in_user_space(&rig, version);
        let monitor = Reader::start(&rig, "monitor", &["--json", "monitor", "held_join"]);
        let prefix = if version == 4 { 24 } else { 64 };
        rig.near.sh(&format!(
            "ip addr del {}/{prefix} dev p1",
            own_address(version)
        ));
        pass(&near, &far);
        wait_for("the look at it", LIMIT, || states(&rig) == ["refused"]);
        assert_eq!(
            rig.status()["held_joins"],
            json!({ "waiting": 0, "expired": 1, "asked": 0, "left": { "refused": 1 } })
        );
        let told = || {
            let out = monitor.out();
            let lines = out
                .lines()
                .map(|l| serde_json::from_str::<Value>(l).unwrap());
            lines.map(|e| e["event"].clone()).collect::<Vec<_>>()
        };
        wait_for("that is told", LIMIT, || told().contains(&json!("refused")));
        is_whole(&near, &far);
        sleep(A_WHILE);
        // Nobody asks again.
        assert_eq!((joins(&rig), states(&rig)), (0, vec!["refused".to_owned()]));
        let told = told();
        assert_eq!(told.iter().filter(|e| **e == "refused").count(), 1);
        drop(monitor);
        let said = said(run);
        println!("IPv{version}: {said:?}");
        let why = std::io::Error::from_raw_os_error(libc::EADDRNOTAVAIL).to_string();
        assert!(said.len() == 1 && said[0].contains(&why), "{said:?}");
    }
}

/// The second address of the client.
fn own_address(version: u8) -> &'static str {
    match version {
        4 => "10.77.1.2",
        _ => "fd77:1::2",
    }
}

/// As a path manager in user space does: `MPTCP_PM_CMD_SUBFLOW_CREATE`, of a backup subflow with the
/// id 7 from the second link.
fn create_subflow(token: u32, version: u8) {
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let ask = |family: u16, command: u8, attributes: &[Vec<u8>]| {
        let mut message = vec![0; 4];
        message.extend(family.to_ne_bytes());
        // NLM_F_REQUEST, and NLM_F_ACK.
        message.extend(5_u16.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes.concat());
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        socket.send(&message, 0).unwrap();
        socket.recv_from_full().unwrap().0
    };
    let answer = ask(16, 3, &[attribute(2, b"mptcp_pm\0")]);
    socket.recv_from_full().unwrap();
    // Behind the name.
    let at = 20 + 4 + 12 + 4;
    let family = u16::from_ne_bytes(answer[at..at + 2].try_into().unwrap());
    // AF_INET, and MPTCP_PM_ADDR_ATTR_ADDR4; or those of IPv6.
    let end = |address: IpAddr| match address {
        IpAddr::V4(address) => [
            attribute(1, &2_u16.to_ne_bytes()),
            attribute(3, &address.octets()),
        ]
        .concat(),
        IpAddr::V6(address) => [
            attribute(1, &10_u16.to_ne_bytes()),
            attribute(4, &address.octets()),
        ]
        .concat(),
    };
    let mut local = end(own_address(version).parse().unwrap());
    local.extend(attribute(2, &[7]));
    // MPTCP_PM_ADDR_FLAG_SUBFLOW, _BACKUP.
    local.extend(attribute(6, &6_u32.to_ne_bytes()));
    let mut remote = end(server_address(version));
    remote.extend(attribute(5, &PORT.to_ne_bytes()));
    let attributes = [
        attribute(4, &token.to_ne_bytes()),
        attribute(0x8001, &local),
        attribute(0x8006, &remote),
    ];
    let answer = ask(family, 10, &attributes);
    let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(code, 0, "{}", std::io::Error::from_raw_os_error(-code));
}

/// What was asked for is held again, and expires again: that is its end.
#[test]
fn root_expired_twice() {
    let mut chains = chains();
    chains[0]["select"] = json!({ "packet_type": { "any": ["mp_join"] } });
    let rig = impatient(&chains);
    endpoint(&rig, server_address(4));
    let (near, far, _listener) = expire(&rig, 4, PORT);
    pass(&near, &far);
    // Late ACKs would release what is asked for.
    sleep(A_WHILE);
    let run = run(&rig);
    wait_until_expired(&rig);
    let asked = |rig: &Rig| held(rig).iter().all(|join| join["asked"] == true);
    assert!(asked(&rig), "{:?}", held(&rig));
    pass(&near, &far);
    wait_for("the second end", LIMIT, || {
        states(&rig).contains(&"expired".to_owned())
    });
    sleep(A_WHILE);
    assert!(asked(&rig), "{:?}", held(&rig));
    assert_eq!(rig.status()["held_joins"]["expired"], 1);
    assert_eq!((joins(&rig), matched(&rig, "release_join")), (0, 0));
    let said = said(run);
    assert_eq!(said.len(), 2, "{said:?}");
}

/// Somebody has removed the endpoint.
#[test]
fn root_expired_and_nobody_to_ask() {
    let rig = impatient(&chains());
    endpoint(&rig, server_address(4));
    let run = run(&rig);
    let (near, far, _listener) = expire(&rig, 4, PORT);
    rig.near.sh("ip mptcp endpoint flush");
    pass(&near, &far);
    wait_for("the look at it", LIMIT, || states(&rig) == ["no_endpoint"]);
    assert_eq!(
        rig.status()["held_joins"]["left"],
        json!({ "no_endpoint": 1 })
    );
    assert_eq!(endpoints(&rig), "");
    let said = said(run);
    assert_eq!(said.len(), 1, "{said:?}");
    is_whole(&near, &far);
}

/// The SYN was held by the server, where nobody can open subflows for the client.
#[test]
fn root_expired_on_the_server() {
    let rig = impatient(&json!([]));
    let at_server = |args: &[&str]| Ran::from(rig.emptcp_in(&rig.far, args).output().unwrap()).ok();
    let mut chains = chains();
    chains[0]["hook"] = "tc-ingress".into();
    let path = rig.policy("server.json", &chains);
    at_server(&["apply", &path]);
    endpoint(&rig, server_address(4));
    let before = endpoints(&rig);
    let mut command = rig.emptcp_in(&rig.far, &["run"]);
    let _run = Killed(command.spawn().unwrap());
    let (near, far, _listener) = connect(&rig, server_address(4), PORT);
    send(&near, &far, &fill(1, 1000));
    let held = || at_server(&["--json", "status"]).json()["held_joins"].clone();
    wait_for("its end", LIMIT, || held()["expired"] == 1);
    pass(&near, &far);
    wait_for("the look at it", LIMIT, || {
        held() == json!({ "waiting": 0, "expired": 1, "asked": 0, "left": { "no_socket": 1 } })
    });
    is_whole(&near, &far);
    assert_eq!((joins(&rig), endpoints(&rig)), (0, before));
}

/// The kernel does not take the endpoint back at once: it is not forgotten.
#[test]
fn root_expired_and_the_endpoint_is_gone() {
    let rig = impatient(&chains());
    endpoint(&rig, server_address(4));
    let before = endpoints(&rig);
    let err = rig.folder.write("run.err", "");
    let mut command = rig.emptcp(&["run"]);
    command.env("FAILPOINTS", "endpoint=2*return->off");
    command.stderr(Stdio::from(std::fs::File::create(&err).unwrap()));
    let daemon = Killed(command.spawn().unwrap());
    let (near, far, _listener) = expire(&rig, 4, PORT);
    pass(&near, &far);
    wait_for("the second subflow", LIMIT, || joins(&rig) == 1);
    assert_eq!(endpoints(&rig), before);
    drop(daemon);
    let said = std::fs::read_to_string(&err).unwrap();
    for what in ["CANNOT BE ADDED AGAIN", "is there again"] {
        assert!(said.contains(what), "{said}");
    }
    is_whole(&near, &far);
}

/// How a client with the defaults of Linux takes a join that is held for this long, with `emptcp
/// run` and without: the table of docs/tracker.md. Few bytes pass the threshold at the end: see
/// `held::PASSES`.
#[test]
#[ignore = "a measurement of four minutes"]
fn root_bench_held_for_so_long() {
    const HOLDS: [u64; 6] = [1, 10, 30, 100, 150, 200];
    const FEW: usize = 8000;
    let grown = json!({ "conn_bytes": { "min": FEW } });
    let mut chains = chains();
    chains[0]["select"]["all"][1]["not"] = grown.clone();
    chains[1]["select"] = grown;
    let chains = &chains;
    std::thread::scope(|scope| {
        for (seconds, with_run) in HOLDS.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            scope.spawn(move || {
                let rig = rig(Tc::Tcx);
                rig.apply(chains).ok();
                let run = with_run.then(|| run(&rig));
                endpoint(&rig, server_address(4));
                let (near, far, _listener) = connect(&rig, server_address(4), PORT);
                send(&near, &far, &fill(1, 1000));
                wait_for("the SYN is held", LIMIT, || {
                    rig.status()["held_joins"]["waiting"] == 1
                });
                sleep(Duration::from_secs(seconds));
                let syns = held(&rig)[0]["times"].clone();
                let expired = rig.status()["held_joins"]["expired"] == 1;
                let begin = Instant::now();
                send(&near, &far, &fill(2, FEW));
                while joins(&rig) == 0 && begin.elapsed() < LIMIT {
                    sleep(Duration::from_millis(1));
                }
                let joined = match joins(&rig) {
                    0 => "not joined".to_owned(),
                    _ => format!("joined after {:?}", begin.elapsed()),
                };
                println!(
                    "held for {seconds} s, run {with_run}: {syns} SYNs, expired {expired}, {joined}"
                );
                is_whole(&near, &far);
                drop(run);
            });
        }
    });
}
