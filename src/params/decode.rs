//! The parameters of a step to JSON.

use serde_json::Map;
use serde_json::Value as Plain;
use serde_json::json;

use super::Encoded;
use super::InterfaceResolver;
use super::LIST_IN_TABLE;
use super::TableContents;
use super::scalar;
use super::table;
use crate::module::Module;
use crate::module::Param;
use crate::module::Type;

/// The inverse of [`super::encode`], for people: defaults are spelled out, quantities
/// have the largest unit that keeps them exact.
///
/// Encoding the result gives `encoded` again, unless an interface or a cgroup has gone, whose
/// number then stands for its name. A parameter whose bytes say nothing that JSON could is left out.
pub fn decode(module: &Module, encoded: &Encoded, interfaces: &dyn InterfaceResolver) -> Plain {
    let params = module.params.iter().filter_map(|param| {
        let value = decode_param(param, encoded, interfaces)?;
        Some((param.name.clone(), value))
    });
    Plain::Object(params.collect::<Map<String, Plain>>())
}

fn decode_param(
    param: &Param,
    encoded: &Encoded,
    interfaces: &dyn InterfaceResolver,
) -> Option<Plain> {
    let single = |ty: &Type, bytes: &[u8]| match (ty, scalar::decode(ty, bytes, interfaces)) {
        (Type::Interface, None) => Some(Plain::from(scalar::from_number(bytes))),
        (Type::Cgroup, None) => Some(Plain::from(scalar::from_number(bytes.get(..8)?))),
        (_, value) => value,
    };
    let binding = |map: &str| encoded.tables.iter().find(|binding| binding.map == map);
    if let Some(from) = encoded
        .from_table
        .iter()
        .find(|from| from.param == param.name)
    {
        let mut value = Map::from_iter([("table".to_owned(), json!(from.table))]);
        if let Some(default) = &from.default {
            value.insert("default".to_owned(), single(&param.ty, default)?);
        }
        return Some(Plain::Object(value));
    }
    match &param.ty {
        Type::Table { .. } => match &binding(&param.name)?.contents {
            TableContents::Named(name) => Some(json!(name)),
            TableContents::Anonymous { .. } => None,
        },
        Type::List {
            of,
            max,
            items_offset,
            item_size,
            table,
        } => {
            let count = encoded.bytes.get(param.offset..param.offset + 4)?;
            let count = u32::try_from(scalar::from_number(count)).ok()?;
            if count == LIST_IN_TABLE {
                return match &binding(table.as_deref()?)?.contents {
                    TableContents::Anonymous { key, entries } => {
                        Some(table::decode_items(of, *key, entries))
                    }
                    TableContents::Named(_) => None,
                };
            }
            if count == 0 && !param.required && param.default.is_none() {
                return None;
            }
            let size = scalar::size(of)?;
            let item = |i: usize| {
                let start = param.offset + items_offset + i * item_size;
                single(of, encoded.bytes.get(start..start + size)?)
            };
            (0..(count as usize).min(*max)).map(item).collect()
        }
        ty => {
            let bytes = encoded
                .bytes
                .get(param.offset..param.offset + scalar::size(ty)?)?;
            // Zero is what an absent parameter gives; it may be out of range for a given one.
            let absent =
                !param.required && param.default.is_none() && bytes.iter().all(|b| *b == 0);
            if absent { None } else { single(ty, bytes) }
        }
    }
}
