//! The parameters of modules.

use serde_json::Value;
use serde_json::json;

use super::object;
use super::refer;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Param;
use crate::module::Type;
use crate::params;
use crate::policy::value_type_name;

/// A value that is no list and no table.
fn single(ty: &Type) -> Value {
    let words = |values: &[(String, i64)]| {
        let names: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
        json!({ "enum": names })
    };
    match ty {
        Type::Prefix => refer("prefix"),
        Type::PortRange => refer("port_range"),
        Type::Interface => json!({ "type": "string", "minLength": 1 }),
        Type::Cgroup => refer("cgroup"),
        Type::Text => json!({ "type": "string", "pattern": "^[ -~]{1,15}$" }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Enum { values, .. } => words(values),
        Type::Set { values } => {
            let word = words(values);
            json!({ "anyOf": [word, { "type": "array", "uniqueItems": true, "items": word }] })
        }
        ty => value_type_name(ty).map_or(json!(false), refer),
    }
}

/// The parameters of a module. One with a table to look up takes that, or what is required.
pub(super) fn params(module: &Module) -> Value {
    let lookup = module.params.iter().find(|p| p.lookup);
    let mut schema = match lookup {
        Some(table) => {
            let by_table = |p: &Param| !p.required || p.name == table.name;
            let mut ways = vec![members(module, by_table, &[&table.name])];
            if !table.required {
                let other = |p: &Param| p.name != table.name;
                ways.push(members(module, other, &required(module)));
            }
            json!({ "anyOf": ways })
        }
        None => members(module, |_| true, &required(module)),
    };
    schema["description"] = json!(module.doc);
    schema
}

fn required(module: &Module) -> Vec<&str> {
    let required = module.params.iter().filter(|p| p.required);
    required.map(|p| p.name.as_str()).collect()
}

fn members(module: &Module, which: impl Fn(&Param) -> bool, required: &[&str]) -> Value {
    let properties = module
        .params
        .iter()
        .filter(|p| which(p))
        .map(|p| (p.name.clone(), param(module.kind, p)));
    object(properties.collect(), required)
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
    if param.tracked_unless {
        schema["$comment"] = json!("without it, packets are tracked");
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
