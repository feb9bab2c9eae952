//! JSON Schema (2020-12) of policies: the grammar of [`crate::policy`] with the parameters that the
//! modules describe. For editors and other programs; `emptcp check` knows more.
//!
//! What is accepted there is accepted here. What cannot be said here: that names and keys occur
//! once, that what is referred to exists, sums (elements in a size, depths), amounts and ranges
//! inside strings, bits of the host, hooks of a module, interfaces and the kernel.

mod types;

#[cfg(test)]
pub(crate) mod tests;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::policy::LIMITS;
use crate::policy::TABLE_KEYS;
use crate::policy::VALUE_TYPES;
use crate::policy::VERSION;

/// The schema of policies that use these modules.
pub fn schema(modules: &[Module]) -> Value {
    let mut defs = Map::new();
    defs.extend(types::definitions());
    for module in modules {
        defs.insert(module_key(module), types::params(module));
    }
    defs.insert("expression".to_owned(), expression(modules));
    defs.insert("actor".to_owned(), actor(modules));
    defs.insert("table".to_owned(), table());
    defs.insert("interface".to_owned(), interface());
    defs.insert("chain".to_owned(), chain());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:emptcp:policy:1",
        "title": "emptcp policy",
        "description": "Chains of selectors and actors in one network namespace",
        "type": "object",
        "additionalProperties": false,
        "required": ["version"],
        "properties": {
            "version": { "description": "Version of the format", "const": VERSION },
            "$schema": { "description": "For editors", "type": "string" },
            "comment": comment(),
            "limits": limits(),
            "tables": named("Sets and maps that are changed at run time", refer("table")),
            "selectors": named("Expressions that chains share", refer("expression")),
            "actors": named("Lists of actors that chains share", acts()),
            "chains": { "type": "array", "items": refer("chain") },
        },
        "$defs": defs,
    })
}

/// A reference to a definition.
fn refer(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// A selector and an actor may have the same name.
fn module_key(module: &Module) -> String {
    format!("{}-{}", module.kind.name(), module.name)
}

/// An object with no other keys than these.
fn object(properties: Map<String, Value>, required: &[&str]) -> Value {
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// An object of names to something.
fn named(description: &str, of: Value) -> Value {
    json!({
        "description": description,
        "type": "object",
        "propertyNames": refer("name"),
        "additionalProperties": of,
    })
}

fn comment() -> Value {
    json!({ "description": "Text without effect", "type": "string" })
}

fn limits() -> Value {
    let limit = |(name, doc): (&str, &str)| {
        let number =
            json!({ "description": doc, "type": "integer", "minimum": 1, "maximum": u32::MAX });
        (name.to_owned(), number)
    };
    object(LIMITS.into_iter().map(limit).collect(), &[])
}

/// An object with one key.
fn one_key(properties: Map<String, Value>) -> Value {
    let mut schema = object(properties, &[]);
    schema["minProperties"] = json!(1);
    schema["maxProperties"] = json!(1);
    schema
}

fn steps(modules: &[Module], kind: Kind) -> Map<String, Value> {
    let of_kind = modules.iter().filter(|module| module.kind == kind);
    of_kind
        .map(|module| (module.name.clone(), refer(&module_key(module))))
        .collect()
}

fn expression(modules: &[Module]) -> Value {
    let several =
        |doc: &str| json!({ "description": doc, "type": "array", "items": refer("expression") });
    let mut properties = steps(modules, Kind::Selector);
    properties.extend([
        (
            "all".to_owned(),
            several("Every part matches; true if there is none"),
        ),
        (
            "any".to_owned(),
            several("A part matches; false if there is none"),
        ),
        ("not".to_owned(), refer("expression")),
        ("use".to_owned(), refer("name")),
    ]);
    one_key(properties)
}

fn actor(modules: &[Module]) -> Value {
    let mut properties = steps(modules, Kind::Actor);
    properties.insert("use".to_owned(), refer("name"));
    one_key(properties)
}

fn acts() -> Value {
    json!({ "type": "array", "minItems": 1, "items": refer("actor") })
}

fn table() -> Value {
    // What keys and values are depends on other fields.
    let by_key = TABLE_KEYS.iter().map(|(name, key)| {
        let key = types::table_key(*key);
        json!({
            "if": { "properties": { "type": { "const": name } } },
            "then": { "properties": { "elements": { "items": key, "propertyNames": key } } },
        })
    });
    let by_value = VALUE_TYPES.iter().map(|(name, ty)| {
        let value = types::single(ty);
        json!({
            "if": { "required": ["value"], "properties": { "value": { "const": name } } },
            "then": { "properties": {
                "elements": { "type": "object", "additionalProperties": value },
                "default": value,
            } },
        })
    });
    let set = json!({
        "if": { "not": { "required": ["value"] } },
        "then": { "properties": { "elements": { "type": "array" } } },
    });
    let size = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    let properties = [
        ("comment", comment()),
        (
            "type",
            json!({
                "description": "What it is looked up by",
                "enum": TABLE_KEYS.map(|(name, _)| name),
            }),
        ),
        (
            "value",
            json!({
                "description": "Type of the values, of a map",
                "enum": VALUE_TYPES.map(|(name, _)| name),
            }),
        ),
        ("size", size),
        (
            "timeout",
            json!({ "$ref": "#/$defs/time", "type": "string", "pattern": "[1-9]" }),
        ),
        (
            "default",
            json!({ "description": "What an actor takes where nothing was found" }),
        ),
        (
            "elements",
            json!({ "description": "Keys, of a map an object of key to value" }),
        ),
    ];
    let mut schema = object(owned(properties), &["type"]);
    schema["dependentRequired"] = json!({ "default": ["value"] });
    schema["dependentSchemas"] = json!({ "elements": { "properties": { "timeout": false } } });
    schema["allOf"] = by_key.chain(by_value).chain([set]).collect();
    schema
}

fn owned<const N: usize>(properties: [(&str, Value); N]) -> Map<String, Value> {
    properties
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

fn interface() -> Value {
    let name = json!({
        "description": "A name, an alternative name or a pattern such as \"wwan*\"",
        "type": "string",
        "minLength": 1,
        "maxLength": 127,
        "pattern": "^[^ \\t\\n\\r/:]+$",
        "not": { "enum": [".", ".."] },
    });
    let optional =
        json!({ "description": "It may be absent", "type": "boolean", "default": false });
    let long = object(
        owned([("name", name.clone()), ("optional", optional)]),
        &["name"],
    );
    json!({ "anyOf": [name, long] })
}

fn chain() -> Value {
    let hook = json!({ "enum": Hook::ALL.map(Hook::name) });
    let hooks = json!({ "anyOf": [
        hook,
        { "type": "array", "minItems": 1, "uniqueItems": true, "items": hook },
    ] });
    let before = json!({ "anyOf": [
        { "description": "Name of a program", "type": "string", "minLength": 1 },
        { "description": "Id of a program", "type": "integer", "minimum": 1, "maximum": u32::MAX },
    ] });
    let flag = |doc: &str, default: bool| json!({ "description": doc, "type": "boolean", "default": default });
    let xdp = object(
        owned([
            (
                "mode",
                json!({ "enum": ["auto", "native", "generic"], "default": "auto" }),
            ),
            (
                "replace",
                flag("A program of somebody else gives way", false),
            ),
            (
                "trust_checksums",
                flag("Transmit checksum offload is off here", false),
            ),
        ]),
        &[],
    );
    let properties = [
        ("name", refer("name")),
        ("comment", comment()),
        ("hook", hooks),
        (
            "interfaces",
            json!({ "type": "array", "minItems": 1, "uniqueItems": true, "items": refer("interface") }),
        ),
        (
            "priority",
            json!({
                "description": "Lower runs first",
                "type": "integer",
                "minimum": i32::MIN,
                "maximum": i32::MAX,
                "default": 0,
            }),
        ),
        (
            "enabled",
            flag("A disabled chain is checked, but not loaded", true),
        ),
        (
            "zone",
            json!({
                "description": "Tells overlapping address spaces apart",
                "type": "integer",
                "minimum": 0,
                "maximum": u32::MAX,
                "default": 0,
            }),
        ),
        (
            "on_error",
            json!({
                "description": "What becomes of a packet where a step fails",
                "enum": ["pass", "drop"],
                "default": "pass",
            }),
        ),
        ("xdp", xdp),
        (
            "position",
            json!({
                "description": "Place among other programs at tc",
                "anyOf": [
                    { "enum": ["first", "last"] },
                    object(owned([("before", before)]), &["before"]),
                ],
                "default": "last",
            }),
        ),
        (
            "select",
            json!({
                "description": "Which packets; {} is every TCP packet",
                "anyOf": [{ "type": "object", "maxProperties": 0 }, refer("expression")],
            }),
        ),
        ("act", acts()),
    ];
    let mut schema = object(owned(properties), &["name", "hook", "interfaces", "act"]);
    // Fields that have a meaning at some hooks only.
    let xdp = Hook::Xdp.name();
    schema["dependentSchemas"] = json!({
        "xdp": { "properties": { "hook": {
            "anyOf": [{ "const": xdp }, { "type": "array", "contains": { "const": xdp } }],
        } } },
        "position": { "properties": { "hook": { "not": { "enum": [xdp, [xdp]] } } } },
    });
    schema
}
