//! Sockets of subflows, as the kernel tells them (`NETLINK_SOCK_DIAG`, net/ipv4/inet_diag.c).

use std::mem::offset_of;
use std::net::SocketAddr;

use anyhow::Context as _;
use anyhow::Result;
use netlink_packet_core::DefaultNla;
use netlink_packet_core::Emitable as _;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_core::NlasIterator;
use netlink_packet_sock_diag::AF_INET;
use netlink_packet_sock_diag::AF_INET6;
use netlink_packet_sock_diag::IPPROTO_TCP;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::TCP_ESTABLISHED;
use netlink_packet_sock_diag::inet::ExtensionFlags;
use netlink_packet_sock_diag::inet::InetRequest;
use netlink_packet_sock_diag::inet::InetResponse;
use netlink_packet_sock_diag::inet::SocketId;
use netlink_packet_sock_diag::inet::StateFlags;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::ask_of;
use crate::track::Socket;
use crate::track::SocketFlags;

/// Attributes of what is above TCP, from include/uapi/linux/inet_diag.h and mptcp.h.
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_MPTCP: u16 = 3;
const MPTCP_SUBFLOW_ATTR_TOKEN_REM: u16 = 1;
const MPTCP_SUBFLOW_ATTR_TOKEN_LOC: u16 = 2;
const MPTCP_SUBFLOW_ATTR_FLAGS: u16 = 8;
const MPTCP_SUBFLOW_ATTR_ID_REM: u16 = 9;
const MPTCP_SUBFLOW_ATTR_ID_LOC: u16 = 10;

/// Both window scales: that of the other end in the lower four bits.
const TCPI_WSCALES: usize = 6;
/// `tcpi_notsent_bytes` of include/uapi/linux/tcp.h, behind what the C library knows.
const TCPI_NOTSENT_BYTES: usize = 144;

/// The sockets of the current network namespace that are subflows of Multipath TCP, IPv4 and IPv6,
/// without those that wait for their handshake or for its ghosts to die.
///
/// # Errors
///
/// The kernel's, such as that it has no `tcp_diag`.
pub(crate) fn mptcp_sockets() -> Result<Vec<Socket>> {
    let mut found = Vec::new();
    for (family, any) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let request = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::ESTABLISHED
                | StateFlags::FIN_WAIT1
                | StateFlags::FIN_WAIT2
                | StateFlags::CLOSE_WAIT
                | StateFlags::CLOSING
                | StateFlags::LAST_ACK,
            socket_id: any,
        });
        ask_of(NETLINK_SOCK_DIAG, request, NLM_F_DUMP, |answer| {
            if let SockDiagMessage::InetResponse(answer) = answer {
                found.extend(socket(&answer));
            }
        })
        .context("cannot list the sockets of this network namespace")?;
    }
    Ok(found)
}

/// A subflow; `None`: the socket is none.
fn socket(answer: &InetResponse) -> Option<Socket> {
    let id = &answer.header.socket_id;
    let mut socket = Socket {
        // Sockets of IPv6 have IPv4 connections too.
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        established: answer.header.state == TCP_ESTABLISHED,
        ..Socket::default()
    };
    let mut is_subflow = false;
    for attribute in &answer.nlas {
        match attribute {
            Nla::TcpInfo(info) => tcp_info(&mut socket, info),
            Nla::Other(other) => {
                let (kind, value) = parts(other);
                if kind == INET_DIAG_ULP_INFO
                    && let Some(info) = attribute_of(&value, INET_ULP_INFO_MPTCP)
                {
                    is_subflow = true;
                    ulp_info(&mut socket, &info);
                }
            }
            _ => {}
        }
    }
    is_subflow.then_some(socket)
}

/// Kind and value of an attribute that the library does not know.
fn parts(attribute: &DefaultNla) -> (u16, Vec<u8>) {
    use netlink_packet_core::Nla as _;

    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    let end = 4 + attribute.value_len();
    (attribute.kind(), bytes[4..end].to_vec())
}

/// The value of the attribute of a kind.
fn attribute_of(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut all = NlasIterator::new(bytes).flatten();
    all.find(|a| a.kind() == kind).map(|a| a.value().to_vec())
}

/// What `subflow_get_info()` of net/mptcp/diag.c tells.
fn ulp_info(socket: &mut Socket, info: &[u8]) {
    let word = |value: &[u8]| value.first_chunk().map(|b| u32::from_ne_bytes(*b));
    for attribute in NlasIterator::new(info).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            MPTCP_SUBFLOW_ATTR_TOKEN_REM => socket.token_remote = word(value).filter(|t| *t != 0),
            MPTCP_SUBFLOW_ATTR_TOKEN_LOC => socket.token_local = word(value).filter(|t| *t != 0),
            MPTCP_SUBFLOW_ATTR_FLAGS => socket.flags = SocketFlags(word(value).unwrap_or_default()),
            MPTCP_SUBFLOW_ATTR_ID_REM => socket.id_remote = value.first().copied().unwrap_or(0),
            MPTCP_SUBFLOW_ATTR_ID_LOC => socket.id_local = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
}

/// What `tcp_get_info()` tells; older kernels tell less.
fn tcp_info(socket: &mut Socket, info: &[u8]) {
    let word = |offset: usize| {
        let bytes = info.get(offset..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    socket.cwnd = word(offset_of!(libc::tcp_info, tcpi_snd_cwnd));
    socket.srtt = word(offset_of!(libc::tcp_info, tcpi_rtt)).filter(|rtt| *rtt != 0);
    socket.rttvar = word(offset_of!(libc::tcp_info, tcpi_rttvar));
    socket.retransmits = word(offset_of!(libc::tcp_info, tcpi_total_retrans));
    socket.mss = word(offset_of!(libc::tcp_info, tcpi_snd_mss));
    socket.in_flight = word(offset_of!(libc::tcp_info, tcpi_unacked));
    socket.unsent = word(TCPI_NOTSENT_BYTES);
    if let Some(scales) = info.get(TCPI_WSCALES) {
        // Bit fields begin at the other end on machines with the other byte order.
        let (low, high) = (scales & 15, scales >> 4);
        socket.wscales = Some(match cfg!(target_endian = "little") {
            true => [high, low],
            false => [low, high],
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use netlink_packet_core::Parseable as _;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An answer of the kernel for a socket of IPv6 that is connected by IPv4.
    fn answer(attributes: &[Vec<u8>]) -> InetResponse {
        let mut bytes = vec![AF_INET6, TCP_ESTABLISHED, 0, 0];
        bytes.extend(5001_u16.to_be_bytes());
        bytes.extend(40000_u16.to_be_bytes());
        for last in [2, 1] {
            bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, last]);
        }
        bytes.resize(72, 0);
        bytes.extend(attributes.concat());
        InetResponse::parse(&bytes).unwrap()
    }

    #[test]
    fn plain_tcp_is_no_subflow() {
        assert!(socket(&answer(&[])).is_none());
        let name = attribute(INET_DIAG_ULP_INFO, &attribute(1, b"tls\0"));
        assert!(socket(&answer(&[name])).is_none());
    }

    #[test]
    fn subflow() {
        let mut info = vec![0; 248];
        info[TCPI_WSCALES] = if cfg!(target_endian = "little") {
            0xa7
        } else {
            0x7a
        };
        let at = offset_of!(libc::tcp_info, tcpi_snd_cwnd);
        info[at..at + 4].copy_from_slice(&10_u32.to_ne_bytes());
        info[144..148].copy_from_slice(&777_u32.to_ne_bytes());
        let mptcp = [
            attribute(MPTCP_SUBFLOW_ATTR_TOKEN_REM, &0_u32.to_ne_bytes()),
            attribute(MPTCP_SUBFLOW_ATTR_TOKEN_LOC, &0x1234_5678_u32.to_ne_bytes()),
            attribute(MPTCP_SUBFLOW_ATTR_FLAGS, &0x61_u32.to_ne_bytes()),
            attribute(MPTCP_SUBFLOW_ATTR_ID_LOC, &[3]),
        ];
        let ulp = attribute(INET_ULP_INFO_MPTCP, &mptcp.concat());
        let all = [attribute(2, &info), attribute(INET_DIAG_ULP_INFO, &ulp)];
        let socket = socket(&answer(&all)).unwrap();
        assert_eq!(socket.local, "10.77.0.2:5001".parse().unwrap());
        assert_eq!(socket.remote, "10.77.0.1:40000".parse().unwrap());
        assert!(socket.established);
        assert_eq!(socket.token_local, Some(0x1234_5678));
        assert_eq!(socket.token_remote, None);
        assert_eq!((socket.id_local, socket.id_remote), (3, 0));
        assert!(socket.flags.has(SocketFlags::CAPABLE) && !socket.opened_here());
        assert_eq!(socket.wscales, Some([10, 7]));
        assert_eq!((socket.cwnd, socket.srtt), (Some(10), None));
        assert_eq!((socket.unsent, socket.in_flight), (Some(777), Some(0)));
    }

    #[test]
    fn short_info_of_old_kernels() {
        let ulp = attribute(INET_ULP_INFO_MPTCP, &[]);
        let all = [
            attribute(2, &[1, 0, 0]),
            attribute(INET_DIAG_ULP_INFO, &ulp),
        ];
        let socket = socket(&answer(&all)).unwrap();
        assert_eq!((socket.cwnd, socket.wscales), (None, None));
    }
}
