//! The packets that are measured.

use std::net::Ipv4Addr;

/// NOP NOP timestamps.
const TIMESTAMPS: &[u8] = &[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];
/// A data acknowledgement of 4 bytes (RFC 8684, 3.3).
const DATA_ACK: &[u8] = &[30, 8, 0x20, 1, 0, 0, 0, 7];
/// 10.3.0.9 with the id 1, as Linux announces it (RFC 8684, 3.4.1).
const ADD_ADDR: &[u8] = &[30, 16, 0x30, 1, 10, 3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8];
const SYN: u8 = 2;
const ACK: u8 = 0x10;

/// A packet over Ethernet and IPv4; without change an ACK with timestamps and a data
/// acknowledgement.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) sport: u16,
    pub(super) dport: u16,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
    pub(super) payload: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            src: Ipv4Addr::new(10, 1, 0, 2),
            dst: Ipv4Addr::new(10, 2, 0, 1),
            sport: 40000,
            dport: 443,
            flags: ACK,
            window: 4096,
            options: [TIMESTAMPS, DATA_ACK].concat(),
            payload: 0,
        }
    }
}

/// Packets of Multipath TCP, one of each kind that something is done with, as Linux sends them; the
/// most usual first. A chain or module is measured on the first one on which it does its work.
pub(super) fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let ack = |options: &[&[u8]]| Frame {
        options: options.concat(),
        ..Frame::default()
    };
    let syn = |flags: u8, options: &[&[u8]]| Frame {
        flags,
        options: [&[2, 4, 5, 0xb4, 4, 2], &TIMESTAMPS[2..], &[1, 3, 3, 7]]
            .into_iter()
            .chain(options.iter().copied())
            .collect::<Vec<_>>()
            .concat(),
        ..Frame::default()
    };
    let map = [
        30, 20, 0x20, 5, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 100, 1, 1,
    ];
    let frames = [
        ("ACK", Frame::default()),
        (
            "data",
            Frame {
                payload: 100,
                ..ack(&[TIMESTAMPS, &map])
            },
        ),
        (
            "ADD_ADDR beside DSS",
            ack(&[TIMESTAMPS, DATA_ACK, ADD_ADDR]),
        ),
        ("ADD_ADDR alone", ack(&[TIMESTAMPS, ADD_ADDR])),
        (
            "REMOVE_ADDR beside DSS",
            ack(&[TIMESTAMPS, DATA_ACK, &[30, 4, 0x40, 1]]),
        ),
        (
            "MP_PRIO beside DSS",
            ack(&[TIMESTAMPS, DATA_ACK, &[30, 3, 0x51, 1]]),
        ),
        ("SYN, MP_CAPABLE", syn(SYN, &[&[30, 4, 1, 1]])),
        (
            "SYN, MP_JOIN",
            syn(SYN, &[&[30, 12, 0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8]]),
        ),
    ];
    frames.map(|(name, frame)| (name, frame.bytes())).to_vec()
}

impl Frame {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.sport.to_be_bytes());
        tcp.extend(self.dport.to_be_bytes());
        tcp.extend(1u32.to_be_bytes());
        tcp.extend(1u32.to_be_bytes());
        tcp.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.resize(tcp.len() + self.payload, 0);
        let mut pseudo = Vec::new();
        pseudo.extend(self.src.octets());
        pseudo.extend(self.dst.octets());
        pseudo.extend([0, 6]);
        pseudo.extend((tcp.len() as u16).to_be_bytes());
        pseudo.extend(&tcp);
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());

        let mut ip = vec![0x45, 0];
        ip.extend((20 + tcp.len() as u16).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend(ip);
        frame.extend(tcp);
        frame
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
