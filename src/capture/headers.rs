//! What is shown of a packet's headers: the data plane has told where they are.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use super::Packet;

/// Kind of the options of Multipath TCP.
const TCPOPT_MPTCP: u8 = 30;
/// Subtypes by their numbers (RFC 8684, 8.2).
const SUBTYPES: [&str; 9] = [
    "mp_capable",
    "mp_join",
    "dss",
    "add_addr",
    "remove_addr",
    "mp_prio",
    "mp_fail",
    "mp_fastclose",
    "mp_tcprst",
];
/// Flags from the lowest bit on; an ACK is a point, as in tcpdump.
const FLAGS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];

/// Headers of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: String,
    pub(super) window: u16,
    /// Bytes of TCP payload (of all segments).
    pub(super) payload: u32,
    /// Options of Multipath TCP, as far as they were copied.
    pub(super) mptcp: Vec<String>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Headers {
    /// `None`: not so much was copied.
    pub(super) fn of(packet: &Packet<'_>) -> Option<Self> {
        let ip = packet.bytes.get(packet.ip_off..)?;
        let tcp = packet.bytes.get(packet.tcp_off..)?;
        let (src, dst, total): (IpAddr, IpAddr, u32) = if packet.ip_version == 4 {
            let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
            (
                address(12)?.into(),
                address(16)?.into(),
                be16(ip, 2)?.into(),
            )
        } else {
            let address = |at: usize| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?));
            let payload = u32::from(be16(ip, 4)?);
            let total = if payload == 0 { 0 } else { payload + 40 };
            (address(8)?.into(), address(24)?.into(), total)
        };
        // Longer than the field can tell: BIG TCP.
        let total = match total {
            0 => packet.len.saturating_sub(packet.ip_off as u32),
            total => total,
        };
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let before = packet.tcp_off.saturating_sub(packet.ip_off) + header;
        let bits = *tcp.get(13)?;
        let named = FLAGS.iter().enumerate();
        Some(Self {
            src: SocketAddr::new(src, be16(tcp, 0)?),
            dst: SocketAddr::new(dst, be16(tcp, 2)?),
            seq: be32(tcp, 4)?,
            ack: be32(tcp, 8)?,
            flags: named
                .filter(|(bit, _)| bits >> bit & 1 == 1)
                .map(|(_, name)| name)
                .collect(),
            window: be16(tcp, 14)?,
            payload: total.saturating_sub(before as u32),
            mptcp: mptcp(tcp.get(20..header.min(tcp.len())).unwrap_or_default()),
        })
    }
}

/// Names of the options of Multipath TCP.
fn mptcp(mut options: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let len = match *options {
            [] | [0, ..] => return names,
            [1, ..] => 1,
            [_, len, ..] if len >= 2 => usize::from(len),
            _ => return names,
        };
        if let [TCPOPT_MPTCP, _, sub, ..] = *options
            && len > 2
        {
            let number = usize::from(sub >> 4);
            let name = SUBTYPES.get(number).map(|name| (*name).to_owned());
            names.push(name.unwrap_or_else(|| format!("subtype {number}")));
        }
        options = options.get(len..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_whole() {
        for (options, expected) in [
            (&[][..], &[][..]),
            (&[1, 1, 30, 4, 0x50, 0, 30, 8, 0x20], &["mp_prio", "dss"]),
            (&[30, 3, 0xf0, 30], &["subtype 15"]),
            (&[30, 0, 0x20, 1], &[]),
            (&[0, 30, 4, 0x50, 0], &[]),
            (&[8, 200, 30, 4, 0x50, 0], &[]),
        ] {
            assert_eq!(mptcp(options), expected, "{options:?}");
        }
    }
}
