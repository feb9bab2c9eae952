//! Internet checksums, computed from scratch (RFC 1071), never incrementally.

use std::net::IpAddr;

use crate::Framing;

/// Sum of two numbers in ones' complement.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// Checksum of bytes, in which the checksum field must be zero.
pub fn of(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    !words.fold(0, add)
}

/// Checksum of a TCP or UDP header and its payload, in which the checksum field
/// must be zero. `dst` is the final destination.
pub fn transport(src: IpAddr, dst: IpAddr, proto: u8, segment: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for addr in [src, dst] {
        match addr {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend((segment.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, proto]);
    bytes.extend(segment);
    of(&bytes)
}

/// A checksum in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// As it stands there.
    pub found: u16,
    /// As it should be.
    pub right: u16,
}

impl Sum {
    /// The two agree (zero has two representations).
    pub fn is_right(self) -> bool {
        self.found == self.right || (self.found == 0xffff && self.right == 0)
    }

    /// By how much more the data seem to have summed: see [`crate::packet::Checksum::Off`].
    pub fn off(self) -> u16 {
        add(!self.found, self.right) % 0xffff
    }
}

/// Checksums of a packet; none of what is not there or not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// IPv4 header.
    pub ip: Option<Sum>,
    /// TCP.
    pub tcp: Option<Sum>,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn sum(bytes: &[u8], at: usize, compute: impl Fn(&[u8]) -> u16) -> Option<Sum> {
    let found = word(bytes, at)?;
    let mut zeroed = bytes.to_vec();
    zeroed[at..at + 2].fill(0);
    Some(Sum {
        found,
        right: compute(&zeroed),
    })
}

/// Bytes from the IP header on.
fn network(bytes: &[u8], framing: Framing) -> Option<&[u8]> {
    if framing == Framing::RawIp {
        return Some(bytes);
    }
    let mut at = 12;
    while let 0x8100 | 0x88a8 | 0x9100 = word(bytes, at)? {
        at += 4;
    }
    match word(bytes, at)? {
        0x0800 | 0x86dd => bytes.get(at + 2..),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

/// Finds the checksums of a packet and computes what they should be.
pub fn sums(bytes: &[u8], framing: Framing) -> Sums {
    let mut sums = Sums::default();
    let _ = fill(bytes, framing, &mut sums);
    sums
}

/// `None` as soon as something is missing; `sums` then holds what was found before.
fn fill(bytes: &[u8], framing: Framing, sums: &mut Sums) -> Option<()> {
    let ip = network(bytes, framing)?;
    let (src, dst, segment) = match ip.first()? >> 4 {
        4 => {
            let header = ip
                .get(..usize::from(ip[0] & 15) * 4)
                .filter(|h| h.len() >= 20)?;
            sums.ip = sum(header, 10, of);
            let fragment = word(ip, 6)? & 0x3fff != 0;
            if fragment || ip[9] != 6 {
                return None;
            }
            let segment = ip.get(header.len()..usize::from(word(ip, 2)?))?;
            (address(&ip[12..16])?, address(&ip[16..20])?, segment)
        }
        6 => {
            let header = ip.get(..40)?;
            let mut dst = address(&header[24..40])?;
            let mut rest = ip.get(40..40 + usize::from(word(ip, 4)?))?;
            let mut next = header[6];
            loop {
                let len = match next {
                    6 => break,
                    0 | 43 | 60 | 135 => 8 + 8 * usize::from(*rest.get(1)?),
                    44 if word(rest, 2)? & 0xfff9 == 0 => 8,
                    51 => 8 + 4 * usize::from(*rest.get(1)?),
                    _ => return None,
                };
                let ext = rest.get(..len)?;
                if next == 43 && *ext.get(3)? > 0 {
                    let last = if ext[2] == 4 {
                        ext.get(8..24)?
                    } else {
                        ext.get(len.checked_sub(16)?..)?
                    };
                    dst = address(last)?;
                }
                next = ext[0];
                rest = &rest[len..];
            }
            (address(&header[8..24])?, dst, rest)
        }
        _ => return None,
    };
    if segment.len() >= 20 {
        sums.tcp = sum(segment, 16, |zeroed| transport(src, dst, 6, zeroed));
    }
    Some(())
}

/// Panics unless the packet has a TCP checksum, and that and the one of the
/// IPv4 header are right.
#[track_caller]
pub fn assert_checksums(bytes: &[u8], framing: Framing) {
    let sums = sums(bytes, framing);
    if let Some(ip) = sums.ip {
        assert!(ip.is_right(), "checksum of the IPv4 header: {ip:04x?}");
    }
    let tcp = sums.tcp.expect("a whole TCP segment");
    assert!(tcp.is_right(), "TCP checksum: {tcp:04x?}");
}
