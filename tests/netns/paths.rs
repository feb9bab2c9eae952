// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The policy `examples/path-manager.json`: what makes further subflows pay.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::mptcp::counter;
use super::raw;
use super::rig::Rig;
use super::rig::Tc;

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
