//! `emptcp show`

use std::io::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::Context;
use super::Done;
use super::print_drift;
use super::print_json;
use crate::datapath::policy;

pub(super) fn run(context: &Context) -> Result<Done> {
    let Some(in_force) = policy()? else {
        if context.json {
            print_json(&serde_json::json!({ "version": 1, "chains": [] }))?;
        } else {
            eprintln!("emptcp: no policy is in force in this network namespace");
        }
        return Ok(Done::Yes);
    };
    print_drift(&in_force.drift, in_force.applied.as_ref());
    if context.json {
        print_json(&in_force.policy)?;
    } else {
        print(&in_force.policy)?;
    }
    Ok(Done::Yes)
}

/// Each chain as a paragraph: where, which packets, what is done. Then what the names
/// in them stand for.
fn print(policy: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for chain in policy["chains"].as_array().into_iter().flatten() {
        write!(out, "chain {}", text(&chain["name"]))?;
        write!(
            out,
            " at {} of {}",
            list(&chain["hook"]),
            list(&chain["interfaces"])
        )?;
        for (key, word) in [
            ("priority", "priority"),
            ("zone", "zone"),
            ("on_error", "on error"),
        ] {
            if let Some(value) = chain.get(key) {
                write!(out, ", {word} {}", text(value))?;
            }
        }
        if chain["enabled"] == Value::Bool(false) {
            write!(out, " (disabled)")?;
        }
        writeln!(out)?;
        if let Some(comment) = chain.get("comment") {
            writeln!(out, "  # {}", text(comment))?;
        }
        let select = chain
            .get("select")
            .map_or("every TCP packet".to_owned(), expression);
        writeln!(out, "  select {select}")?;
        writeln!(out, "  act {}", actors(&chain["act"]))?;
    }
    for (name, table) in policy["tables"].as_object().into_iter().flatten() {
        write!(out, "table {name}: {}", text(&table["type"]))?;
        if let Some(value) = table.get("value") {
            write!(out, " to {}", text(value))?;
        }
        for key in ["size", "timeout", "default"] {
            if let Some(value) = table.get(key) {
                write!(out, ", {key} {}", text(value))?;
            }
        }
        let count = match table.get("elements") {
            Some(Value::Array(keys)) => keys.len(),
            Some(Value::Object(map)) => map.len(),
            _ => {
                writeln!(out, ", contents of run time")?;
                continue;
            }
        };
        writeln!(out, ", {count} elements")?;
    }
    for (name, shared) in policy["selectors"].as_object().into_iter().flatten() {
        writeln!(out, "selectors {name}: {}", expression(shared))?;
    }
    for (name, shared) in policy["actors"].as_object().into_iter().flatten() {
        writeln!(out, "actors {name}: {}", actors(shared))?;
    }
    Ok(())
}

fn actors(act: &Value) -> String {
    let act: Vec<String> = act
        .as_array()
        .into_iter()
        .flatten()
        .map(expression)
        .collect();
    act.join("; ")
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(list).collect::<Vec<_>>().join(", "),
        Value::Object(object) => object.get("name").map(text).unwrap_or_default(),
        other => text(other),
    }
}

/// `all(mptcp, not dport(in=["22"]))`
pub(super) fn expression(value: &Value) -> String {
    let Some((key, inner)) = value.as_object().and_then(|o| o.iter().next()) else {
        return "every TCP packet".to_owned();
    };
    match (key.as_str(), inner) {
        ("all" | "any", Value::Array(parts)) => {
            let parts: Vec<String> = parts.iter().map(expression).collect();
            format!("{key}({})", parts.join(", "))
        }
        ("not", part) => format!("not {}", expression(part)),
        ("use", name) => text(name),
        (_, Value::Object(params)) if params.is_empty() => key.clone(),
        (_, Value::Object(params)) => {
            let params: Vec<String> = params
                .iter()
                .map(|(name, value)| format!("{name}={}", text(value)))
                .collect();
            format!("{key}({})", params.join(", "))
        }
        (_, other) => format!("{key}({other})"),
    }
}
