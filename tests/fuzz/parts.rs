//! A packet in its parts, put together again with true lengths and checksums.

use emptcp_test::Framing;
use emptcp_test::csum;

use super::layout::layout;

/// A whole TCP packet over IP.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) framing: Framing,
    /// Both addresses of Ethernet.
    pub(crate) macs: Vec<u8>,
    /// VLAN tags: their protocol and themselves.
    pub(crate) tags: Vec<[u8; 4]>,
    /// Fixed part of the IP header.
    pub(crate) ip: Vec<u8>,
    /// Options of IPv4.
    pub(crate) ip_options: Vec<u8>,
    /// Extension headers of IPv6: protocol, and bytes, of which the first is overwritten.
    pub(crate) ext: Vec<(u8, Vec<u8>)>,
    /// Fixed part of the TCP header.
    pub(crate) tcp: Vec<u8>,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) pad: Vec<u8>,
}

impl Parts {
    /// `None`: not whole, a fragment, or of contradictory lengths.
    pub(crate) fn new(bytes: &[u8], framing: Framing) -> Option<Self> {
        let l = layout(bytes, framing).filter(|l| !l.fragment && l.ip_end <= bytes.len())?;
        let tags = &bytes[l.ip.min(12)..l.ip.saturating_sub(2)];
        let mut parts = Self {
            framing,
            macs: bytes[..l.ip.min(12)].to_vec(),
            tags: tags.as_chunks().0.to_vec(),
            ip: bytes[l.ip..l.ext].to_vec(),
            ip_options: Vec::new(),
            ext: Vec::new(),
            tcp: bytes[l.tcp..l.tcp + 20].to_vec(),
            options: bytes[l.tcp + 20..l.payload].to_vec(),
            payload: bytes[l.payload..l.pad].to_vec(),
            pad: bytes[l.pad..].to_vec(),
        };
        if l.version == 4 {
            parts.ip_options = bytes[l.ext..l.tcp].to_vec();
        } else {
            let (mut next, mut at) = (parts.ip[6], l.ext);
            while at < l.tcp {
                let len = match next {
                    44 => 8,
                    51 => 8 + 4 * usize::from(bytes[at + 1]),
                    _ => 8 + 8 * usize::from(bytes[at + 1]),
                };
                parts.ext.push((next, bytes[at..at + len].to_vec()));
                next = bytes[at];
                at += len;
            }
        }
        Some(parts)
    }

    /// Version of IP.
    pub(crate) fn version(&self) -> u8 {
        if self.ip.len() == 20 { 4 } else { 6 }
    }

    /// The frame, with true lengths and checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let mut tcp = self.tcp.clone();
        tcp[12] = (tcp[12] & 15) | (5 + options.len() as u8 / 4) << 4;
        let l4 = 20 + options.len() + self.payload.len();

        let mut frame = self.macs.clone();
        if self.framing == Framing::Ethernet {
            for tag in &self.tags {
                frame.extend(tag);
            }
            let ethertype: u16 = if self.version() == 4 { 0x0800 } else { 0x86dd };
            frame.extend(ethertype.to_be_bytes());
        }
        let mut ip = self.ip.clone();
        if self.version() == 4 {
            let header = 20 + self.ip_options.len();
            ip[0] = 0x40 | (header / 4) as u8;
            ip[2..4].copy_from_slice(&((header + l4) as u16).to_be_bytes());
            frame.extend(&ip);
            frame.extend(&self.ip_options);
        } else {
            let ext: usize = self.ext.iter().map(|(_, bytes)| bytes.len()).sum();
            ip[4..6].copy_from_slice(&((ext + l4) as u16).to_be_bytes());
            let mut protos = self.ext.iter().map(|(proto, _)| *proto).chain([6]);
            ip[6] = protos.next().unwrap_or(6);
            frame.extend(&ip);
            for ((_, bytes), next) in self.ext.iter().zip(protos) {
                frame.push(next);
                frame.extend(&bytes[1..]);
            }
        }
        for part in [&tcp, &options, &self.payload, &self.pad] {
            frame.extend(part);
        }
        right(&mut frame, self.framing);
        frame
    }
}

/// Makes the checksums right that can be computed.
pub(crate) fn right(frame: &mut [u8], framing: Framing) {
    let Some(l) = layout(frame, framing) else {
        return;
    };
    let sums = csum::sums(frame, framing);
    for (at, sum) in [(l.ip + 10, sums.ip), (l.tcp + 16, sums.tcp)] {
        if let Some(sum) = sum {
            frame[at..at + 2].copy_from_slice(&sum.right.to_be_bytes());
        }
    }
}
