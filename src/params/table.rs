//! Keys and values of tables.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde_json::Value as Plain;

use super::Entry;
use super::InterfaceResolver;
use super::scalar;
use crate::module::TableKey;
use crate::module::Type;
use crate::policy::Diagnostic;
use crate::policy::Json;
use crate::policy::Spanned;
use crate::policy::Table;
use crate::policy::Value;
use crate::policy::quantity;
use crate::policy::quantity::Prefix;
use crate::policy::quantity::Subflow;
use crate::policy::quoted;

/// The size of a key in bytes.
pub fn key_size(key: TableKey) -> usize {
    match key {
        TableKey::Prefix => 24,
        TableKey::Addr => 16,
        TableKey::Subflow => 40,
        TableKey::Token | TableKey::Port => 4,
    }
}

/// The size of a value in bytes; 1 for the entries of a set, whose value is 1.
pub fn value_size(value: Option<&Type>) -> usize {
    value.and_then(scalar::size).unwrap_or(1)
}

const PREFIX_FAMILY_BITS: u32 = 32;

fn prefix_key(prefix: Prefix) -> Vec<u8> {
    let length = PREFIX_FAMILY_BITS + u32::from(prefix.bits);
    let family: u32 = if prefix.is_ipv4() { 4 } else { 6 };
    [
        &length.to_ne_bytes()[..],
        &family.to_be_bytes(),
        &prefix.addr.octets(),
    ]
    .concat()
}

fn subflow_key(subflow: Subflow, zone: u32) -> Vec<u8> {
    let Subflow {
        saddr,
        daddr,
        sport,
        dport,
    } = subflow;
    let ports = [sport.to_ne_bytes(), dport.to_ne_bytes()].concat();
    [
        &saddr.octets()[..],
        &daddr.octets(),
        &ports,
        &zone.to_ne_bytes(),
    ]
    .concat()
}

fn port_key(port: u16) -> Vec<u8> {
    u32::from(port).to_ne_bytes().to_vec()
}

/// The keys for which a key stands that is written in JSON: one, but of a range of ports each.
///
/// - prefix: `__u32` length in bits of what follows (32 + 96 + n for IPv4, 32 + n for
///   IPv6), `__be32` family (4 or 6), address (16 bytes, IPv4 mapped);
/// - addr: 16 bytes, IPv4 mapped;
/// - subflow: source and destination address (16 bytes each, IPv4 mapped), `__u16`
///   source and destination port, `__u32` zone (0);
/// - token, port: `__u32`.
///
/// Lengths, ports, tokens and zones are in the byte order of the machine.
///
/// # Errors
///
/// What is not a key of that kind.
pub fn encode_key(key: TableKey, json: &Json) -> Result<Vec<Vec<u8>>, Diagnostic> {
    Ok(match key {
        TableKey::Prefix => vec![prefix_key(quantity::prefix(json)?)],
        TableKey::Addr => vec![quantity::addr(json)?.octets().to_vec()],
        TableKey::Subflow => vec![subflow_key(quantity::subflow(json)?, 0)],
        TableKey::Token => vec![quantity::token(json)?.to_ne_bytes().to_vec()],
        TableKey::Port => {
            let (first, last) = quantity::port_range(json)?;
            (first..=last).map(port_key).collect()
        }
    })
}

/// The inverse of [`encode_key`], of one key; `None` for bytes that are not a key.
pub fn decode_key(key: TableKey, bytes: &[u8]) -> Option<Plain> {
    if bytes.len() != key_size(key) {
        return None;
    }
    let addr = |at: usize| {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets))
    };
    let u32_at = |at: usize| u32::try_from(scalar::from_number(bytes.get(at..at + 4)?)).ok();
    let u16_at = |at: usize| u16::try_from(scalar::from_number(bytes.get(at..at + 2)?)).ok();
    Some(match key {
        TableKey::Prefix => {
            let bits = u8::try_from(u32_at(0)?.checked_sub(PREFIX_FAMILY_BITS)?).ok()?;
            quantity::show_prefix(Prefix {
                addr: addr(8)?,
                bits,
            })
        }
        TableKey::Addr => quantity::show_addr(addr(0)?),
        TableKey::Subflow => quantity::show_subflow(Subflow {
            saddr: addr(0)?,
            daddr: addr(16)?,
            sport: u16_at(32)?,
            dport: u16_at(34)?,
        }),
        TableKey::Token => quantity::show_token(u32_at(0)?),
        TableKey::Port => Plain::from(u16::try_from(u32_at(0)?).ok()?),
    })
}

/// A value of a table, of one of the types that a table can hold.
///
/// # Errors
///
/// What is not of that type.
pub fn encode_value(
    ty: &Type,
    json: &Json,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<u8>, Vec<Diagnostic>> {
    scalar::encode(ty, json, interfaces)
}

/// The inverse of [`encode_value`]; `None` for bytes that are not a value of that type.
pub fn decode_value(ty: &Type, bytes: &[u8], interfaces: &dyn InterfaceResolver) -> Option<Plain> {
    if Some(bytes.len()) != scalar::size(ty) {
        return None;
    }
    scalar::decode(ty, bytes, interfaces)
}

/// The default of a table, encoded.
///
/// # Errors
///
/// What is not of the type of the table's values.
pub fn encode_table_default(
    table: &Table,
    interfaces: &dyn InterfaceResolver,
) -> Result<Option<Vec<u8>>, Vec<Diagnostic>> {
    match (&table.value, &table.default) {
        (Some(ty), Some(default)) => encode_value(ty, default, interfaces).map(Some),
        _ => Ok(None),
    }
}

/// The elements of a table, sorted by the bytes of the keys; `None` if the table belongs to run time.
///
/// The value of an entry of a set is one byte, 1. A range of ports stands as its ports.
///
/// # Errors
///
/// Wrong keys and values; keys of a map that are the same in two spellings; more than the size
/// of the table.
pub fn encode_table(
    table: &Table,
    interfaces: &dyn InterfaceResolver,
) -> Result<Option<Vec<Entry>>, Vec<Diagnostic>> {
    let Some(elements) = &table.elements else {
        return Ok(None);
    };
    let value = table.value.as_ref().map(|value| &value.value);
    let (entries, mut errors) = match encode_elements(table.key.value, value, elements, interfaces)
    {
        Ok(entries) => (entries, Vec::new()),
        Err(errors) => (Vec::new(), errors),
    };
    if let Some(size) = table
        .size
        .as_ref()
        .filter(|size| entries.len() > size.value as usize)
    {
        let count = entries.len();
        let message = format!("{count} elements do not fit in the size {}", size.value);
        errors.push(Diagnostic::new(&elements.at, message));
    }
    if errors.is_empty() {
        Ok(Some(entries))
    } else {
        Err(errors)
    }
}

/// The elements of a table of such keys and values, as for [`encode_table`].
///
/// # Errors
///
/// As there.
pub fn encode_elements(
    key: TableKey,
    value: Option<&Type>,
    elements: &Json,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<Entry>, Vec<Diagnostic>> {
    let mut entries = BTreeMap::new();
    let mut errors = Vec::new();
    match (&elements.value, value) {
        (Value::Array(items), None) => {
            for item in items {
                match encode_key(key, item) {
                    Ok(keys) => entries.extend(keys.into_iter().map(|key| (key, vec![1]))),
                    Err(error) => errors.push(error),
                }
            }
        }
        (Value::Object(members), Some(ty)) => {
            for member in members {
                let text = Value::String(member.key.to_string());
                let keys = encode_key(key, &Spanned::new(text, member.key_at()));
                let value = encode_value(ty, &member.value, interfaces);
                match (keys, value) {
                    (Ok(keys), Ok(value)) => {
                        let mut again = false;
                        for key in keys {
                            again |= entries.insert(key, value.clone()).is_some();
                        }
                        if again {
                            let message = format!("the key {} is given twice", quoted(&member.key));
                            errors.push(Diagnostic::new(&member.key_at(), message));
                        }
                    }
                    (keys, value) => {
                        errors.extend(keys.err());
                        errors.extend(value.err().into_iter().flatten());
                    }
                }
            }
        }
        // A parsed table is one of the two.
        _ => errors.push(Diagnostic::new(
            &elements.at,
            "not the elements of such a table",
        )),
    }
    if errors.is_empty() {
        Ok(entries.into_iter().collect())
    } else {
        Err(errors)
    }
}

/// What a list of such items is looked up by when it becomes a table.
pub(super) fn key_of_items(ty: &Type) -> Option<TableKey> {
    match ty {
        Type::Prefix => Some(TableKey::Prefix),
        Type::Addr => Some(TableKey::Addr),
        Type::Token => Some(TableKey::Token),
        Type::Port | Type::PortRange => Some(TableKey::Port),
        _ => None,
    }
}

/// The items of a list in a table: ports that follow one another as a range, where
/// the items may be ranges.
pub(super) fn decode_items(ty: &Type, key: TableKey, entries: &[Entry]) -> Plain {
    if key != TableKey::Port {
        return entries
            .iter()
            .filter_map(|(bytes, _)| decode_key(key, bytes))
            .collect();
    }
    let port = |bytes: &[u8]| u16::try_from(scalar::from_number(bytes)).ok();
    let mut ports: Vec<u16> = entries
        .iter()
        .filter_map(|(bytes, _)| port(bytes))
        .collect();
    ports.sort_unstable();
    if *ty == Type::Port {
        return ports.into_iter().map(Plain::from).collect();
    }
    merge(ports.into_iter().map(|port| (port, port)).collect())
        .into_iter()
        .map(|(first, last)| quantity::show_port_range(first, last))
        .collect()
}

/// Ranges that overlap or touch, as one.
pub(super) fn merge(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}
