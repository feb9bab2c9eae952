// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The policy `examples/path-manager.json`: what makes further subflows pay.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::mptcp::subflows;
use super::pair;
use super::raw;
use super::reader::Reader;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::wait_for;

/// Connections of each kind.
const EACH: u16 = 3;

/// Sends so many bytes to the server and as many back, a few times; joins that the server saw.
fn joins(rig: &Rig, port: u16, bytes: usize, times: usize, pause: Duration) -> u64 {
    let before = counter(&rig.far, "MPTcpExtMPJoinSynRx");
    let any = "0.0.0.0".parse().unwrap();
    let listener = rig
        .far
        .within(|| TcpListener::from(raw::mptcp_listener(any, port)));
    let to = SocketAddr::new("10.77.0.1".parse().unwrap(), port);
    let mut near = rig.near.within(|| TcpStream::from(raw::mptcp_connect(to)));
    let (mut far, _) = listener.accept().unwrap();
    let payload: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
    for round in 0..times {
        if round > 0 {
            std::thread::sleep(pause);
        }
        let mut got = vec![0; bytes];
        std::thread::scope(|scope| {
            scope.spawn(|| near.write_all(&payload).unwrap());
            far.read_exact(&mut got).unwrap();
        });
        assert!(got == payload);
        std::thread::scope(|scope| {
            scope.spawn(|| far.write_all(&payload).unwrap());
            near.read_exact(&mut got).unwrap();
        });
        assert!(got == payload);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(!raw::mptcp_fell_back(&near));
    counter(&rig.far, "MPTcpExtMPJoinSynRx") - before
}

#[test]
fn root_paths_of_connections_that_they_pay_for() {
    let rig = Rig::new(2, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
             ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.far.sh("ip mptcp endpoint add 10.77.1.1 id 9 signal");
    let text = include_str!("../../examples/path-manager.json")
        .replace("eth*", "p0")
        .replace("wlan*", "p1");
    let mut policy: Value = serde_json::from_str(&text).unwrap();
    // Sooner, so that nobody waits for it.
    for of in policy["selectors"]["pays"]["any"].as_array_mut().unwrap() {
        if !of["age"].is_null() {
            of["age"]["min"] = "500ms".into();
        }
    }
    let file = rig.folder.write("paths.json", policy.to_string());
    rig.run(&["apply", file.to_str().unwrap()]).ok();
    let pause = Duration::from_millis(700);
    for (number, (what, bytes, times, wanted)) in [
        ("few bytes, at once", 10 << 10, 1, 0),
        ("many bytes", 400 << 10, 1, 1),
        ("few bytes, a long life", 10 << 10, 3, 1),
    ]
    .into_iter()
    .enumerate()
    {
        for repeat in 0..EACH {
            let port = 5001 + number as u16 * EACH + repeat;
            let joins = joins(&rig, port, bytes, times, pause);
            assert_eq!(joins, wanted, "{what}");
        }
    }
}

/// Two paths with the addresses of the rig, of which the first has this delay, one way, and loss.
fn lab(delay: &str, loss: f64) -> Lab {
    let link = |n: u8, delay: &str, loss: f64| {
        json!({ "name": format!("path{n}"), "rate": "20Mbit", "delay": delay, "queue": "64KiB",
            "loss": loss, "seed": 5,
            "a": { "host": "client", "dev": format!("p{n}"), "addresses": [format!("10.77.{n}.2/24")],
                "gateways": [format!("10.77.{n}.1")] },
            "b": { "host": "server", "dev": format!("p{n}"), "addresses": [format!("10.77.{n}.1/24")] } })
    };
    let limits = json!({ "subflows": 8, "add_addr_accepted": 8 });
    let second = json!([{ "address": "10.77.1.1", "id": 9, "flags": ["signal"] }]);
    let text = json!({ "version": 1,
        "hosts": { "client": { "mptcp": { "limits": limits } },
            "server": { "mptcp": { "limits": limits, "endpoints": second } } },
        "links": [link(0, delay, loss), link(1, "10ms", 0.0)] });
    Lab::from_json(&text.to_string()).unwrap()
}

/// Puts the example in force, with another value for one of the things that make a subflow pay.
fn apply(rig: &Rig, other: Option<(&str, &str)>) {
    let text = include_str!("../../examples/path-manager.json")
        .replace("eth*", "p0")
        .replace("wlan*", "p1");
    let mut policy: Value = serde_json::from_str(&text).unwrap();
    if let Some((module, least)) = other {
        let all = policy["selectors"]["pays"]["any"].as_array_mut().unwrap();
        let of = all.iter_mut().find(|of| !of[module].is_null()).unwrap();
        of[module]["min"] = least.into();
    }
    let file = rig.folder.write("paths.json", policy.to_string());
    rig.run(&["apply", file.to_str().unwrap()]).ok();
}

/// Connections that have neither the bytes nor the age: whether one path or two is up to how the
/// first one is.
fn by_the_first_path(delay: &str, loss: f64, bytes: usize, rows: &[(Option<(&str, &str)>, u64)]) {
    // The example's age, and what a machine that stalls may add.
    let young = Duration::from_millis(4500);
    let lab = lab(delay, loss);
    let rig = Rig::in_lab(&lab, "client", "server");
    let mut port = 5001;
    for (other, wanted) in rows {
        apply(&rig, *other);
        let mut counted = 0;
        for _ in 0..3 * EACH {
            let start = Instant::now();
            let joins = joins(&rig, port, bytes, 2, Duration::from_millis(400));
            port += 1;
            let took = start.elapsed();
            println!("{delay}, loss {loss}, {other:?}: {joins} joins, {took:?}");
            if took > young {
                continue;
            }
            assert_eq!(joins, *wanted, "{delay}, loss {loss}, {other:?}");
            counted += 1;
            if counted == EACH {
                break;
            }
        }
        assert_eq!(counted, EACH, "the machine is too busy");
    }
    // Before the rig, which finds the namespaces gone.
    drop(lab);
}

/// A round-trip time of 200 ms by itself, and not one of 100 ms.
#[test]
fn root_paths_of_a_slow_first_one() {
    by_the_first_path(
        "100ms",
        0.0,
        2 << 10,
        &[(None, 1), (Some(("rtt", "300ms")), 0)],
    );
    by_the_first_path(
        "50ms",
        0.0,
        2 << 10,
        &[(None, 0), (Some(("rtt", "60ms")), 1)],
    );
}

/// 8 % of the packets are lost; 50 KiB go each way twice, less than the threshold of bytes.
#[test]
fn root_paths_of_a_lossy_first_one() {
    by_the_first_path(
        "10ms",
        0.08,
        50 << 10,
        &[(None, 1), (Some(("loss", "40%")), 0)],
    );
    by_the_first_path("10ms", 0.0, 50 << 10, &[(None, 0)]);
}

/// Six further addresses are worth three subflows, however many are restored at once.
#[test]
fn root_paths_at_most_four() {
    let lab = lab("10ms", 0.0);
    let rig = Rig::in_lab(&lab, "client", "server");
    for host in 11..16 {
        rig.far.sh(&format!(
            "ip addr add 10.77.1.{host}/24 dev p1 && \
             ip mptcp endpoint add 10.77.1.{host} id {host} signal"
        ));
    }
    for (n, with) in [false, true].into_iter().enumerate() {
        if with {
            apply(&rig, None);
        }
        let wanted = if with { 4 } else { 7 };
        let listener = pair::listen(&rig.far, false, 5001);
        let to = SocketAddr::new("10.77.0.1".parse().unwrap(), 5001);
        let (near, far) = pair::connect(&rig.near, to, &listener);
        let bytes = pair::fill(n, 300 << 10);
        for _ in 0..3 {
            pair::send(&near, &far, &bytes);
            pair::send(&far, &near, &bytes);
        }
        wait_for("as many subflows as there may be", pair::LIMIT, || {
            pair::send(&far, &near, &bytes[..1000]);
            subflows(&rig.near) >= wanted
        });
        for _ in 0..5 {
            pair::send(&near, &far, &bytes);
            pair::send(&far, &near, &bytes);
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(subflows(&rig.near), wanted, "policy: {with}");
        }
        assert!(!raw::mptcp_fell_back(&near));
    }
    drop(lab);
}

/// `emptcp run` is killed, and the threshold changed, while a connection lives: it is the policy of
/// then that opens the second subflow, once.
#[test]
fn root_paths_changed_at_run_time() {
    let rig = Rig::new(2, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 && ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.far.sh("ip mptcp endpoint add 10.77.1.1 id 9 signal");
    // Its age says nothing here, however long this takes.
    let apply = |least: &str| {
        let text = include_str!("../../examples/path-manager.json")
            .replace("eth*", "p0")
            .replace("wlan*", "p1")
            .replace("\"5s\"", "\"1h\"")
            .replace("220KiB", least);
        let file = rig.folder.write("paths.json", text);
        rig.run(&["apply", file.to_str().unwrap()]).ok();
    };
    apply("220KiB");
    let daemon = Reader::start(&rig, "run", &["run"]);
    let listener = pair::listen(&rig.far, false, 5001);
    let to = SocketAddr::new("10.77.0.1".parse().unwrap(), 5001);
    let (near, far) = pair::connect(&rig.near, to, &listener);
    let bytes = pair::fill(1, 100 << 10);
    let joins = || counter(&rig.far, "MPTcpExtMPJoinSynRx");
    let talk = || {
        pair::send(&near, &far, &bytes);
        pair::send(&far, &near, &bytes);
        std::thread::sleep(Duration::from_millis(100));
    };
    talk();
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    // 400 KiB in all are much, and are not.
    apply("1GiB");
    talk();
    assert_eq!(joins(), 0);
    apply("220KiB");
    wait_for("the second subflow", pair::LIMIT, || {
        talk();
        joins() == 1
    });
    wait_for("it is open", pair::LIMIT, || subflows(&rig.near) == 2);
    apply("1GiB");
    talk();
    assert_eq!((joins(), subflows(&rig.near)), (1, 2));
    assert!(!raw::mptcp_fell_back(&near));
    assert_eq!(rig.status()["reasons"], json!({}));
}
