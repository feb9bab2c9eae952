//! TCP options, those of Multipath TCP among them, well-formed or not.

use std::net::IpAddr;

use serde::Deserialize;

use crate::hosts::Family;
use crate::hosts::resolve;
use crate::num;

/// One TCP option. In JSON `"nop"`, `{"mss": 1460}`, `{"dss": {"ack": 1}}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opt {
    /// End of options; one byte.
    Eol,
    /// No operation; one byte.
    Nop,
    /// Maximum segment size.
    Mss(u16),
    /// SACK permitted.
    Sackok,
    /// Window scale.
    Wscale(u8),
    /// Timestamp value and echo reply.
    Timestamps(u32, u32),
    /// SACK blocks, left and right edge each.
    Sack(Vec<(u32, u32)>),
    /// TCP-MD5 with this digest.
    Md5(#[serde(deserialize_with = "num::hex")] Vec<u8>),
    /// MP_CAPABLE of any packet of the handshake: the keys that are given make its size.
    MpCapable(MpCapable),
    /// MP_JOIN on a SYN.
    MpJoinSyn(MpJoinSyn),
    /// MP_JOIN on a SYN/ACK.
    MpJoinSynack(MpJoinSynack),
    /// MP_JOIN on the third ACK: HMAC of 20 bytes.
    MpJoinAck(#[serde(deserialize_with = "num::hex")] Vec<u8>),
    /// DSS: what is given makes its flags and size.
    Dss(Dss),
    /// ADD_ADDR.
    AddAddr(AddAddr),
    /// REMOVE_ADDR with these address ids.
    RemoveAddr(Vec<u8>),
    /// MP_PRIO.
    MpPrio(MpPrio),
    /// MP_FAIL with this data sequence number.
    MpFail(#[serde(deserialize_with = "num::num")] u64),
    /// MP_FASTCLOSE with this key.
    MpFastclose(#[serde(deserialize_with = "num::num")] u64),
    /// MP_TCPRST.
    MpTcprst(MpTcprst),
    /// MP_EXPERIMENTAL: flags (low nibble) and what follows.
    MpExperimental(MpExperimental),
    /// Any kind, any length, any contents: the length need not be true.
    Option(Tlv),
    /// Bytes as they are.
    Raw(#[serde(deserialize_with = "num::hex")] Vec<u8>),
}

/// MP_CAPABLE: 4 bytes without a key, 12 with the sender's, 20 with both, 22 or
/// 24 with length of data and its checksum.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpCapable {
    /// Version of Multipath TCP; 1.
    pub version: u8,
    /// Flags A (0x80) to H (0x01); H.
    #[serde(deserialize_with = "num::num")]
    pub flags: u8,
    /// Key of the sender.
    #[serde(deserialize_with = "num::opt")]
    pub sender_key: Option<u64>,
    /// Key of the receiver.
    #[serde(deserialize_with = "num::opt")]
    pub receiver_key: Option<u64>,
    /// Length of the first data.
    pub data_len: Option<u16>,
    /// Their DSS checksum.
    #[serde(deserialize_with = "num::opt")]
    pub checksum: Option<u16>,
}

impl Default for MpCapable {
    fn default() -> Self {
        Self {
            version: 1,
            flags: 0x01,
            sender_key: None,
            receiver_key: None,
            data_len: None,
            checksum: None,
        }
    }
}

/// MP_JOIN on a SYN.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpJoinSyn {
    /// Flag B.
    pub backup: bool,
    /// Address id.
    pub id: u8,
    /// Token of the receiver.
    #[serde(deserialize_with = "num::num")]
    pub token: u32,
    /// Nonce of the sender.
    #[serde(deserialize_with = "num::num")]
    pub nonce: u32,
}

/// MP_JOIN on a SYN/ACK.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpJoinSynack {
    /// Flag B.
    pub backup: bool,
    /// Address id.
    pub id: u8,
    /// Truncated HMAC.
    #[serde(deserialize_with = "num::num")]
    pub hmac: u64,
    /// Nonce of the sender.
    #[serde(deserialize_with = "num::num")]
    pub nonce: u32,
}

/// DSS. A mapping has `dsn` or `dsn64`, with `ssn` and `len`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dss {
    /// Flag F (DATA_FIN).
    pub fin: bool,
    /// Data ACK of 4 bytes.
    #[serde(deserialize_with = "num::opt")]
    pub ack: Option<u32>,
    /// Data ACK of 8 bytes.
    #[serde(deserialize_with = "num::opt")]
    pub ack64: Option<u64>,
    /// Data sequence number of 4 bytes.
    #[serde(deserialize_with = "num::opt")]
    pub dsn: Option<u32>,
    /// Data sequence number of 8 bytes.
    #[serde(deserialize_with = "num::opt")]
    pub dsn64: Option<u64>,
    /// Subflow sequence number of the mapping.
    #[serde(deserialize_with = "num::num")]
    pub ssn: u32,
    /// Length of the mapping.
    pub len: u16,
    /// Checksum of the mapping.
    #[serde(deserialize_with = "num::opt")]
    pub checksum: Option<u16>,
}

/// ADD_ADDR.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddAddr {
    /// Version of Multipath TCP; 1.
    pub version: u8,
    /// Flag E (version 1): no HMAC.
    pub echo: bool,
    /// Address id; 1.
    pub id: u8,
    /// A host, whose address has the family of the packet, or an address; `c`.
    pub addr: String,
    /// Port.
    pub port: Option<u16>,
    /// Truncated HMAC (version 1).
    #[serde(deserialize_with = "num::num")]
    pub hmac: u64,
}

impl Default for AddAddr {
    fn default() -> Self {
        Self {
            version: 1,
            echo: false,
            id: 1,
            addr: "c".into(),
            port: None,
            hmac: 0x1122_3344_5566_7788,
        }
    }
}

/// MP_PRIO: 3 bytes, 4 with an address id (version 0).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpPrio {
    /// Flag B.
    pub backup: bool,
    /// Address id.
    pub id: Option<u8>,
}

/// MP_TCPRST.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpTcprst {
    /// Flags U, V, W, T (low nibble).
    #[serde(deserialize_with = "num::num")]
    pub flags: u8,
    /// Reason.
    pub reason: u8,
}

/// MP_EXPERIMENTAL.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MpExperimental {
    /// Flags (low nibble).
    #[serde(deserialize_with = "num::num")]
    pub flags: u8,
    /// What follows the flags.
    #[serde(deserialize_with = "num::hex")]
    pub data: Vec<u8>,
}

/// An option by its bytes: `len` is written as it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tlv {
    /// Kind.
    pub kind: u8,
    /// Length that the option claims.
    pub len: u8,
    /// Bytes behind kind and length.
    #[serde(default, deserialize_with = "num::hex")]
    pub data: Vec<u8>,
}

/// How options are brought to a multiple of four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pad {
    /// As Linux: NOPs before an option, so that it ends on a multiple of four
    /// (SACK permitted shares its word with timestamps), behind one of Multipath TCP.
    #[default]
    Linux,
    /// Options end to end, zeros (EOL) behind the last.
    Eol,
    /// Options end to end, NOPs behind the last.
    Nop,
}

const MPTCP: u8 = 30;

fn tlv(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, data.len() as u8 + 2];
    bytes.extend(data);
    bytes
}

/// Fields of an MPTCP option behind its first two bytes.
struct Fields(Vec<u8>);

impl Fields {
    fn new(subtype: u8, low: u8, second: u8) -> Self {
        Self(vec![subtype << 4 | low & 0x0f, second])
    }

    fn add<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn add_opt<const N: usize>(self, bytes: Option<[u8; N]>) -> Self {
        match bytes {
            Some(bytes) => self.add(bytes),
            None => self,
        }
    }

    fn end(self) -> Vec<u8> {
        tlv(MPTCP, &self.0)
    }
}

impl Opt {
    /// Bytes of the option, without padding, in a packet of this family.
    pub fn encode(&self, family: Family) -> Result<Vec<u8>, String> {
        Ok(match self {
            Opt::Eol => vec![0],
            Opt::Nop => vec![1],
            Opt::Mss(mss) => tlv(2, &mss.to_be_bytes()),
            Opt::Wscale(shift) => tlv(3, &[*shift]),
            Opt::Sackok => tlv(4, &[]),
            Opt::Sack(blocks) => {
                let edges = blocks.iter().flat_map(|(l, r)| [*l, *r]);
                tlv(5, &edges.flat_map(u32::to_be_bytes).collect::<Vec<_>>())
            }
            Opt::Timestamps(value, echo) => {
                tlv(8, &[value.to_be_bytes(), echo.to_be_bytes()].concat())
            }
            Opt::Md5(digest) => tlv(19, digest),
            Opt::MpCapable(o) => Fields::new(0, o.version, o.flags)
                .add_opt(o.sender_key.map(u64::to_be_bytes))
                .add_opt(o.receiver_key.map(u64::to_be_bytes))
                .add_opt(o.data_len.map(u16::to_be_bytes))
                .add_opt(o.checksum.map(u16::to_be_bytes))
                .end(),
            Opt::MpJoinSyn(o) => Fields::new(1, o.backup.into(), o.id)
                .add(o.token.to_be_bytes())
                .add(o.nonce.to_be_bytes())
                .end(),
            Opt::MpJoinSynack(o) => Fields::new(1, o.backup.into(), o.id)
                .add(o.hmac.to_be_bytes())
                .add(o.nonce.to_be_bytes())
                .end(),
            Opt::MpJoinAck(hmac) => tlv(MPTCP, &[&[0x10, 0], hmac.as_slice()].concat()),
            Opt::Dss(o) => o.encode()?,
            Opt::AddAddr(o) => o.encode(family)?,
            Opt::RemoveAddr(ids) => tlv(MPTCP, &[&[0x40], ids.as_slice()].concat()),
            Opt::MpPrio(o) => {
                let first = 0x50 | u8::from(o.backup);
                match o.id {
                    None => tlv(MPTCP, &[first]),
                    Some(id) => tlv(MPTCP, &[first, id]),
                }
            }
            Opt::MpFail(dsn) => Fields::new(6, 0, 0).add(dsn.to_be_bytes()).end(),
            Opt::MpFastclose(key) => Fields::new(7, 0, 0).add(key.to_be_bytes()).end(),
            Opt::MpTcprst(o) => Fields::new(8, o.flags, o.reason).end(),
            Opt::MpExperimental(o) => tlv(
                MPTCP,
                &[&[0xf0 | o.flags & 0x0f], o.data.as_slice()].concat(),
            ),
            Opt::Option(o) => [&[o.kind, o.len], o.data.as_slice()].concat(),
            Opt::Raw(bytes) => bytes.clone(),
        })
    }

    /// Subtype, when this is a well-formed option of Multipath TCP.
    pub fn subtype(&self) -> Option<u8> {
        Some(match self {
            Opt::MpCapable(_) => 0,
            Opt::MpJoinSyn(_) | Opt::MpJoinSynack(_) | Opt::MpJoinAck(_) => 1,
            Opt::Dss(_) => 2,
            Opt::AddAddr(_) => 3,
            Opt::RemoveAddr(_) => 4,
            Opt::MpPrio(_) => 5,
            Opt::MpFail(_) => 6,
            Opt::MpFastclose(_) => 7,
            Opt::MpTcprst(_) => 8,
            Opt::MpExperimental(_) => 15,
            _ => return None,
        })
    }

    /// Neither written by its bytes nor an end of options.
    pub fn is_well_formed(&self) -> bool {
        !matches!(self, Opt::Option(_) | Opt::Raw(_) | Opt::Eol)
    }
}

impl Dss {
    fn encode(&self) -> Result<Vec<u8>, String> {
        if self.ack.is_some() && self.ack64.is_some() || self.dsn.is_some() && self.dsn64.is_some()
        {
            return Err("dss: a number of 4 bytes and one of 8 exclude each other".into());
        }
        let map = self.dsn.is_some() || self.dsn64.is_some();
        let flags = u8::from(self.ack.is_some() || self.ack64.is_some())
            | u8::from(self.ack64.is_some()) << 1
            | u8::from(map) << 2
            | u8::from(self.dsn64.is_some()) << 3
            | u8::from(self.fin) << 4;
        Ok(Fields::new(2, 0, flags)
            .add_opt(self.ack.map(u32::to_be_bytes))
            .add_opt(self.ack64.map(u64::to_be_bytes))
            .add_opt(self.dsn.map(u32::to_be_bytes))
            .add_opt(self.dsn64.map(u64::to_be_bytes))
            .add_opt(map.then(|| self.ssn.to_be_bytes()))
            .add_opt(map.then(|| self.len.to_be_bytes()))
            .add_opt(self.checksum.map(u16::to_be_bytes))
            .end())
    }
}

impl AddAddr {
    fn encode(&self, family: Family) -> Result<Vec<u8>, String> {
        let addr = match self.addr.parse() {
            Ok(literal) => literal,
            Err(_) => resolve(&self.addr, family)?,
        };
        let low = match (self.version, addr) {
            (0, IpAddr::V4(_)) => 4,
            (0, IpAddr::V6(_)) => 6,
            _ => u8::from(self.echo),
        };
        let fields = Fields::new(3, low, self.id);
        let fields = match addr {
            IpAddr::V4(v4) => fields.add(v4.octets()),
            IpAddr::V6(v6) => fields.add(v6.octets()),
        };
        let hmac = self.version > 0 && !self.echo;
        Ok(fields
            .add_opt(self.port.map(u16::to_be_bytes))
            .add_opt(hmac.then(|| self.hmac.to_be_bytes()))
            .end())
    }
}

/// The options area: options and their padding.
pub fn lay_out(options: &[Opt], pad: Pad, family: Family) -> Result<Vec<u8>, String> {
    let mut area = Vec::new();
    let mut ended = false;
    for (i, option) in options.iter().enumerate() {
        let bytes = option.encode(family)?;
        if pad == Pad::Linux {
            let shares_word = matches!(
                (option, options.get(i + 1)),
                (Opt::Sackok, Some(Opt::Timestamps(..)))
            );
            let before = match option {
                Opt::Mss(_)
                | Opt::Wscale(_)
                | Opt::Sackok
                | Opt::Sack(_)
                | Opt::Timestamps(..)
                | Opt::Md5(_)
                    if !shares_word =>
                {
                    (area.len() + bytes.len()).wrapping_neg() % 4
                }
                _ if option.subtype().is_some() => area.len().wrapping_neg() % 4,
                _ => 0,
            };
            area.resize(area.len() + before, 1);
        }
        ended |= *option == Opt::Eol;
        area.extend(bytes);
    }
    let fill = if pad == Pad::Eol || ended { 0 } else { 1 };
    area.resize(area.len().next_multiple_of(4), fill);
    Ok(area)
}
