//! JSON Schema (2020-12) of policies: the grammar of [`crate::policy`] (`grammar.json`) with the
//! parameters that the modules describe. For editors and other programs; `emptcp check` knows more.
//!
//! What is accepted there is accepted here. What cannot be said here: docs/cli.md.

mod types;

#[cfg(test)]
pub(crate) mod tests;

use anyhow::Context as _;
use anyhow::Result;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::module::Kind;
use crate::module::Module;

/// All but the modules.
const GRAMMAR: &str = include_str!("grammar.json");

/// The schema of policies that use these modules.
///
/// # Errors
///
/// The binary was built wrong.
pub fn schema(modules: &[Module]) -> Result<Value> {
    let mut schema: Value = serde_json::from_str(GRAMMAR).context("the grammar of policies")?;
    for module in modules {
        let key = module_key(module);
        schema["$defs"][&key] = types::params(module);
        let steps = match module.kind {
            Kind::Selector => "expression",
            Kind::Actor => "actor",
        };
        // An operator of that name goes before.
        for name in [Some(&module.name), module.alias.as_ref()]
            .into_iter()
            .flatten()
        {
            let step = &mut schema["$defs"][steps]["properties"][name];
            if step.is_null() {
                *step = refer(&key);
            }
        }
    }
    Ok(schema)
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
