//! The two ends of a subflow, as the tracker's keys have them.

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::abi::SubflowKey;

/// Key of a subflow: its lower and its higher end, and its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ends {
    pub(crate) ends: [SocketAddr; 2],
    pub(crate) zone: u32,
}

impl Ends {
    /// The key of what goes from one end to the other, and the direction of that: 0 from the lower
    /// end, 1 from the higher one (`enum emptcp_track_direction`).
    pub(crate) fn of(from: SocketAddr, to: SocketAddr, zone: u32) -> (Self, u8) {
        if order(from) > order(to) {
            let ends = [to, from];
            (Self { ends, zone }, 1)
        } else {
            let ends = [from, to];
            (Self { ends, zone }, 0)
        }
    }

    /// The same of the key that a packet has.
    pub(crate) fn of_packet(key: &SubflowKey) -> (Self, u8) {
        let Self {
            ends: [from, to],
            zone,
        } = Self::from(key);
        Self::of(from, to, zone)
    }

    /// The end that sends in a direction, and the one that receives.
    pub(crate) fn sender_and_receiver(&self, direction: usize) -> (SocketAddr, SocketAddr) {
        (self.ends[direction], self.ends[1 - direction])
    }

    /// The key that packets of a direction have.
    pub(crate) fn packet_key(&self, direction: usize) -> SubflowKey {
        let (from, to) = self.sender_and_receiver(direction);
        SubflowKey::from(&Self {
            ends: [from, to],
            zone: self.zone,
        })
    }
}

/// What `emptcp_is_higher()` compares: addresses as words of this machine, though they are in
/// network byte order, then ports.
fn order(end: SocketAddr) -> ([u32; 4], u16) {
    (words(end.ip()), end.port())
}

/// `struct emptcp_addr`: IPv4 mapped into IPv6.
fn words(address: IpAddr) -> [u32; 4] {
    let mapped = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bytes = mapped.octets();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_ne_bytes();
    }
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

impl From<&SubflowKey> for Ends {
    fn from(key: &SubflowKey) -> Self {
        let lower = SocketAddr::new(address(key.src.w), key.sport);
        let higher = SocketAddr::new(address(key.dst.w), key.dport);
        Self {
            ends: [lower, higher],
            zone: key.zone,
        }
    }
}

impl From<&Ends> for SubflowKey {
    fn from(ends: &Ends) -> Self {
        let [lower, higher] = ends.ends;
        let mut key = Self {
            sport: lower.port(),
            dport: higher.port(),
            zone: ends.zone,
            ..Self::default()
        };
        key.src.w = words(lower.ip());
        key.dst.w = words(higher.ip());
        key
    }
}
