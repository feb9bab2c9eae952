//! Single values: JSON to bytes and back.

use std::net::Ipv6Addr;

use serde_json::Value as Plain;

use super::Cgroup;
use super::InterfaceResolver;
use crate::module::Param;
use crate::module::Type;
use crate::policy::Diagnostic;
use crate::policy::Json;
use crate::policy::Spanned;
use crate::policy::Value;
use crate::policy::one_of;
use crate::policy::quantity;
use crate::policy::quantity::Prefix;
use crate::policy::quoted;

/// The size of a value in bytes; `None` for lists and tables.
pub(super) fn size(ty: &Type) -> Option<usize> {
    match ty {
        Type::Bytes | Type::Rate | Type::Time | Type::Set { .. } => Some(8),
        Type::Ratio | Type::Token | Type::Interface | Type::PortRange => Some(4),
        Type::Addr | Type::Cgroup | Type::Text => Some(16),
        Type::Prefix => Some(32),
        Type::Port => Some(2),
        Type::Bool => Some(1),
        Type::Uint(size) | Type::Int(size) | Type::Enum { size, .. } => Some((*size).min(8)),
        Type::List { .. } | Type::Table { .. } => None,
    }
}

/// Bytes of `struct emptcp_text`, of which the last one is 0.
const TEXT: usize = 16;

/// A text, filled up with zeros.
fn text(json: &Json) -> Result<Vec<u8>, Diagnostic> {
    let is_plain = |t: &&str| t.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    let fits = |t: &&str| (1..TEXT).contains(&t.len()) && is_plain(t);
    match json.as_str().filter(fits) {
        Some(text) => {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(TEXT, 0);
            Ok(bytes)
        }
        None => Err(Diagnostic::expected(
            &json.at,
            "a text of 1 to 15 printable characters of ASCII",
            json.found(),
        )),
    }
}

/// The low bytes of a number in the byte order of the machine.
pub(super) fn number(value: u64, size: usize) -> Vec<u8> {
    let size = size.min(8);
    if cfg!(target_endian = "little") {
        value.to_le_bytes()[..size].to_vec()
    } else {
        value.to_be_bytes()[8 - size..].to_vec()
    }
}

/// The inverse of [`number`].
pub(crate) fn from_number(bytes: &[u8]) -> u64 {
    let shift = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
    if cfg!(target_endian = "little") {
        bytes.iter().rev().fold(0, shift)
    } else {
        bytes.iter().fold(0, shift)
    }
}

/// [`from_number`] with the sign of a number of that size.
fn from_signed(bytes: &[u8]) -> i64 {
    let shift = 64 - 8 * bytes.len().clamp(1, 8);
    ((from_number(bytes) << shift) as i64) >> shift
}

/// A name among those of an enum.
fn name(json: &Json, values: &[(String, i64)]) -> Result<i64, Diagnostic> {
    let names = || values.iter().map(|(name, _)| name.as_str());
    let text = json.as_str().unwrap_or_default();
    match values.iter().find(|(name, _)| name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(
            Diagnostic::expected(&json.at, one_of(names()), json.found())
                .suggest_nearest(text, names()),
        ),
    }
}

pub(super) fn encode(
    ty: &Type,
    json: &Json,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let bytes = match ty {
        Type::Set { values } => return set(json, values),
        Type::Bytes => quantity::bytes(json).map(|v| number(v, 8)),
        Type::Rate => quantity::rate(json).map(|v| number(v, 8)),
        Type::Time => quantity::time(json).map(|v| number(v, 8)),
        Type::Ratio => quantity::ratio(json).map(|v| number(v.into(), 4)),
        Type::Addr => quantity::addr(json).map(|v| v.octets().to_vec()),
        Type::Prefix => {
            quantity::prefix(json).map(|p| [p.addr.octets(), p.mask().octets()].concat())
        }
        Type::Port => quantity::port(json).map(|v| number(v.into(), 2)),
        Type::PortRange => quantity::port_range(json)
            .map(|(first, last)| [number(first.into(), 2), number(last.into(), 2)].concat()),
        Type::Token => quantity::token(json).map(|v| number(v.into(), 4)),
        Type::Interface => interface(json, interfaces).map(|v| number(v.into(), 4)),
        Type::Cgroup => cgroup(json, interfaces).map(|cgroup| {
            let level = number(u64::from(cgroup.level), 4);
            [number(cgroup.id, 8), level, vec![0; 4]].concat()
        }),
        Type::Text => text(json),
        Type::Bool => match json.value {
            Value::Bool(value) => Ok(vec![value.into()]),
            _ => Err(Diagnostic::expected(
                &json.at,
                "true or false",
                json.found(),
            )),
        },
        Type::Uint(size) => quantity::uint(json, *size).map(|v| number(v, *size)),
        Type::Int(size) => quantity::int(json, *size).map(|v| number(v as u64, *size)),
        Type::Enum { size, values } => name(json, values).map(|v| number(v as u64, *size)),
        Type::List { .. } | Type::Table { .. } => Err(Diagnostic::expected(
            &json.at,
            "a single value",
            json.found(),
        )),
    };
    bytes.map_err(|error| vec![error])
}

fn set(json: &Json, values: &[(String, i64)]) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let items = match &json.value {
        Value::Array(items) => items.as_slice(),
        Value::String(_) => std::slice::from_ref(json),
        _ => {
            let expected = "an array of names";
            return Err(vec![Diagnostic::expected(&json.at, expected, json.found())]);
        }
    };
    let mut bits = 0u64;
    let mut errors = Vec::new();
    for item in items {
        match name(item, values) {
            Ok(value) => {
                let bit = u32::try_from(value)
                    .ok()
                    .and_then(|n| 1u64.checked_shl(n))
                    .unwrap_or(0);
                if bits & bit != 0 {
                    let message = format!("{} is given twice", item.found());
                    errors.push(Diagnostic::new(&item.at, message));
                }
                bits |= bit;
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(number(bits, 8))
    } else {
        Err(errors)
    }
}

fn interface(json: &Json, interfaces: &dyn InterfaceResolver) -> Result<u32, Diagnostic> {
    let name = json
        .as_str()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Diagnostic::expected(&json.at, "the name of an interface", json.found()))?;
    interfaces.index(name).ok_or_else(|| {
        let names = interfaces.names();
        Diagnostic::new(&json.at, format!("there is no interface {}", quoted(name)))
            .suggest_nearest(name, names.iter().map(String::as_str))
    })
}

fn cgroup(json: &Json, host: &dyn InterfaceResolver) -> Result<Cgroup, Diagnostic> {
    let plain = |path: &&str| {
        let mut parts = path.split('/');
        path.starts_with('/') && !path.contains('\0') && parts.all(|p| p != "." && p != "..")
    };
    let path = json.as_str().filter(plain).ok_or_else(|| {
        let expected = "the path of a cgroup such as \"/system.slice/nginx.service\"";
        Diagnostic::expected(&json.at, expected, json.found())
    })?;
    let found = host.cgroup(path);
    found.map_err(|why| Diagnostic::new(&json.at, why))
}

/// The inverse of [`encode`]; `None` for bytes that it never gives, such as a
/// value of an enum without a name.
pub(super) fn decode(ty: &Type, bytes: &[u8], interfaces: &dyn InterfaceResolver) -> Option<Plain> {
    let addr = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).ok();
    let value = from_number(bytes.get(..bytes.len().min(8))?);
    Some(match ty {
        Type::Bytes => quantity::show_bytes(value),
        Type::Rate => quantity::show_rate(value),
        Type::Time => quantity::show_time(value),
        Type::Ratio => quantity::show_ratio(u32::try_from(value).ok()?),
        Type::Addr => quantity::show_addr(addr(bytes)?),
        Type::Prefix => {
            let mask = addr(bytes.get(16..)?)?.to_bits();
            let bits = u8::try_from(mask.leading_ones()).ok()?;
            let prefix = Prefix {
                addr: addr(bytes.get(..16)?)?,
                bits,
            };
            if mask.leading_ones() != mask.count_ones() {
                return None;
            }
            quantity::show_prefix(prefix)
        }
        Type::Port => Plain::from(value),
        Type::PortRange => {
            let port = |bytes: Option<&[u8]>| u16::try_from(from_number(bytes?)).ok();
            quantity::show_port_range(port(bytes.get(..2))?, port(bytes.get(2..))?)
        }
        Type::Token => quantity::show_token(u32::try_from(value).ok()?),
        Type::Interface => Plain::from(interfaces.name(u32::try_from(value).ok()?)?),
        Type::Cgroup => {
            let id = from_number(bytes.get(..8)?);
            Plain::from(interfaces.cgroup_path(id)?)
        }
        Type::Text => {
            let end = bytes.iter().position(|b| *b == 0).filter(|end| *end > 0)?;
            Plain::from(str::from_utf8(&bytes[..end]).ok()?)
        }
        Type::Bool => Plain::from(value != 0),
        Type::Uint(_) => Plain::from(value),
        Type::Int(_) => Plain::from(from_signed(bytes)),
        Type::Enum { values, .. } => {
            let value = from_signed(bytes);
            Plain::from(values.iter().find(|(_, v)| *v == value)?.0.as_str())
        }
        Type::Set { values } => {
            let is_in = |n: &i64| (0..64).contains(n) && value >> *n & 1 == 1;
            values
                .iter()
                .filter(|(_, n)| is_in(n))
                .map(|(name, _)| name.as_str())
                .collect()
        }
        Type::List { .. } | Type::Table { .. } => return None,
    })
}

/// What `min` and `max` of a parameter are compared with: for a range of ports both ends.
fn magnitudes(ty: &Type, bytes: &[u8]) -> Vec<i128> {
    match ty {
        Type::Int(_) => vec![from_signed(bytes).into()],
        Type::PortRange => bytes
            .chunks(2)
            .map(|port| from_number(port).into())
            .collect(),
        Type::Bytes | Type::Rate | Type::Time | Type::Ratio | Type::Port | Type::Token => {
            vec![from_number(bytes).into()]
        }
        Type::Uint(_) => vec![from_number(bytes).into()],
        _ => Vec::new(),
    }
}

/// Whether `min` and `max` mean anything for a type.
pub(super) fn has_range(ty: &Type) -> bool {
    !magnitudes(ty, &[0; 8][..size(ty).unwrap_or(0).min(8)]).is_empty()
}

/// Text of a description as the JSON value that it would be in a policy: a bare word is a string.
pub fn literal(text: &str, at: &crate::policy::Place) -> Json {
    match crate::policy::read("", text.as_bytes()) {
        Ok((json, _)) => Json::from_value(&json.to_value(), at),
        Err(_) => Spanned::new(Value::String(text.to_owned()), at.clone()),
    }
}

/// The smallest or largest value of a parameter as a number in JSON, in the unit of the data plane.
pub(crate) fn bound(ty: &Type, text: &str) -> Option<Plain> {
    let at = crate::policy::Place::root("");
    let bytes = encode(ty, &literal(text, &at), &super::AnyInterface).ok()?;
    let value = *magnitudes(ty, &bytes).first()?;
    match ty {
        Type::Ratio => Some(quantity::show_ratio(u32::try_from(value).ok()?)),
        Type::Int(_) => Some(Plain::from(i64::try_from(value).ok()?)),
        _ => Some(Plain::from(u64::try_from(value).ok()?)),
    }
}

/// A default as a value in JSON.
pub(crate) fn default_value(text: &str) -> Plain {
    literal(text, &crate::policy::Place::root("")).to_value()
}

/// Encodes a single value and checks the range of the parameter.
pub(super) fn encode_in_range(
    param: &Param,
    ty: &Type,
    json: &Json,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let bytes = encode(ty, json, interfaces)?;
    let bound = |text: &Option<String>| -> Option<i128> {
        let bytes = encode(ty, &literal(text.as_deref()?, &json.at), interfaces).ok()?;
        magnitudes(ty, &bytes).first().copied()
    };
    let found = magnitudes(ty, &bytes);
    let (min, max) = (bound(&param.min), bound(&param.max));
    let low = min.is_some_and(|min| found.iter().any(|v| *v < min));
    let high = max.is_some_and(|max| found.iter().any(|v| *v > max));
    if !low && !high {
        return Ok(bytes);
    }
    let shown = |text: &Option<String>| text.clone().unwrap_or_default();
    let expected = match (min, max) {
        (Some(_), Some(_)) => format!("{} to {}", shown(&param.min), shown(&param.max)),
        (Some(_), None) => format!("at least {}", shown(&param.min)),
        _ => format!("at most {}", shown(&param.max)),
    };
    Err(vec![Diagnostic::expected(&json.at, expected, json.found())])
}
