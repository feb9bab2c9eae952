//! Packets that steps copy to user space (`include/emptcp/ring.h`): records of the
//! ring, and what is written of them. Pure.

mod headers;
mod pcapng;
mod text;

pub(crate) use self::pcapng::Pcapng;
pub(crate) use self::pcapng::Stats;
pub(crate) use self::text::line;
pub(crate) use self::text::object;

use std::borrow::Cow;

use crate::abi;
use crate::module::Hook;

/// Bytes of the two addresses of an Ethernet header, behind which VLAN tags are.
const MACS: usize = 12;

/// A packet, as far as it was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When, in nanoseconds since 1970 (UTC).
    pub time: u64,
    /// Number of the step that copied it.
    pub step: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// Zone of the chain.
    pub zone: u32,
    /// Where the chain runs.
    pub hook: Hook,
    /// It begins with an IP header.
    pub raw_ip: bool,
    /// Bytes that it has (a GSO or GRO packet: with one set of headers).
    pub len: u32,
    /// Packets on the wire that it stands for.
    pub segments: u16,
    /// Payload of each of them but the last, 0 where it is one.
    pub segment_size: u16,
    /// Offset of the IP header, which is of version 4 or 6.
    pub ip_off: usize,
    /// 4 or 6.
    pub ip_version: u8,
    /// Offset of the TCP header.
    pub tcp_off: usize,
    /// Keys and HMACs are zero.
    pub no_keys: bool,
    /// Its first bytes.
    pub bytes: Cow<'a, [u8]>,
}

/// Where a step is in the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of its chain.
    pub chain: String,
    /// Place, beginning with the chain (`watch/act[0]`).
    pub step: String,
}

impl<'a> Packet<'a> {
    /// A record of the ring; `None` where it is of another type, or cannot be read. `epoch`: when
    /// `CLOCK_BOOTTIME` was 0, in nanoseconds since 1970.
    pub(crate) fn parse(record: &'a [u8], epoch: u64) -> Option<Self> {
        let mut raw = abi::RingPacket::default();
        plain::copy_from_bytes(&mut raw, record).ok()?;
        let head = &raw.head;
        if head.version != abi::RING_VERSION || head.r#type != abi::RING_PACKET {
            return None;
        }
        let start = usize::from(head.size);
        let bytes = record.get(start..start.checked_add(raw.captured as usize)?)?;
        let mut packet = Self {
            time: epoch.wrapping_add(head.time),
            step: head.step,
            ifindex: head.ifindex,
            zone: head.zone,
            hook: abi::hook_of(head.hook)?,
            raw_ip: head.framing == abi::Framing::Ip.number(),
            len: raw.len,
            segments: raw.segments,
            segment_size: raw.segment_size,
            ip_off: raw.ip_off.into(),
            ip_version: raw.ip_version,
            tcp_off: raw.tcp_off.into(),
            no_keys: raw.flags & abi::RING_NO_KEYS != 0,
            bytes: Cow::Borrowed(bytes),
        };
        if raw.vlan_proto != 0 {
            packet.put_tag_back(u16::from_be(raw.vlan_proto), raw.vlan_tci);
        }
        Some(packet)
    }

    /// Puts a VLAN tag where it was on the wire.
    fn put_tag_back(&mut self, proto: u16, tci: u16) {
        if self.raw_ip || self.bytes.len() < MACS {
            return;
        }
        let mut tag = proto.to_be_bytes().to_vec();
        tag.extend(tci.to_be_bytes());
        let size = tag.len();
        self.bytes.to_mut().splice(MACS..MACS, tag);
        self.len += size as u32;
        self.ip_off += size;
        self.tcp_off += size;
    }

    /// It leaves through the interface.
    fn is_outbound(&self) -> bool {
        self.hook == Hook::TcEgress
    }
}

/// `src`, or the number of a step that is gone.
pub(crate) fn source_name(source: Option<&Source>, step: u32) -> Cow<'_, str> {
    match source {
        Some(source) => Cow::Borrowed(&source.step),
        None => Cow::Owned(format!("step {step}, gone")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record as the data plane makes it, of bytes that begin with Ethernet and IPv4.
    pub(crate) fn record(bytes: &[u8], change: impl FnOnce(&mut abi::RingPacket)) -> Vec<u8> {
        let mut raw = abi::RingPacket {
            len: 1000,
            captured: bytes.len() as u32,
            segments: 1,
            ip_off: 14,
            ip_version: 4,
            tcp_off: 34,
            ..Default::default()
        };
        raw.head.version = abi::RING_VERSION;
        raw.head.r#type = abi::RING_PACKET;
        raw.head.size = size_of::<abi::RingPacket>() as u16;
        raw.head.step = 3;
        raw.head.time = 7;
        raw.head.ifindex = 2;
        raw.head.hook = abi::hook_number(Hook::TcIngress);
        change(&mut raw);
        [abi::bytes_of(&raw), bytes].concat()
    }

    #[test]
    fn records() {
        let bytes = [9u8; 60];
        let whole = record(&bytes, |_| {});
        let packet = Packet::parse(&whole, 1000).unwrap();
        assert_eq!((packet.time, packet.step, packet.len), (1007, 3, 1000));
        assert_eq!(packet.hook, Hook::TcIngress);
        assert_eq!(packet.bytes, &bytes[..]);
        // A later version has more members; padding of the ring is no byte of the packet.
        let mut longer = record(&[], |raw| {
            raw.head.size += 8;
            raw.captured = 60;
        });
        longer.extend([0xff; 8]);
        longer.extend(bytes);
        longer.extend([0xee; 4]);
        assert_eq!(Packet::parse(&longer, 0).unwrap().bytes, &bytes[..]);
    }

    #[test]
    fn what_is_no_record() {
        let bytes = [9u8; 60];
        assert_eq!(Packet::parse(&[], 0), None);
        assert_eq!(Packet::parse(&record(&bytes, |_| {})[..100], 0), None);
        let changes: [fn(&mut abi::RingPacket); 5] = [
            |raw| raw.head.version = 2,
            |raw| raw.head.r#type = 9,
            |raw| raw.head.size = 0xffff,
            |raw| raw.captured = 0xffff_ffff,
            |raw| raw.head.hook = 9,
        ];
        for change in changes {
            assert_eq!(Packet::parse(&record(&bytes, change), 0), None);
        }
    }

    #[test]
    fn a_tag_that_the_device_took_out_is_put_back() {
        let bytes: Vec<u8> = (0..60).collect();
        let tagged = record(&bytes, |raw| {
            raw.vlan_proto = 0x8100_u16.to_be();
            raw.vlan_tci = 0x2005;
        });
        let packet = Packet::parse(&tagged, 0).unwrap();
        assert_eq!(
            packet.bytes[..18],
            [
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x81, 0, 0x20, 5, 12, 13
            ]
        );
        assert_eq!((packet.len, packet.ip_off, packet.tcp_off), (1004, 18, 38));
    }
}
