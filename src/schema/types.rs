//! The types of parameters, of keys and of values.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::object;
use super::refer;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Param;
use crate::module::TableKey;
use crate::module::Type;
use crate::params;
use crate::policy::quantity;
use crate::policy::value_type_name;

const DECIMAL: &str = "[0-9]+(\\.[0-9]+)?";
const PORT: &str =
    "0*(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})";
const IPV4: &str = "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// More than IPv6 addresses; all of them have two colons.
const IPV6: &str = "[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*";

/// Definitions of the types that have no parameters of their own.
pub(super) fn definitions() -> Map<String, Value> {
    let text = |pattern: String| json!({ "type": "string", "pattern": format!("^({pattern})$") });
    let whole = |most: u64| json!({ "type": "integer", "minimum": 0, "maximum": most });
    let quantity = |kind: &quantity::Kind| {
        let units: Vec<&str> = kind.units().collect();
        format!("{DECIMAL}({})", units.join("|"))
    };
    let either = |description: &str, number: Value, pattern: String| json!({ "description": description, "anyOf": [number, text(pattern)] });
    let bare = |kind: &quantity::Kind| format!("{}?", quantity(kind));
    let mut definitions = vec![
        (
            "name",
            json!({ "type": "string", "pattern": "^[a-z0-9_-]{1,63}$" }),
        ),
        (
            "bytes",
            either(
                "Bytes: a number, or such as \"64KiB\"",
                whole(u64::MAX),
                bare(&quantity::BYTES),
            ),
        ),
        (
            "rate",
            either(
                "bit/s: a number, or such as \"20Mbit\"",
                whole(u64::MAX),
                bare(&quantity::RATE),
            ),
        ),
        (
            "time",
            either(
                "A time such as \"100ms\"",
                json!({ "const": 0 }),
                format!("{}|0+(\\.0+)?", quantity(&quantity::TIME)),
            ),
        ),
        (
            "ratio",
            either(
                "A ratio such as 0.1, \"10%\" or \"1/16\"",
                json!({ "type": "number", "minimum": 0, "maximum": 1 }),
                format!("{DECIMAL}%?|{DECIMAL}/{DECIMAL}"),
            ),
        ),
        ("addr", text(format!("{IPV4}|{IPV6}"))),
        (
            "prefix",
            text(format!(
                "{IPV4}(/0*(3[0-2]|[12]?[0-9]))?|{IPV6}(/0*(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"
            )),
        ),
        ("port", either("A port", whole(65535), PORT.to_owned())),
        (
            "port_range",
            either(
                "A port, or a range such as \"8000-8010\"",
                whole(65535),
                format!("{PORT}(-{PORT})?"),
            ),
        ),
        (
            "subflow",
            text(format!(
                "{IPV4}:{PORT}-{IPV4}:{PORT}|\\[{IPV6}\\]:{PORT}-\\[{IPV6}\\]:{PORT}"
            )),
        ),
        (
            "token",
            hex("A token: a number, or such as \"0x1a2b3c4d\"", 4),
        ),
    ];
    for (name, size) in [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)] {
        definitions.push((name, hex("A number, or such as \"0xff\"", size)));
    }
    for (name, bits) in [("s8", 8), ("s16", 16), ("s32", 32), ("s64", 64)] {
        let most = i64::MAX >> (64 - bits);
        let number = json!({ "type": "integer", "minimum": -most - 1, "maximum": most });
        definitions.push((name, number));
    }
    definitions
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// An unsigned integer: a number or `"0x…"`.
fn hex(description: &str, size: usize) -> Value {
    let pattern = format!("^0[xX]0*[0-9A-Fa-f]{{1,{}}}$", 2 * size);
    json!({
        "description": description,
        "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": quantity::largest_uint(size) },
            { "type": "string", "pattern": pattern },
        ],
    })
}

/// A key of a table.
pub(super) fn table_key(key: TableKey) -> Value {
    refer(match key {
        TableKey::Prefix => "prefix",
        TableKey::Addr => "addr",
        TableKey::Subflow => "subflow",
        TableKey::Token => "token",
        TableKey::Port => "port_range",
    })
}

/// A value that is no list and no table.
pub(super) fn single(ty: &Type) -> Value {
    let words = |values: &[(String, i64)]| {
        let names: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
        json!({ "enum": names })
    };
    match ty {
        Type::Prefix => refer("prefix"),
        Type::PortRange => refer("port_range"),
        Type::Interface => json!({ "type": "string", "minLength": 1 }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Enum { values, .. } => words(values),
        Type::Set { values } => {
            let word = words(values);
            json!({ "anyOf": [word, { "type": "array", "uniqueItems": true, "items": word }] })
        }
        ty => value_type_name(ty).map_or(json!(false), refer),
    }
}

/// The parameters of a module.
pub(super) fn params(module: &Module) -> Value {
    let properties = module
        .params
        .iter()
        .map(|p| (p.name.clone(), param(module.kind, p)));
    let required: Vec<&str> = module
        .params
        .iter()
        .filter(|p| p.required)
        .map(|p| p.name.as_str())
        .collect();
    let mut schema = object(properties.collect(), &required);
    schema["description"] = json!(module.doc);
    schema
}

fn param(kind: Kind, param: &Param) -> Value {
    let mut schema = match &param.ty {
        Type::List { of, max, table, .. } => {
            let item = bounded(param, of);
            let mut items = json!({ "type": "array", "items": item });
            // A longer one goes into a table, or shrinks when repeated items are left out.
            if table.is_none() {
                items["maxItems"] = json!(max);
            }
            json!({ "anyOf": [item, items] })
        }
        Type::Table { .. } => refer("name"),
        ty if kind == Kind::Actor && value_type_name(ty).is_some() => {
            let properties = [
                ("table".to_owned(), refer("name")),
                ("default".to_owned(), bounded(param, ty)),
            ];
            let looked_up = object(properties.into_iter().collect(), &["table"]);
            json!({ "anyOf": [bounded(param, ty), looked_up] })
        }
        ty => bounded(param, ty),
    };
    if !param.doc.is_empty() {
        schema["description"] = json!(param.doc);
    }
    if let Some(default) = &param.default {
        schema["default"] = params::default_value(default);
    }
    schema
}

/// A value with the bounds of the parameter, as far as it is written as a number.
fn bounded(param: &Param, ty: &Type) -> Value {
    let mut schema = single(ty);
    for (word, text) in [("minimum", &param.min), ("maximum", &param.max)] {
        if let Some(bound) = text.as_ref().and_then(|text| params::bound(ty, text)) {
            schema[word] = bound;
        }
    }
    schema
}
