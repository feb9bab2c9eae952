//! The bytes of a pure ACK.

use std::net::IpAddr;
use std::net::SocketAddr;

use anyhow::Result;
use anyhow::bail;

use super::Opt;

/// Bytes that all TCP options together can have.
const OPTION_SPACE: usize = 40;
const NOP: u8 = 1;
/// Flag ACK.
const ACK: u8 = 0x10;
/// Protocol of IP.
const TCP: u8 = 6;

/// A pure ACK of one direction of a subflow. Numbers are in the byte order of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Link-layer header as it is on the wire: Ethernet with VLAN tags, or nothing.
    pub(crate) l2: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// As on the wire, not scaled.
    pub(crate) window: u16,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// TOS or traffic class.
    pub(crate) tos: u8,
    /// TSval and TSecr (RFC 7323, 3.2).
    pub(crate) timestamps: Option<(u32, u32)>,
}

impl Ack {
    /// What it says, for people.
    pub(crate) fn text(&self) -> String {
        let timestamps = match self.timestamps {
            Some((val, echoed)) => format!(" TSval {val} TSecr {echoed}"),
            None => String::new(),
        };
        let Self {
            seq, ack, window, ..
        } = self;
        format!("seq {seq} ack {ack} win {window}{timestamps}")
    }

    /// The frame with an option of Multipath TCP behind the timestamps; all checksums are whole.
    ///
    /// # Errors
    ///
    /// The option does not fit.
    pub(crate) fn bytes(&self, option: &Opt) -> Result<Vec<u8>> {
        let options = self.options(option.bytes())?;
        let mut tcp = Vec::with_capacity(20 + options.len());
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(5 + options.len() as u8 / 4) << 4, ACK]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        let len = tcp.len() as u16;

        let mut frame = self.l2.clone();
        let sum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, self.tos];
                ip.extend((20 + len).to_be_bytes());
                // Do not fragment, so the identification means nothing (RFC 6864, 4.1).
                ip.extend([0, 0, 0x40, 0, self.ttl, TCP, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                let sum = checksum(&ip, 0);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                let addresses = sum_of(&ip[12..]);
                frame.extend(ip);
                addresses
            }
            (from, to) => {
                let octets = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                };
                let mut ip = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                ip.extend(len.to_be_bytes());
                ip.extend([TCP, self.ttl]);
                ip.extend(octets(from));
                ip.extend(octets(to));
                let addresses = sum_of(&ip[8..]);
                frame.extend(ip);
                addresses
            }
        };
        // The rest of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
        let sum = checksum(&tcp, sum + u32::from(TCP) + u32::from(len));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        frame.extend(tcp);
        Ok(frame)
    }

    fn options(&self, option: &[u8]) -> Result<Vec<u8>> {
        let mut options = Vec::with_capacity(OPTION_SPACE);
        if let Some((val, echoed)) = self.timestamps {
            options.extend([NOP, NOP, 8, 10]);
            options.extend(val.to_be_bytes());
            options.extend(echoed.to_be_bytes());
        }
        options.extend(option);
        options.resize(options.len().next_multiple_of(4), NOP);
        if options.len() > OPTION_SPACE {
            bail!(
                "an option of {} bytes does not fit beside the timestamps: {} are left",
                option.len(),
                OPTION_SPACE - 12
            );
        }
        Ok(options)
    }
}

/// Sum of 16-bit words in network byte order.
fn sum_of(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum()
}

/// Internet checksum (RFC 1071), with what is summed up before.
fn checksum(bytes: &[u8], before: u32) -> u16 {
    let mut sum = before + sum_of(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
