use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;
use serde_json::json;

use super::schema;
use crate::module::Hook;
use crate::module::Module;
use crate::params::fake::registry;
use crate::policy::CHAIN_FIELDS;
use crate::policy::FIELDS;
use crate::policy::LIMITS;
use crate::policy::TABLE_FIELDS;
use crate::policy::TABLE_KEYS;
use crate::policy::VALUE_TYPES;
use crate::policy::VERSION;
use crate::policy::quantity;

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
        let mut schema = schema(&[]).unwrap();
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
    static REGISTRY: LazyLock<Validator> =
        LazyLock::new(|| validator(&schema(&registry()).unwrap()));
    assert_accepts(&REGISTRY, text);
}

/// Parameters that were encoded are some by the schema.
pub(crate) fn accepts_params(module: &Module, text: &str) {
    let mut schema = schema(std::slice::from_ref(module)).unwrap();
    let params = super::module_key(module);
    let defs = schema["$defs"].take();
    assert_accepts(
        &validator(&json!({ "$ref": format!("#/$defs/{params}"), "$defs": defs })),
        text,
    );
}

#[test]
fn every_field_is_there() {
    let schema = schema(&registry()).unwrap();
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

/// The words of the grammar are those of the program.
#[test]
fn every_word_is_there() {
    let schema = schema(&[]).unwrap();
    let defs = &schema["$defs"];
    assert_eq!(schema["properties"]["version"]["const"], VERSION);
    let limits = schema["properties"]["limits"]["properties"]
        .as_object()
        .unwrap();
    assert!(limits.keys().eq(LIMITS.map(|(name, _)| name)));
    let hooks = &defs["chain"]["properties"]["hook"]["anyOf"];
    assert_eq!(hooks[0]["enum"], json!(Hook::ALL.map(Hook::name)));
    assert_eq!(hooks[1]["items"], hooks[0]);
    let table = &defs["table"];
    let keys = TABLE_KEYS.map(|(name, _)| name);
    let values = VALUE_TYPES.map(|(name, _)| name);
    assert_eq!(table["properties"]["type"]["enum"], json!(keys));
    assert_eq!(table["properties"]["value"]["enum"], json!(values));
    let ifs: Vec<&Value> = table["allOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["if"]["properties"])
        .collect();
    for name in keys {
        assert!(ifs.iter().any(|i| i["type"]["const"] == name), "{name}");
    }
    for name in values {
        assert!(ifs.iter().any(|i| i["value"]["const"] == name), "{name}");
    }
    for (name, kind) in [
        ("bytes", quantity::BYTES),
        ("rate", quantity::RATE),
        ("time", quantity::TIME),
    ] {
        let validator = validator(&json!({ "$ref": format!("#/$defs/{name}"), "$defs": defs }));
        for unit in kind.units() {
            assert!(validator.is_valid(&json!(format!("1.5{unit}"))), "{unit}");
        }
        assert!(!validator.is_valid(&json!("1.5x")));
    }
}

#[test]
fn it_is_a_schema() {
    assert!(jsonschema::meta::is_valid(&schema(&registry()).unwrap()));
}
