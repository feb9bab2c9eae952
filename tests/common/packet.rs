//! Packets from a description: by methods in Rust, or as JSON in a fixture.
//!
//! ```
//! use emptcp_test::hosts::Family;
//! use emptcp_test::options::{Dss, Opt};
//! use emptcp_test::packet::{Packet, Tcp};
//!
//! let packet = Packet::new()
//!     .vlan(5)
//!     .tcp(
//!         Tcp::new(40000, 80)
//!             .window(5000)
//!             .opt(Opt::Timestamps(1, 2))
//!             .opt(Opt::Dss(Dss { ack: Some(1), ..Dss::default() })),
//!     )
//!     .payload(100);
//! let built = packet.build(Family::Ip6).unwrap();
//! assert_eq!(built.bytes.len(), 14 + 4 + 40 + 20 + 12 + 8 + 100);
//!
//! let same: Packet = serde_json::from_str(
//!     r#"{ "vlan": [5], "payload": 100, "tcp": { "window": 5000,
//!          "options": [{ "timestamps": [1, 2] }, { "dss": { "ack": 1 } }] } }"#,
//! )
//! .unwrap();
//! assert_eq!(same, packet);
//! ```

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde_json::Value;
use serde_json::json;

use crate::Framing;
use crate::csum;
use crate::hosts::Family;
use crate::hosts::resolve;
use crate::num;
use crate::options::Opt;
use crate::options::Pad;
use crate::options::lay_out;

/// A packet. What is not said has a default: Ethernet, no tag, the same packet
/// in either family from host `a` to host `b`, an ACK from port 40000 to port
/// 80 without options or payload, everything correct.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Packet {
    /// No Ethernet header: the frame begins with IP.
    pub raw_ip: bool,
    /// Ethernet header.
    pub eth: Eth,
    /// VLAN tags, the outer one first. In JSON a number is the id of a tag.
    pub vlan: Vec<Vlan>,
    /// IP header in the family that the test asks for.
    pub ip: Option<Ip>,
    /// IPv4 header: the packet exists in this family only.
    pub ip4: Option<Ip4>,
    /// IPv6 header: the packet exists in this family only.
    pub ip6: Option<Ip6>,
    /// An ARP request instead of IP and all above it.
    pub arp: bool,
    /// TCP header.
    pub tcp: Option<Tcp>,
    /// UDP header, instead of TCP.
    pub udp: Option<Udp>,
    /// Protocol behind IP, with the payload right behind it, instead of TCP.
    #[serde(deserialize_with = "num::opt")]
    pub proto: Option<u8>,
    /// Payload. In JSON a number of bytes (0, 1, 2 …), `{"hex": "…"}` or `{"text": "…"}`.
    pub payload: Payload,
    /// Zeros behind the IP packet until the frame has so many bytes.
    pub pad: Option<usize>,
    /// Cuts the frame, headers unchanged. In JSON a number of bytes, or a
    /// number of bytes behind the begin of a layer, as in `"tcp+19"`.
    pub truncate: Option<Cut>,
}

/// Ethernet header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eth {
    /// Destination.
    #[serde(deserialize_with = "mac")]
    pub dst: [u8; 6],
    /// Source.
    #[serde(deserialize_with = "mac")]
    pub src: [u8; 6],
    /// EtherType behind the tags, when it should not tell the truth.
    #[serde(rename = "type", deserialize_with = "num::opt")]
    pub ethertype: Option<u16>,
}

impl Default for Eth {
    fn default() -> Self {
        Self {
            dst: [2, 0, 0, 0, 0, 2],
            src: [2, 0, 0, 0, 0, 1],
            ethertype: None,
        }
    }
}

/// VLAN tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Vlan {
    /// Id.
    pub id: u16,
    /// Priority.
    pub pcp: u8,
    /// EtherType of the tag: 0x8100, but 0x88a8 for the first of several.
    pub tpid: Option<u16>,
}

/// IP header of a packet that is the same in either family.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ip {
    /// Source; `a`.
    pub src: String,
    /// Destination; `b`.
    pub dst: String,
    /// TTL or hop limit; 64.
    pub ttl: u8,
    /// Type of service or traffic class.
    #[serde(deserialize_with = "num::num")]
    pub tos: u8,
    /// IPv4: options of 8 bytes. IPv6: hop-by-hop and destination options of 8 bytes each.
    pub options: bool,
    /// The packet is this fragment.
    pub fragment: Option<Fragment>,
}

impl Default for Ip {
    fn default() -> Self {
        Self {
            src: "a".into(),
            dst: "b".into(),
            ttl: 64,
            tos: 0,
            options: false,
            fragment: None,
        }
    }
}

/// Place of a fragment. The bytes are those of a whole packet nevertheless: a
/// later fragment has contents that look like a TCP header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fragment {
    /// Offset in bytes, a multiple of 8.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// A checksum. In JSON `"right"`, `"wrong"`, `{"off": 5}` or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// As it should be.
    #[default]
    Right,
    /// As if the data summed to so much more: a change of the packet with an
    /// incremental update of the checksum keeps this difference.
    Off(u16),
    /// This number.
    Is(u16),
}

impl Checksum {
    /// A difference as good as any.
    pub const WRONG: Self = Self::Off(0x1111);

    fn of(self, right: u16) -> u16 {
        match self {
            Self::Right => right,
            Self::Off(by) => !csum::add(!right, by),
            Self::Is(value) => value,
        }
    }
}

/// IPv4 header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ip4 {
    /// Source: a host or an address; `a`.
    pub src: String,
    /// Destination; `b`.
    pub dst: String,
    /// Time to live; 64.
    pub ttl: u8,
    /// Type of service.
    #[serde(deserialize_with = "num::num")]
    pub tos: u8,
    /// Identification.
    #[serde(deserialize_with = "num::num")]
    pub id: u16,
    /// Don't fragment; yes.
    pub df: bool,
    /// The packet is this fragment (DF unset).
    pub fragment: Option<Fragment>,
    /// Options: bytes, or a number of bytes of NOP; filled with zeros to a multiple of four.
    #[serde(deserialize_with = "nops")]
    pub options: Vec<u8>,
    /// Version, when it should not tell the truth.
    pub version: Option<u8>,
    /// Header length in words, likewise.
    pub ihl: Option<u8>,
    /// Total length, likewise.
    pub total_len: Option<u16>,
    /// Protocol, likewise.
    pub proto: Option<u8>,
    /// Header checksum.
    pub checksum: Checksum,
}

impl Default for Ip4 {
    fn default() -> Self {
        Self {
            src: "a".into(),
            dst: "b".into(),
            ttl: 64,
            tos: 0,
            id: 0x1234,
            df: true,
            fragment: None,
            options: Vec::new(),
            version: None,
            ihl: None,
            total_len: None,
            proto: None,
            checksum: Checksum::Right,
        }
    }
}

/// IPv6 header and extension headers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ip6 {
    /// Source: a host or an address; `a`.
    pub src: String,
    /// Destination; `b`.
    pub dst: String,
    /// Hop limit; 64.
    pub ttl: u8,
    /// Traffic class.
    #[serde(deserialize_with = "num::num")]
    pub tos: u8,
    /// Flow label.
    #[serde(deserialize_with = "num::num")]
    pub flow: u32,
    /// Extension headers. In JSON a name stands for its defaults: `["hop", {"dest": {"len": 16}}]`.
    pub ext: Vec<Ext>,
    /// Version, when it should not tell the truth.
    pub version: Option<u8>,
    /// Payload length, likewise.
    pub payload_len: Option<u16>,
    /// Next header of the last header, likewise.
    pub proto: Option<u8>,
}

impl Default for Ip6 {
    fn default() -> Self {
        Self {
            src: "a".into(),
            dst: "b".into(),
            ttl: 64,
            tos: 0,
            flow: 0,
            ext: Vec::new(),
            version: None,
            payload_len: None,
            proto: None,
        }
    }
}

/// An extension header of IPv6.
#[derive(Clone, Debug, PartialEq)]
pub enum Ext {
    /// Hop-by-hop options.
    Hop(Sized),
    /// Destination options.
    Dest(Sized),
    /// Routing header.
    Routing(Routing),
    /// Fragment header; the default is an atomic fragment.
    Fragment(Fragment),
    /// Authentication header.
    Ah(Sized),
    /// Mobility header.
    Mobility(Sized),
    /// No next header: what follows is not read.
    None,
}

/// A header of so many bytes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sized {
    /// Bytes, a multiple of 8; 8, an authentication header 24.
    pub len: Option<usize>,
    /// Length field, when it should not tell the truth.
    pub len_field: Option<u8>,
}

/// Routing header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// Type: 2 (mobile IPv6), 4 (segment routing), 0 (deprecated); 2.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Segments left: unless 0, the destination of TCP's checksum is that of
    /// the last segment, not that of the IPv6 header.
    pub left: u8,
    /// Addresses in the order of the header; `["c"]`.
    pub addrs: Vec<String>,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            kind: 2,
            left: 0,
            addrs: vec!["c".into()],
        }
    }
}

/// TCP header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tcp {
    /// Source port; 40000.
    pub sport: u16,
    /// Destination port; 80.
    pub dport: u16,
    /// Sequence number; 1.
    #[serde(deserialize_with = "num::num")]
    pub seq: u32,
    /// Acknowledgment number; 1.
    #[serde(deserialize_with = "num::num")]
    pub ack: u32,
    /// Flags; A. In JSON letters of F S R P A U E C in any order.
    #[serde(deserialize_with = "tcp_flags")]
    pub flags: u8,
    /// Window field; 512.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options in their order.
    pub options: Vec<Opt>,
    /// Padding of the options.
    pub pad: Pad,
    /// Data offset in words, when it should not tell the truth.
    pub doff: Option<u8>,
    /// Reserved bits (4).
    pub reserved: u8,
    /// Checksum.
    pub checksum: Checksum,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            sport: 40000,
            dport: 80,
            seq: 1,
            ack: 1,
            flags: flags("A").unwrap(),
            window: 512,
            urgent: 0,
            options: Vec::new(),
            pad: Pad::Linux,
            doff: None,
            reserved: 0,
            checksum: Checksum::Right,
        }
    }
}

/// UDP header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Udp {
    /// Source port; 40000.
    pub sport: u16,
    /// Destination port; 53.
    pub dport: u16,
    /// Checksum.
    pub checksum: Checksum,
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            sport: 40000,
            dport: 53,
            checksum: Checksum::Right,
        }
    }
}

/// Payload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload(pub Vec<u8>);

/// Where a frame is cut.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// So many bytes of the frame are left.
    At(usize),
    /// So many bytes from the begin of this layer on are left.
    Behind(Layer, usize),
}

/// A layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// First VLAN tag.
    Vlan,
    /// IP header.
    Ip,
    /// First extension header, or options of IPv4.
    Ext,
    /// Header behind IP.
    Tcp,
    /// TCP options.
    Options,
    /// Payload.
    Payload,
}

/// A packet as bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// The frame.
    pub bytes: Vec<u8>,
    /// What it begins with.
    pub framing: Framing,
    /// Where its layers begin, before it was cut.
    pub layers: Layers,
}

/// Offsets of layers in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// First VLAN tag, or what follows the Ethernet header.
    pub vlan: usize,
    /// IP header.
    pub ip: usize,
    /// First extension header, or options of IPv4, or the header behind IP.
    pub ext: usize,
    /// Header behind IP.
    pub tcp: usize,
    /// TCP options, or the end of the TCP header without options.
    pub options: usize,
    /// Payload.
    pub payload: usize,
}

/// TCP flags from letters: F S R P A U E C.
pub fn flags(letters: &str) -> Result<u8, String> {
    letters.chars().try_fold(0, |flags, letter| {
        "FSRPAUEC"
            .find(letter)
            .map(|bit| flags | 1 << bit)
            .ok_or_else(|| format!("expected letters of FSRPAUEC, found {letters:?}"))
    })
}

fn tcp_flags<'de, D: Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    flags(&String::deserialize(d)?).map_err(D::Error::custom)
}

fn mac<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 6], D::Error> {
    num::hex(d)?
        .try_into()
        .map_err(|_| D::Error::custom("expected a MAC address of 6 bytes"))
}

fn nops<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    match Value::deserialize(d)? {
        Value::Number(n) if n.as_u64().is_some_and(|n| n <= 40) => {
            Ok(vec![1; n.as_u64().unwrap() as usize])
        }
        Value::String(s) => num::parse_hex(&s).map_err(D::Error::custom),
        other => Err(D::Error::custom(format!(
            "expected hexadecimal digits or a number of NOPs up to 40, found {other}"
        ))),
    }
}

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Tag {
            id: u16,
            #[serde(default)]
            pcp: u8,
            #[serde(default, deserialize_with = "num::opt")]
            tpid: Option<u16>,
        }
        let value = match Value::deserialize(d)? {
            Value::Number(id) => json!({ "id": id }),
            other => other,
        };
        let tag = Tag::deserialize(value).map_err(D::Error::custom)?;
        Ok(Self {
            id: tag.id,
            pcp: tag.pcp,
            tpid: tag.tpid,
        })
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(d)?;
        match &value {
            Value::String(s) if s == "right" => return Ok(Self::Right),
            Value::String(s) if s == "wrong" => return Ok(Self::WRONG),
            _ => {}
        }
        match value.get("off") {
            Some(by) => num::num(by).map(Self::Off),
            None => num::num(&value).map(Self::Is),
        }
        .map_err(|e| D::Error::custom(format!("{e}, \"right\", \"wrong\" or {{\"off\": n}}")))
    }
}

impl<'de> Deserialize<'de> for Ext {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Header {
            Hop(Sized),
            Dest(Sized),
            Routing(Routing),
            Fragment(Fragment),
            Ah(Sized),
            Mobility(Sized),
            None {},
        }
        let value = match Value::deserialize(d)? {
            Value::String(name) => json!({ name: {} }),
            other => other,
        };
        Ok(
            match Header::deserialize(value).map_err(D::Error::custom)? {
                Header::Hop(h) => Ext::Hop(h),
                Header::Dest(h) => Ext::Dest(h),
                Header::Routing(h) => Ext::Routing(h),
                Header::Fragment(h) => Ext::Fragment(h),
                Header::Ah(h) => Ext::Ah(h),
                Header::Mobility(h) => Ext::Mobility(h),
                Header::None {} => Ext::None,
            },
        )
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Bytes {
            #[serde(deserialize_with = "num::hex")]
            Hex(Vec<u8>),
            Text(String),
        }
        match Value::deserialize(d)? {
            Value::Number(n) => num::num(Value::Number(n)).map(|n: u16| Self::counting(n.into())),
            other => Bytes::deserialize(other).map(|bytes| match bytes {
                Bytes::Hex(bytes) => Self(bytes),
                Bytes::Text(text) => Self(text.into_bytes()),
            }),
        }
        .map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Cut {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(d)?;
        if let Some(n) = value.as_u64() {
            return Ok(Self::At(n as usize));
        }
        let behind = || {
            let (layer, n) = value.as_str()?.split_once('+')?;
            let layer = match layer {
                "vlan" => Layer::Vlan,
                "ip" => Layer::Ip,
                "ext" => Layer::Ext,
                "tcp" => Layer::Tcp,
                "options" => Layer::Options,
                "payload" => Layer::Payload,
                _ => return None,
            };
            Some(Self::Behind(layer, n.parse().ok()?))
        };
        behind().ok_or_else(|| {
            D::Error::custom(format!(
                "expected a number of bytes or vlan|ip|ext|tcp|options|payload+n, found {value}"
            ))
        })
    }
}

impl Payload {
    /// Bytes 0, 1, 2 … 255, 0 …
    pub fn counting(len: usize) -> Self {
        Self((0..len).map(|i| i as u8).collect())
    }
}

impl From<usize> for Payload {
    fn from(len: usize) -> Self {
        Self::counting(len)
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Vlan {
    /// A tag with this id.
    pub fn new(id: u16) -> Self {
        Self {
            id,
            pcp: 0,
            tpid: None,
        }
    }
}

impl Tcp {
    /// An ACK between two ports.
    pub fn new(sport: u16, dport: u16) -> Self {
        Self {
            sport,
            dport,
            ..Self::default()
        }
    }

    /// Flags, as letters of FSRPAUEC.
    #[must_use]
    pub fn flags(mut self, letters: &str) -> Self {
        self.flags = flags(letters).unwrap();
        self
    }

    /// Sequence and acknowledgment number.
    #[must_use]
    pub fn seq(mut self, seq: u32, ack: u32) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }

    /// Window field.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// One more option.
    #[must_use]
    pub fn opt(mut self, option: Opt) -> Self {
        self.options.push(option);
        self
    }

    /// Padding of the options.
    #[must_use]
    pub fn pad(mut self, pad: Pad) -> Self {
        self.pad = pad;
        self
    }

    /// Data offset, in words.
    #[must_use]
    pub fn doff(mut self, doff: u8) -> Self {
        self.doff = Some(doff);
        self
    }

    /// Checksum.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    fn bytes(&self, family: Family) -> Result<Vec<u8>, String> {
        let options = lay_out(&self.options, self.pad, family)?;
        if options.len() > 40 && self.doff.is_none() {
            return Err(format!(
                "tcp.options: {} bytes of at most 40",
                options.len()
            ));
        }
        let doff = self.doff.unwrap_or(5 + options.len() as u8 / 4);
        let mut bytes = Vec::new();
        bytes.extend(self.sport.to_be_bytes());
        bytes.extend(self.dport.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([doff << 4 | self.reserved & 0x0f, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(options);
        Ok(bytes)
    }
}

/// Bytes of the headers below TCP, and what TCP's checksum needs to know.
struct Network {
    header: Vec<u8>,
    /// Length without options and extension headers.
    fixed: usize,
    ethertype: u16,
    src: IpAddr,
    /// Destination, the final one.
    dst: IpAddr,
}

fn fragment_word(fragment: &Fragment) -> Result<u16, String> {
    if !fragment.offset.is_multiple_of(8) {
        return Err(format!(
            "fragment.offset: {} is no multiple of 8",
            fragment.offset
        ));
    }
    Ok(fragment.offset)
}

impl Ip {
    fn lower4(&self) -> Ip4 {
        Ip4 {
            src: self.src.clone(),
            dst: self.dst.clone(),
            ttl: self.ttl,
            tos: self.tos,
            options: vec![1; if self.options { 8 } else { 0 }],
            fragment: self.fragment.clone(),
            ..Ip4::default()
        }
    }

    fn lower6(&self) -> Ip6 {
        let mut ext = Vec::new();
        if self.options {
            ext.push(Ext::Hop(Sized::default()));
        }
        ext.extend(self.fragment.clone().map(Ext::Fragment));
        if self.options {
            ext.push(Ext::Dest(Sized::default()));
        }
        Ip6 {
            src: self.src.clone(),
            dst: self.dst.clone(),
            ttl: self.ttl,
            tos: self.tos,
            ext,
            ..Ip6::default()
        }
    }
}

impl Ip4 {
    fn network(&self, proto: u8, behind: usize) -> Result<Network, String> {
        let v4 = |host: &str| match resolve(host, Family::Ip4)? {
            IpAddr::V4(v4) => Ok::<Ipv4Addr, String>(v4),
            IpAddr::V6(_) => unreachable!("family of the result is that of the call"),
        };
        let (src, dst) = (v4(&self.src)?, v4(&self.dst)?);
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        if options.len() > 40 {
            return Err(format!(
                "ip4.options: {} bytes of at most 40",
                options.len()
            ));
        }
        let len = 20 + options.len();
        let total_len = match self.total_len {
            Some(len) => len,
            None => u16::try_from(len + behind).map_err(|_| "payload: too long for IPv4")?,
        };
        let fragment = match &self.fragment {
            Some(f) => (u16::from(f.more) << 13) | (fragment_word(f)? / 8),
            None => u16::from(self.df) << 14,
        };
        let mut header = vec![
            self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(len as u8 / 4) & 0x0f,
            self.tos,
        ];
        header.extend(total_len.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.proto.unwrap_or(proto), 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(options);
        let checksum = self.checksum.of(csum::of(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        Ok(Network {
            header,
            fixed: 20,
            ethertype: 0x0800,
            src: src.into(),
            dst: dst.into(),
        })
    }
}

impl Ext {
    fn number(&self) -> u8 {
        match self {
            Ext::Hop(_) => 0,
            Ext::Routing(_) => 43,
            Ext::Fragment(_) => 44,
            Ext::Ah(_) => 51,
            Ext::None => 59,
            Ext::Dest(_) => 60,
            Ext::Mobility(_) => 135,
        }
    }

    fn bytes(&self, next: u8) -> Result<Vec<u8>, String> {
        let sized = |h: &Sized, default: usize| {
            let len = h.len.unwrap_or(default);
            if !len.is_multiple_of(8) || !(8..=2048).contains(&len) {
                return Err(format!(
                    "ip6.ext: length {len} is no multiple of 8 from 8 to 2048"
                ));
            }
            Ok(len)
        };
        Ok(match self {
            Ext::Hop(h) | Ext::Dest(h) => {
                let len = sized(h, 8)?;
                let mut bytes = vec![next, h.len_field.unwrap_or((len / 8 - 1) as u8)];
                // One PadN option after the other, each of at most 255 bytes of data.
                while bytes.len() < len {
                    match (len - bytes.len()).min(257) {
                        1 => bytes.push(0),
                        n => {
                            bytes.extend([1, (n - 2) as u8]);
                            bytes.resize(bytes.len() + n - 2, 0);
                        }
                    }
                }
                bytes
            }
            Ext::Ah(h) => {
                let len = sized(h, 24)?;
                let mut bytes = vec![next, h.len_field.unwrap_or((len / 4 - 2) as u8), 0, 0];
                bytes.extend(1u32.to_be_bytes());
                bytes.resize(len, 0xaa);
                bytes
            }
            Ext::Mobility(h) => {
                let len = sized(h, 8)?;
                let mut bytes = vec![next, h.len_field.unwrap_or((len / 8 - 1) as u8)];
                bytes.resize(len, 0);
                bytes
            }
            Ext::Routing(h) => {
                let mut bytes = vec![next, 2 * h.addrs.len() as u8, h.kind, h.left];
                let last = (h.addrs.len() as u8).saturating_sub(1);
                bytes.extend(if h.kind == 4 { [last, 0, 0, 0] } else { [0; 4] });
                for addr in &h.addrs {
                    bytes.extend(v6(addr)?.octets());
                }
                bytes
            }
            Ext::Fragment(f) => {
                let word = fragment_word(f)? | u16::from(f.more);
                let mut bytes = vec![next, 0];
                bytes.extend(word.to_be_bytes());
                bytes.extend(0x1234u32.to_be_bytes());
                bytes
            }
            Ext::None => Vec::new(),
        })
    }
}

fn v6(host: &str) -> Result<Ipv6Addr, String> {
    match resolve(host, Family::Ip6)? {
        IpAddr::V6(v6) => Ok(v6),
        IpAddr::V4(_) => unreachable!("family of the result is that of the call"),
    }
}

impl Ip6 {
    fn network(&self, proto: u8, behind: usize) -> Result<Network, String> {
        let (src, dst) = (v6(&self.src)?, v6(&self.dst)?);
        let mut ext = Vec::new();
        let mut last = dst;
        for (i, header) in self.ext.iter().enumerate() {
            let next = match self.ext.get(i + 1) {
                Some(next) => next.number(),
                None => self.proto.unwrap_or(proto),
            };
            ext.extend(header.bytes(next)?);
            if let Ext::Routing(h) = header
                && h.left > 0
            {
                // Segment routing lists the segments from the last one on.
                let addr = if h.kind == 4 {
                    h.addrs.first()
                } else {
                    h.addrs.last()
                };
                last = v6(addr.ok_or("ip6.ext: segments left, but no address")?)?;
            }
        }
        let first = self.ext.first().map(Ext::number);
        let payload_len = match self.payload_len {
            Some(len) => len,
            None => u16::try_from(ext.len() + behind).map_err(|_| "payload: too long for IPv6")?,
        };
        let version = u32::from(self.version.unwrap_or(6));
        let word = version << 28 | u32::from(self.tos) << 20 | self.flow & 0xf_ffff;
        let mut header = word.to_be_bytes().to_vec();
        header.extend(payload_len.to_be_bytes());
        header.extend([first.unwrap_or(self.proto.unwrap_or(proto)), self.ttl]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(ext);
        Ok(Network {
            header,
            fixed: 40,
            ethertype: 0x86dd,
            src: src.into(),
            dst: last.into(),
        })
    }
}

impl Packet {
    /// A packet that has every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// No Ethernet header.
    #[must_use]
    pub fn raw_ip(mut self) -> Self {
        self.raw_ip = true;
        self
    }

    /// One more VLAN tag, inside of those before.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan.push(Vlan::new(id));
        self
    }

    /// Source and destination host, in either family.
    #[must_use]
    pub fn hosts(mut self, src: &str, dst: &str) -> Self {
        let ip = self.ip.get_or_insert_default();
        (ip.src, ip.dst) = (src.into(), dst.into());
        self
    }

    /// IP header of either family.
    #[must_use]
    pub fn ip(mut self, ip: Ip) -> Self {
        self.ip = Some(ip);
        self
    }

    /// IPv4 header.
    #[must_use]
    pub fn ip4(mut self, ip4: Ip4) -> Self {
        self.ip4 = Some(ip4);
        self
    }

    /// IPv6 header.
    #[must_use]
    pub fn ip6(mut self, ip6: Ip6) -> Self {
        self.ip6 = Some(ip6);
        self
    }

    /// TCP header.
    #[must_use]
    pub fn tcp(mut self, tcp: Tcp) -> Self {
        self.tcp = Some(tcp);
        self
    }

    /// UDP header instead of TCP.
    #[must_use]
    pub fn udp(mut self, sport: u16, dport: u16) -> Self {
        self.udp = Some(Udp {
            sport,
            dport,
            checksum: Checksum::Right,
        });
        self
    }

    /// Payload: a number of bytes, or the bytes.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Zeros behind the IP packet until the frame has so many bytes.
    #[must_use]
    pub fn pad(mut self, len: usize) -> Self {
        self.pad = Some(len);
        self
    }

    /// Cuts the frame to so many bytes.
    #[must_use]
    pub fn truncate(mut self, len: usize) -> Self {
        self.truncate = Some(Cut::At(len));
        self
    }

    /// Families in which the packet exists.
    pub fn families(&self) -> Vec<Family> {
        match (&self.ip4, &self.ip6) {
            (Some(_), _) => vec![Family::Ip4],
            (None, Some(_)) => vec![Family::Ip6],
            (None, None) if self.arp => vec![Family::Ip4],
            (None, None) => Family::ALL.to_vec(),
        }
    }

    /// The TCP header, when there is one.
    pub fn tcp_header(&self) -> Option<Tcp> {
        let other = self.udp.is_some() || self.proto.is_some() || self.arp;
        (!other).then(|| self.tcp.clone().unwrap_or_default())
    }

    /// Source, destination, TTL and type of service of the IP header.
    pub(crate) fn addresses(
        &self,
        family: Family,
    ) -> (Result<IpAddr, String>, Result<IpAddr, String>, u8, u8) {
        let default = Ip::default();
        let (src, dst, ttl, tos) = match (&self.ip4, &self.ip6, &self.ip) {
            (Some(ip), _, _) => (&ip.src, &ip.dst, ip.ttl, ip.tos),
            (_, Some(ip), _) => (&ip.src, &ip.dst, ip.ttl, ip.tos),
            (_, _, ip) => {
                let ip = ip.as_ref().unwrap_or(&default);
                (&ip.src, &ip.dst, ip.ttl, ip.tos)
            }
        };
        (resolve(src, family), resolve(dst, family), ttl, tos)
    }

    fn check(&self) -> Result<(), String> {
        let headers = [
            self.ip.is_some(),
            self.ip4.is_some(),
            self.ip6.is_some(),
            self.arp,
        ];
        if headers.into_iter().filter(|h| *h).count() > 1 {
            return Err("ip, ip4, ip6 and arp exclude each other".into());
        }
        let headers = [
            self.tcp.is_some(),
            self.udp.is_some(),
            self.proto.is_some(),
            self.arp,
        ];
        if headers.into_iter().filter(|h| *h).count() > 1 {
            return Err("tcp, udp, proto and arp exclude each other".into());
        }
        if self.raw_ip && (!self.vlan.is_empty() || self.eth != Eth::default() || self.arp) {
            return Err("raw_ip excludes eth, vlan and arp".into());
        }
        Ok(())
    }

    /// Bytes of the packet in a family.
    pub fn build(&self, family: Family) -> Result<Built, String> {
        self.check()?;
        if !self.families().contains(&family) {
            return Err(format!("the packet does not exist as {}", family.name()));
        }
        // Header behind IP, with a checksum of zero; where the checksum is.
        let (proto, mut upper, fixed) = if let Some(tcp) = self.tcp_header() {
            (6, tcp.bytes(family)?, 20)
        } else if let Some(udp) = &self.udp {
            let len = (8 + self.payload.0.len()) as u16;
            let fields = [udp.sport, udp.dport, len, 0];
            (
                17,
                fields.into_iter().flat_map(u16::to_be_bytes).collect(),
                8,
            )
        } else {
            (self.proto.unwrap_or(0), Vec::new(), 0)
        };
        let header_len = upper.len();
        if !self.arp {
            upper.extend(&self.payload.0);
        }

        let mut network = if self.arp {
            arp()
        } else if let Some(ip4) = &self.ip4 {
            ip4.network(proto, upper.len())?
        } else if let Some(ip6) = &self.ip6 {
            ip6.network(proto, upper.len())?
        } else {
            let ip = self.ip.clone().unwrap_or_default();
            match family {
                Family::Ip4 => ip.lower4().network(proto, upper.len())?,
                Family::Ip6 => ip.lower6().network(proto, upper.len())?,
            }
        };

        let checksum = match (self.tcp_header(), &self.udp) {
            (Some(tcp), _) => Some((16, tcp.checksum)),
            (None, Some(udp)) => Some((6, udp.checksum)),
            (None, None) => None,
        };
        if let Some((at, checksum)) = checksum {
            let right = csum::transport(network.src, network.dst, proto, &upper);
            let value = match checksum.of(right) {
                0 if self.udp.is_some() && checksum == Checksum::Right => 0xffff,
                value => value,
            };
            upper[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }

        let mut bytes = Vec::new();
        let mut layers = Layers::default();
        if !self.raw_ip {
            bytes.extend(self.eth.dst);
            bytes.extend(self.eth.src);
            layers.vlan = 14;
            for (i, tag) in self.vlan.iter().enumerate() {
                let several = i == 0 && self.vlan.len() > 1;
                let tpid = tag.tpid.unwrap_or(if several { 0x88a8 } else { 0x8100 });
                bytes.extend(tpid.to_be_bytes());
                bytes.extend((u16::from(tag.pcp) << 13 | tag.id & 0x0fff).to_be_bytes());
            }
            bytes.extend(
                self.eth
                    .ethertype
                    .unwrap_or(network.ethertype)
                    .to_be_bytes(),
            );
        }
        layers.ip = bytes.len();
        layers.ext = layers.ip + network.fixed;
        bytes.append(&mut network.header);
        layers.tcp = bytes.len();
        layers.options = layers.tcp + fixed;
        layers.payload = layers.tcp + header_len;
        bytes.append(&mut upper);
        if let Some(len) = self.pad
            && bytes.len() < len
        {
            bytes.resize(len, 0);
        }
        if let Some(cut) = &self.truncate {
            let len = match cut {
                Cut::At(len) => *len,
                Cut::Behind(layer, n) => n + layers.of(*layer),
            };
            if len > bytes.len() {
                return Err(format!("truncate: {len} bytes of {}", bytes.len()));
            }
            bytes.truncate(len);
        }
        let framing = if self.raw_ip {
            Framing::RawIp
        } else {
            Framing::Ethernet
        };
        Ok(Built {
            bytes,
            framing,
            layers,
        })
    }

    /// Whether nothing in the packet was made wrong on purpose, so that any
    /// decoder has to find what the description says.
    pub fn is_well_formed(&self) -> bool {
        let Some(tcp) = self.tcp_header() else {
            return false;
        };
        let whole = |f: &Option<Fragment>| f.as_ref().is_none_or(|f| f.offset == 0 && !f.more);
        let sized = |h: &Sized| h.len_field.is_none();
        self.truncate.is_none()
            && self.eth.ethertype.is_none()
            && self.vlan.len() <= 2
            && tcp.doff.is_none()
            && tcp.reserved == 0
            && tcp.checksum == Checksum::Right
            && tcp.options.iter().all(Opt::is_well_formed)
            && self.ip.as_ref().is_none_or(|ip| whole(&ip.fragment))
            && self.ip4.as_ref().is_none_or(|ip| {
                whole(&ip.fragment)
                    && ip.version.or(ip.ihl).or(ip.proto).is_none()
                    && ip.total_len.is_none()
                    && ip.checksum == Checksum::Right
            })
            && self.ip6.as_ref().is_none_or(|ip| {
                ip.version.or(ip.proto).is_none()
                    && ip.payload_len.is_none()
                    && ip.ext.iter().all(|ext| match ext {
                        Ext::Hop(h) | Ext::Dest(h) | Ext::Ah(h) => sized(h),
                        Ext::Fragment(f) => f.offset == 0 && !f.more,
                        Ext::Routing(_) => true,
                        Ext::Mobility(_) | Ext::None => false,
                    })
            })
    }
}

impl Layers {
    fn of(&self, layer: Layer) -> usize {
        match layer {
            Layer::Vlan => self.vlan,
            Layer::Ip => self.ip,
            Layer::Ext => self.ext,
            Layer::Tcp => self.tcp,
            Layer::Options => self.options,
            Layer::Payload => self.payload,
        }
    }
}

/// Who has `b`, asks `a`.
fn arp() -> Network {
    let mut header = vec![0, 1, 8, 0, 6, 4, 0, 1];
    header.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    header.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    Network {
        header,
        fixed: 0,
        ethertype: 0x0806,
        src: Ipv4Addr::UNSPECIFIED.into(),
        dst: Ipv4Addr::UNSPECIFIED.into(),
    }
}
