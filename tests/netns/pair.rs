// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Both ends of a connection of Multipath TCP, and data that are compared.

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use super::raw;
use super::rig::Netns;

/// What nothing of a connection takes longer than.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

/// Bytes that are others for each seed.
pub(super) fn fill(seed: usize, size: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let bytes = (0..size).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.collect()
}

/// Sends bytes one way, and compares what arrives.
#[track_caller]
pub(super) fn send(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(bytes).unwrap());
        to.read_exact(&mut got).unwrap();
    });
    let differs = got.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!(differs, None, "not what was sent, of {}", bytes.len());
}

/// A listener at any address of the family: a further subflow comes to another one.
pub(super) fn listen(server: &Netns, v6: bool, port: u16) -> TcpListener {
    let any: IpAddr = match v6 {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    server.within(|| TcpListener::from(raw::mptcp_listener(any, port)))
}

/// The client's end of a connection, and the server's.
pub(super) fn connect(
    client: &Netns,
    to: SocketAddr,
    listener: &TcpListener,
) -> (TcpStream, TcpStream) {
    let client = client.within(|| TcpStream::from(raw::mptcp_connect(to)));
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
    }
    (client, server)
}
