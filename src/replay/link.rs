//! Link types of captures, and what of a packet runs through the programs.

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of a header of Linux cooked captures, version 1 (pcap-linktype(7), LINKTYPE_LINUX_SLL).
const SLL: usize = 16;
/// The same of version 2 (LINKTYPE_LINUX_SLL2).
const SLL2: usize = 20;

/// A link type that can be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet.
    Ethernet,
    /// Linux cooked, version 1.
    Sll,
    /// Linux cooked, version 2.
    Sll2,
    /// Packets begin with an IP header.
    RawIp,
}

/// A packet as the programs get it, and what stood before it in the capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed<'a> {
    /// It begins with an IP header, not with an Ethernet header.
    pub raw_ip: bool,
    /// Its bytes.
    pub bytes: std::borrow::Cow<'a, [u8]>,
    /// The header of the capture that an Ethernet header stands for.
    cooked: Option<&'a [u8]>,
}

impl Link {
    /// The link type of this number (pcap-linktype(7)); `None`: it cannot be replayed.
    pub fn of(number: u32) -> Option<Self> {
        // Bits from 16 on tell of a frame check sequence (pcap-savefile(5)).
        match number & 0xffff {
            1 => Some(Self::Ethernet),
            113 => Some(Self::Sll),
            276 => Some(Self::Sll2),
            // IP of either version, IPv4, IPv6.
            101 | 228 | 229 => Some(Self::RawIp),
            _ => None,
        }
    }

    /// The packet for the programs: a cooked one gets an Ethernet header, with the address of the
    /// sender where it is known. `None`: it ends inside of the header of its link type.
    pub fn frame<'a>(self, data: &'a [u8]) -> Option<Framed<'a>> {
        // Where the protocol, the length of the sender's address and the address are.
        let (header, protocol, length, address) = match self {
            Self::Ethernet | Self::RawIp => {
                return Some(Framed {
                    raw_ip: self == Self::RawIp,
                    bytes: data.into(),
                    cooked: None,
                });
            }
            Self::Sll => (data.get(..SLL)?, 14, 5, 6),
            Self::Sll2 => (data.get(..SLL2)?, 0, 11, 12),
        };
        let mut bytes = Vec::with_capacity(ETHERNET + data.len());
        bytes.extend([0; 6]);
        match header[length] {
            6 => bytes.extend(&header[address..address + 6]),
            _ => bytes.extend([0; 6]),
        }
        bytes.extend(&header[protocol..protocol + 2]);
        bytes.extend(&data[header.len()..]);
        Some(Framed {
            raw_ip: false,
            bytes: bytes.into(),
            cooked: Some(header),
        })
    }
}

impl Framed<'_> {
    /// The packet that came out, as a packet of the capture.
    pub fn unframe(&self, out: Vec<u8>) -> Vec<u8> {
        match self.cooked {
            Some(header) => {
                let mut bytes = header.to_vec();
                bytes.extend(out.get(ETHERNET..).unwrap_or_default());
                bytes
            }
            None => out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 4] = [0x45, 1, 2, 3];

    #[test]
    fn cooked_packets_get_an_ethernet_header_and_their_own_back() {
        let sll: Vec<u8> = [0, 0, 0, 1, 0, 6, 10, 11, 12, 13, 14, 15, 0, 0, 8, 0]
            .into_iter()
            .chain(PACKET)
            .collect();
        let sll2: Vec<u8> = [
            8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 10, 11, 12, 13, 14, 15, 0, 0,
        ]
        .into_iter()
        .chain(PACKET)
        .collect();
        for (link, data) in [(Link::Sll, sll), (Link::Sll2, sll2)] {
            let framed = link.frame(&data).unwrap();
            assert!(!framed.raw_ip);
            let expected = [0, 0, 0, 0, 0, 0, 10, 11, 12, 13, 14, 15, 8, 0];
            assert_eq!(framed.bytes[..14], expected, "{link:?}");
            assert_eq!(framed.bytes[14..], PACKET, "{link:?}");
            assert_eq!(framed.unframe(framed.bytes.to_vec()), data, "{link:?}");
            assert_eq!(link.frame(&data[..10]), None);
        }
    }

    #[test]
    fn others_stay_as_they_are() {
        for (link, raw_ip) in [(Link::Ethernet, false), (Link::RawIp, true)] {
            let framed = link.frame(&PACKET).unwrap();
            assert_eq!((framed.raw_ip, &*framed.bytes), (raw_ip, &PACKET[..]));
            assert_eq!(framed.unframe(vec![7]), [7]);
        }
    }

    #[test]
    fn link_types_by_their_numbers() {
        let known = [1, 113, 276, 101, 228, 229].map(|n| Link::of(n).is_some());
        assert_eq!(known, [true; 6]);
        // With the length of a frame check sequence; IEEE 802.11, USB.
        assert_eq!(Link::of(1 | 0x1400_0000), Some(Link::Ethernet));
        assert_eq!([105, 220].map(Link::of), [None, None]);
    }
}
