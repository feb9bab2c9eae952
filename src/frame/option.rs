//! Options of Multipath TCP that a frame can carry: those that no HMAC vouches for, spelled as the
//! parameters of the actor that puts them into packets.

use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde::Deserialize;

use crate::abi::TrackWay;
use crate::abi::WayFlags;
use crate::policy::nearest;

/// Kind of the options of Multipath TCP (RFC 8684, 8.1).
const KIND: u8 = 30;
const DSS: u8 = 2;
const REMOVE_ADDR: u8 = 4;
const MP_PRIO: u8 = 5;
const MP_FAIL: u8 = 6;
const MP_FASTCLOSE: u8 = 7;
/// Subtypes by name (RFC 8684, 8.2); 9 to 14 are not assigned.
const NAMES: [(&str, u8); 11] = [
    ("remove_addr", REMOVE_ADDR),
    ("mp_prio", MP_PRIO),
    ("mp_fail", MP_FAIL),
    ("mp_fastclose", MP_FASTCLOSE),
    ("subtype_9", 9),
    ("subtype_10", 10),
    ("subtype_11", 11),
    ("subtype_12", 12),
    ("subtype_13", 13),
    ("subtype_14", 14),
    ("mp_experimental", 15),
];
/// The kernel takes so many address ids in one option.
const MOST_IDS: usize = 8;
/// Bytes beside timestamps.
const MOST: usize = 28;

/// An option, whole.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Opt {
    bytes: Vec<u8>,
    /// What it says, without keys.
    text: String,
    /// Bytes 4 to 11 are a key.
    secret: bool,
}

// A key must not get into a message by `{:?}`.
impl std::fmt::Debug for Opt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A number, or one as a text: `"0x…"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

/// As in JSON; which fields belong to which option is looked at later.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    option: String,
    addr_ids: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    number: Option<Number>,
    flags: Option<u8>,
    backup: Option<bool>,
}

impl Opt {
    /// MP_PRIO (RFC 8684, 3.3.8); the four bytes of version 0 are ignored by Linux.
    pub(crate) fn prio(backup: bool) -> Self {
        Self {
            bytes: vec![KIND, 3, MP_PRIO << 4 | u8::from(backup)],
            text: format!("mp_prio {}", if backup { "backup" } else { "no backup" }),
            secret: false,
        }
    }

    /// A data ACK that the direction has had before: for chains the packet is a pure ACK of an
    /// established subflow, and the receiver learns nothing from it. `None`: none is known.
    pub(crate) fn data_ack(way: &TrackWay) -> Option<Self> {
        let is = |flag: WayFlags| u32::from(way.flags) & flag.0 != 0;
        let bytes = match is(WayFlags::EMPTCP_WAY_DATA_ACK64) {
            true => [&[KIND, 12, DSS << 4, 3][..], &way.data_ack.to_be_bytes()].concat(),
            false => [
                &[KIND, 8, DSS << 4, 1][..],
                &(way.data_ack as u32).to_be_bytes(),
            ]
            .concat(),
        };
        is(WayFlags::EMPTCP_WAY_DATA_ACK).then(|| Self {
            bytes,
            text: format!("data ack {}", way.data_ack),
            secret: false,
        })
    }

    /// An option in JSON.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let fields: Fields = serde_json::from_str(json)
            .map_err(|error| anyhow!("the option is not right: {error}"))?;
        let name = fields.option.as_str();
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let Some((name, subtype)) = known.copied() else {
            let hint = nearest(name, NAMES.iter().map(|(name, _)| *name));
            let hint = hint.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            bail!("there is no option {name:?} that can be injected{hint}");
        };
        fields.refuse_others(name, subtype)?;
        match subtype {
            MP_PRIO => Ok(Self::prio(fields.backup.unwrap_or(false))),
            REMOVE_ADDR => {
                let ids = fields.addr_ids.unwrap_or_default();
                if ids.is_empty() || ids.len() > MOST_IDS {
                    bail!(
                        "{name} takes 1 to {MOST_IDS} \"addr_ids\", not {}",
                        ids.len()
                    );
                }
                Ok(Self::of(name, subtype, 0, &ids, &format!("ids {ids:?}")))
            }
            MP_FAIL | MP_FASTCLOSE => {
                let number = match fields.number {
                    Some(number) => number.value()?,
                    None if subtype == MP_FAIL => 0,
                    None => bail!("{name} needs \"number\": the key of the end that receives it"),
                };
                // 12 bits reserved, a number of 64 bits (RFC 8684, 3.5 and 3.7).
                let data = [&[0][..], &number.to_be_bytes()].concat();
                let secret = subtype == MP_FASTCLOSE;
                let text = if secret {
                    "key not shown".to_owned()
                } else {
                    format!("data sequence number {number}")
                };
                Ok(Self {
                    secret,
                    ..Self::of(name, subtype, 0, &data, &text)
                })
            }
            _ => {
                let (flags, data) = (fields.flags.unwrap_or(0), fields.data.unwrap_or_default());
                if flags > 15 {
                    bail!("\"flags\" are four bits, at most 15, not {flags}");
                }
                if data.len() > MOST - 3 {
                    bail!("\"data\" can have {} bytes, not {}", MOST - 3, data.len());
                }
                let text = format!("flags {flags}, data {data:?}");
                Ok(Self::of(name, subtype, flags, &data, &text))
            }
        }
    }

    fn of(name: &str, subtype: u8, flags: u8, data: &[u8], text: &str) -> Self {
        let head = [KIND, 3 + data.len() as u8, subtype << 4 | flags];
        Self {
            bytes: [&head, data].concat(),
            text: format!("{name} {text}"),
            secret: false,
        }
    }

    /// The option as it is sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it says, for people.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The same with zeros for a key, to be shown.
    pub(crate) fn without_key(&self) -> Self {
        let mut shown = self.clone();
        if self.secret {
            shown.bytes[4..].fill(0);
        }
        shown
    }
}

impl Number {
    fn value(&self) -> Result<u64> {
        let text = match self {
            Number::Plain(number) => return Ok(*number),
            Number::Text(text) => text,
        };
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        // Without the text: it may be a key.
        number.map_err(|_| anyhow!("\"number\" is not a number of 64 bits"))
    }
}

impl Fields {
    /// Fields that the option does not have are mistakes.
    fn refuse_others(&self, name: &str, subtype: u8) -> Result<()> {
        let has: &[&str] = match subtype {
            MP_PRIO => &["backup"],
            REMOVE_ADDR => &["addr_ids"],
            MP_FAIL | MP_FASTCLOSE => &["number"],
            _ => &["flags", "data"],
        };
        let given = [
            ("addr_ids", self.addr_ids.is_some()),
            ("data", self.data.is_some()),
            ("number", self.number.is_some()),
            ("flags", self.flags.is_some()),
            ("backup", self.backup.is_some()),
        ];
        for (field, given) in given {
            if given && !has.contains(&field) {
                bail!("{name} has no {field:?}; it has {}", has.join(" and "));
            }
        }
        Ok(())
    }
}
