//! Real MPTCP connections over emulated links, their payload verified.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::*;
use emptcp_lab::traffic::bulk::{Bulk, BulkResult};
use emptcp_lab::traffic::protocol::Header;
use emptcp_lab::traffic::request::{Request, RequestResult};
use emptcp_lab::traffic::{DEFAULT_PORT, SocketOptions};
use emptcp_lab::units::{Bytes, Time};
use emptcp_lab::{Config, Lab, eventually, undisturbed};
use serial_test::serial;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn sockets(tcp: bool) -> SocketOptions {
    SocketOptions {
        tcp,
        congestion: Some("cubic".to_owned()),
        ..SocketOptions::default()
    }
}

/// Runs `client` in the host `client` while the host `server` serves `connections`; the server
/// must be content, too.
fn with_server<T: Send>(
    lab: &Lab,
    connections: u64,
    client: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_emptcp-lab"));
    serve.args([
        "serve",
        "--congestion",
        "cubic",
        "--connections",
        &connections.to_string(),
    ]);
    let mut server = lab.spawn("server", &mut serve)?;
    let result = lab.within("client", client)?;
    // It ends with its last connection; without one it would wait for ever.
    let ended = eventually(Duration::from_secs(5), || {
        matches!(server.try_wait(), Ok(Some(_)) | Err(_))
    });
    server.kill()?;
    let status = server.wait()?;
    let result = result?;
    ensure!(ended, "the server did not see {connections} connections");
    ensure!(status.success(), "the server failed");
    Ok(result)
}

fn bulk(server: &str, bytes: u64) -> Bulk {
    Bulk {
        socket: sockets(false),
        ..Bulk::download("unused", address(server), bytes)
    }
}

fn transfer(config: &Config, bulk: &Bulk) -> BulkResult {
    undisturbed(ATTEMPTS, config, |lab| {
        with_server(lab, 1, || bulk.transfer())
    })
    .unwrap()
    .0
}

fn assert_both_paths(result: &BulkResult, bytes: u64) {
    eprintln!("{:.1} Mbit/s", result.goodput / 1e6);
    assert_eq!(result.bytes, bytes);
    assert!(result.verified);
    assert!(result.connection.mptcp && !result.connection.fallback);
    assert_eq!(result.connection.subflows, 2);
    let subflows = &result.observations.subflows;
    assert_eq!(subflows.len(), 2, "{subflows:?}");
    assert!(result.goodput > 30e6, "{} bit/s", result.goodput);
    for share in subflows {
        assert!(share.bytes > bytes / 4, "{share}");
    }
    let carried: u64 = subflows.iter().map(|share| share.bytes).sum();
    assert!(
        carried >= bytes && carried < bytes + bytes / 10,
        "{carried} of {bytes}"
    );
}

#[test]
#[serial]
fn root_lab_bulk_download_uses_both_paths() {
    need_root();
    let bulk = Bulk {
        interval: Some(Time(Duration::from_millis(500))),
        ..bulk("10.0.1.1", 12_000_000)
    };
    let result = transfer(&example("two-paths.json"), &bulk);
    assert_both_paths(&result, 12_000_000);
    let intervals = &result.observations.intervals;
    assert!(intervals.len() >= 4, "{intervals:?}");
    for share in &intervals[2].subflows {
        assert!((15e6..20e6).contains(&share.bits_per_second), "{share}");
    }
}

#[test]
#[serial]
fn root_lab_bulk_upload_over_ipv6_uses_both_paths() {
    need_root();
    let bulk = Bulk {
        upload: true,
        ..bulk("fd00:1::1", 12_000_000)
    };
    let result = transfer(&example("two-paths.json"), &bulk);
    assert_both_paths(&result, 12_000_000);
    assert!(
        result
            .observations
            .subflows
            .iter()
            .all(|share| share.subflow.local.is_ipv6())
    );
}

#[test]
#[serial]
fn root_lab_plain_tcp_stays_on_one_path() {
    need_root();
    let bulk = Bulk {
        socket: sockets(true),
        ..bulk("10.0.1.1", 4_000_000)
    };
    let result = transfer(&example("two-paths.json"), &bulk);
    assert!(!result.connection.mptcp && !result.connection.fallback);
    assert_eq!(result.observations.subflows.len(), 1);
    assert!(
        (15e6..20e6).contains(&result.goodput),
        "{} bit/s",
        result.goodput
    );
}

#[test]
#[serial]
fn root_lab_fallback_is_reported() {
    need_root();
    // The client asks for MPTCP, but the server does not speak it.
    let mut config = example("two-paths.json");
    let server = config.hosts.get_mut("server").unwrap();
    server
        .sysctls
        .insert("net.mptcp.enabled".to_owned(), "0".to_owned());
    let bulk = bulk("10.0.1.1", 100_000);
    let (result, _) = undisturbed(ATTEMPTS, &config, |lab| {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_emptcp-lab"));
        let mut server = lab.spawn("server", serve.args(["serve", "--tcp"]))?;
        let result = lab.within("client", || bulk.transfer());
        server.kill()?;
        server.wait()?;
        result?
    })
    .unwrap();
    assert!(result.connection.fallback && !result.connection.mptcp);
    assert_eq!(result.bytes, 100_000);
}

fn exchange(config: &Config, request: &Request, connections: u64) -> RequestResult {
    let measure = |lab: &Lab| with_server(lab, connections, || request.exchange());
    undisturbed(ATTEMPTS, config, measure).unwrap().0
}

fn request() -> Request {
    Request {
        server: address("10.0.1.1"),
        port: DEFAULT_PORT,
        count: 6,
        request: Bytes(100),
        response: vec![Bytes(1_000), Bytes(100_000)],
        pause: Time(Duration::from_millis(50)),
        keep_alive: true,
        parallel: 1,
        seed: 5,
        patience: Time(Duration::from_secs(5)),
        json: false,
        socket: sockets(false),
    }
}

#[test]
#[serial]
fn root_lab_keep_alive_requests() {
    need_root();
    let result = exchange(&example("two-paths.json"), &request(), 1);
    assert!(result.verified);
    assert_eq!(result.exchanges.len(), 6);
    assert_eq!(result.connections.len(), 1);
    assert!(result.connections[0].mptcp);
    let sizes: Vec<u64> = result
        .exchanges
        .iter()
        .map(|exchange| exchange.response)
        .collect();
    assert_eq!(sizes, [1_000, 100_000, 1_000, 100_000, 1_000, 100_000]);
    // Only the first exchange connects: one more round trip.
    let connects: Vec<bool> = result
        .exchanges
        .iter()
        .map(|exchange| exchange.connect_seconds.is_some())
        .collect();
    assert_eq!(connects, [true, false, false, false, false, false]);
    // Two round trips with connecting, one without; the least of two, as the first one may wait
    // for the processes' memory.
    let milliseconds = |n: usize| result.exchanges[n].seconds * 1e3;
    assert!(
        (40.0..60.0).contains(&milliseconds(0)),
        "{}",
        milliseconds(0)
    );
    let least = milliseconds(2).min(milliseconds(4));
    assert!((20.0..22.0).contains(&least), "{least}");
}

#[test]
#[serial]
fn root_lab_parallel_requests_on_new_connections() {
    need_root();
    let request = Request {
        keep_alive: false,
        count: 3,
        parallel: 2,
        ..request()
    };
    let result = exchange(&example("two-paths.json"), &request, 6);
    assert_eq!(result.exchanges.len(), 6);
    assert_eq!(result.connections.len(), 6);
    assert!(
        result
            .exchanges
            .iter()
            .all(|exchange| exchange.connect_seconds.is_some())
    );
}

#[test]
#[serial]
fn root_lab_wrong_payload_is_a_failure() {
    need_root();
    let lab = Lab::start(example("two-paths.json"), None).unwrap();
    let listener = lab
        .within("server", || TcpListener::bind("10.0.1.1:5001"))
        .unwrap()
        .unwrap();
    let (bulk_error, request_error) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                Header::receive(&mut stream).unwrap();
                // A block of 4 bytes that are not the payload's; or a response of such.
                let _ = stream.write_all(&[0, 0, 0, 4, 1, 2, 3, 4]);
                let _ = stream.write_all(&[0; 1000]);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let bulk = bulk("10.0.1.1", 4);
        let request = Request {
            response: vec![Bytes(500)],
            count: 1,
            ..request()
        };
        lab.within("client", || {
            (
                bulk.transfer().unwrap_err(),
                request.exchange().unwrap_err(),
            )
        })
        .unwrap()
    });
    assert!(
        format!("{bulk_error:#}").contains("PAYLOAD MISMATCH"),
        "{bulk_error:#}"
    );
    assert!(
        format!("{request_error:#}").contains("PAYLOAD MISMATCH"),
        "{request_error:#}"
    );
}
