//! A policy as one JSON document.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::names::table_key_name;
use super::names::value_type_name;
use super::quantity;
use super::*;

/// The policy as one document: what `show --json` prints and `apply` reads.
///
/// Keys are in the order of the format's description. Fields that have their default are
/// left out; parameters, expressions and elements stay as written. Chains stand in
/// the order of the fragments, so that the ties of [`Policy::in_order`] remain.
/// Parsing it gives an equal policy.
pub fn canonical(policy: &Policy) -> Value {
    let mut document = Map::new();
    document.insert("version".into(), json!(VERSION));
    put(&mut document, "$schema", policy.schema.as_deref());
    put(&mut document, "comment", policy.comment.as_deref());
    let limits: Map<String, Value> = policy
        .limits
        .iter()
        .map(|(key, n)| ((*key).to_owned(), json!(n.value)))
        .collect();
    put_object(&mut document, "limits", limits);
    if !policy.track.is_empty() {
        document.insert("track".into(), interfaces(&policy.track));
    }
    let tables = policy
        .tables
        .iter()
        .map(|t| (t.name.value.clone(), table(t)))
        .collect();
    put_object(&mut document, "tables", tables);
    let selectors = policy
        .selectors
        .iter()
        .map(|s| (s.name.value.clone(), expr(&s.expr)));
    put_object(&mut document, "selectors", selectors.collect());
    let actors = policy
        .actors
        .iter()
        .map(|a| (a.name.value.clone(), acts(&a.act)));
    put_object(&mut document, "actors", actors.collect());
    if !policy.chains.is_empty() {
        document.insert(
            "chains".into(),
            policy.chains.iter().map(canonical_chain).collect(),
        );
    }
    Value::Object(document)
}

/// [`canonical`] as text: indented by two spaces, with a newline at its end.
pub fn canonical_text(policy: &Policy) -> String {
    format!("{:#}\n", canonical(policy))
}

fn put<T: Into<Value>>(object: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

fn put_object(object: &mut Map<String, Value>, key: &str, value: Map<String, Value>) {
    put(object, key, Some(value).filter(|value| !value.is_empty()));
}

fn put_unless<T: PartialEq>(
    object: &mut Map<String, Value>,
    key: &str,
    value: &T,
    default: &T,
    shown: impl Into<Value>,
) {
    put(object, key, Some(shown).filter(|_| value != default));
}

fn table(table: &Table) -> Value {
    let mut object = Map::new();
    put(&mut object, "comment", table.comment.as_deref());
    object.insert("type".into(), table_key_name(table.key.value).into());
    put(
        &mut object,
        "value",
        table.value.as_ref().and_then(|t| value_type_name(t)),
    );
    put(
        &mut object,
        "size",
        table.size.as_ref().map(|size| size.value),
    );
    put(
        &mut object,
        "timeout",
        table.timeout.as_ref().map(|t| quantity::show_time(t.value)),
    );
    put(
        &mut object,
        "default",
        table.default.as_ref().map(Json::to_value),
    );
    put(
        &mut object,
        "elements",
        table.elements.as_ref().map(Json::to_value),
    );
    Value::Object(object)
}

fn interfaces(patterns: &[InterfacePattern]) -> Value {
    patterns.iter().map(interface).collect()
}

/// A chain as an element of `chains`, in the form of [`canonical`].
pub fn canonical_chain(chain: &Chain) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), chain.name.value.clone().into());
    put(&mut object, "comment", chain.comment.as_deref());
    let hook = match chain.hooks.as_slice() {
        [hook] => hook.name().into(),
        hooks => hooks.iter().map(|hook| Value::from(hook.name())).collect(),
    };
    object.insert("hook".into(), hook);
    object.insert("interfaces".into(), interfaces(&chain.interfaces));
    let priority = chain.priority.value;
    put_unless(&mut object, "priority", &priority, &0, priority);
    put_unless(&mut object, "enabled", &chain.enabled, &true, chain.enabled);
    put_unless(
        &mut object,
        "while_up",
        &chain.while_up,
        &Vec::new(),
        interfaces(&chain.while_up),
    );
    put_unless(&mut object, "zone", &chain.zone, &0, chain.zone);
    put_unless(
        &mut object,
        "on_error",
        &chain.on_error,
        &OnError::Pass,
        "drop",
    );
    put_object(&mut object, "xdp", xdp(&chain.xdp));
    let position = match &chain.position {
        Position::First => json!("first"),
        Position::Last => json!("last"),
        Position::BeforeId(id) => json!({ "before": id }),
        Position::BeforeName(name) => json!({ "before": name }),
    };
    put_unless(
        &mut object,
        "position",
        &chain.position,
        &Position::Last,
        position,
    );
    put(&mut object, "select", chain.select.as_ref().map(expr));
    object.insert("act".into(), acts(&chain.act));
    Value::Object(object)
}

fn interface(pattern: &InterfacePattern) -> Value {
    let name = &pattern.name.value;
    if pattern.optional {
        json!({ "name": name, "optional": true })
    } else {
        json!(name)
    }
}

fn xdp(options: &XdpOptions) -> Map<String, Value> {
    let mut object = Map::new();
    let mode = match options.mode {
        XdpMode::Auto => "auto",
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    };
    put_unless(&mut object, "mode", &options.mode, &XdpMode::Auto, mode);
    put_unless(&mut object, "replace", &options.replace, &false, true);
    put_unless(
        &mut object,
        "trust_checksums",
        &options.trust_checksums,
        &false,
        true,
    );
    object
}

fn one(key: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value)]))
}

fn expr(expression: &Expr) -> Value {
    match &expression.node {
        ExprNode::All(parts) => one("all", parts.iter().map(expr).collect()),
        ExprNode::Any(parts) => one("any", parts.iter().map(expr).collect()),
        ExprNode::Not(part) => one("not", expr(part)),
        ExprNode::Use(name) => one("use", name.value.clone().into()),
        ExprNode::Step(step) => one(&step.module, step.params.to_value()),
    }
}

fn acts(acts: &[Act]) -> Value {
    let act = |act: &Act| match act {
        Act::Use(name) => one("use", name.value.clone().into()),
        Act::Step(step) => one(&step.module, step.params.to_value()),
    };
    acts.iter().map(act).collect()
}
