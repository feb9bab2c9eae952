use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;
use serde_json::json;

use super::schema;
use crate::module::Module;
use crate::params::fake::registry;
use crate::policy::CHAIN_FIELDS;
use crate::policy::FIELDS;
use crate::policy::TABLE_FIELDS;

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::new(schema).unwrap()
}

fn assert_accepts(validator: &Validator, text: &str) {
    let json: Value = serde_json::from_str(text).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&json)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?} in {text}");
}

/// What was read as policy with made-up modules is one by the schema.
pub(crate) fn accepts_grammar(text: &str) {
    static GRAMMAR: LazyLock<Validator> = LazyLock::new(|| {
        let mut schema = schema(&[]);
        for steps in ["expression", "actor"] {
            schema["$defs"][steps]["additionalProperties"] = json!({ "type": "object" });
        }
        // Elements are checked with the steps.
        schema["$defs"]["table"]["allOf"] = json!([true]);
        validator(&schema)
    });
    assert_accepts(&GRAMMAR, text);
}

/// What was bound to the modules for tests is a policy by their schema.
pub(crate) fn accepts_policy(text: &str) {
    static REGISTRY: LazyLock<Validator> = LazyLock::new(|| validator(&schema(&registry())));
    assert_accepts(&REGISTRY, text);
}

/// Parameters that were encoded are some by the schema.
pub(crate) fn accepts_params(module: &Module, text: &str) {
    let mut schema = schema(std::slice::from_ref(module));
    let params = super::module_key(module);
    let defs = schema["$defs"].take();
    assert_accepts(
        &validator(&json!({ "$ref": format!("#/$defs/{params}"), "$defs": defs })),
        text,
    );
}

#[test]
fn every_field_is_there() {
    let schema = schema(&registry());
    let keys = |schema: &Value| {
        let mut keys: Vec<String> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        keys.sort();
        keys
    };
    let sorted = |fields: &[&str]| {
        let mut fields: Vec<String> = fields.iter().map(|f| (*f).to_owned()).collect();
        fields.sort();
        fields
    };
    assert_eq!(keys(&schema), sorted(&FIELDS));
    assert_eq!(keys(&schema["$defs"]["table"]), sorted(&TABLE_FIELDS));
    assert_eq!(keys(&schema["$defs"]["chain"]), sorted(&CHAIN_FIELDS));
}

#[test]
fn it_is_a_schema() {
    assert!(jsonschema::meta::is_valid(&schema(&registry())));
}
