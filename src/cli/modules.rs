//! `emptcp modules`

use std::path::PathBuf;

use anyhow::Result;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;

use super::Context;
use super::Done;
use super::print_json;
use crate::module::Module;
use crate::module::Param;
use crate::policy::nearest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only the module of this name.
    name: Option<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    let all = context.registry.modules();
    let wanted: Vec<(usize, &Module)> = all
        .iter()
        .enumerate()
        .filter(|(_, m)| args.name.as_ref().is_none_or(|n| m.is_named(n)))
        .collect();
    let files = |index| context.registry.files(index);
    if let (Some(name), true) = (&args.name, wanted.is_empty()) {
        let nearest = nearest(name, all.iter().map(|m| m.name.as_str()));
        let hint = nearest.map_or(String::new(), |n| format!("; did you mean {n:?}?"));
        bail!("there is no module {name:?}{hint}");
    }
    if context.json {
        let described = wanted.iter().map(|(i, m)| describe(m, files(*i)));
        print_json(&described.collect::<Vec<_>>())?;
        return Ok(Done::Yes);
    }
    for (position, (index, module)) in wanted.iter().enumerate() {
        if position > 0 {
            println!();
        }
        print(module, files(*index));
    }
    Ok(Done::Yes)
}

fn print(module: &Module, files: &[PathBuf]) {
    let hooks: Vec<&str> = module.hooks.iter().map(|h| h.name()).collect();
    println!("{} {}: {}", module.kind, module.name, module.doc);
    if let Some(alias) = &module.alias {
        println!("  also named {alias}");
    }
    println!(
        "  hooks {}; Linux {} and later",
        hooks.join(", "),
        module.since
    );
    for file in files {
        println!("  from {}", file.display());
    }
    if module.asks_events() {
        println!("  can be asked of events (emptcp monitor --select)");
    }
    if let Some(warns) = &module.warns {
        println!("  note: {warns}");
    }
    for param in &module.params {
        println!("  {}: {}{}", param.name, param.ty, remarks(module, param));
        if !param.doc.is_empty() {
            println!("      {}", param.doc);
        }
    }
}

fn remarks(module: &Module, param: &Param) -> String {
    let mut remarks = Vec::new();
    let lookup = module.params.iter().find(|p| p.lookup);
    match lookup.filter(|table| table.name != param.name) {
        Some(table) if param.required => remarks.push(format!("required without {}", table.name)),
        _ if param.required => remarks.push("required".to_owned()),
        _ => {}
    }
    for (word, value) in [
        ("default", &param.default),
        ("at least", &param.min),
        ("at most", &param.max),
    ] {
        if let Some(value) = value {
            remarks.push(format!("{word} {value}"));
        }
    }
    if param.tracked_unless {
        remarks.push("without it, packets are tracked".to_owned());
    }
    if remarks.is_empty() {
        String::new()
    } else {
        format!(" ({})", remarks.join(", "))
    }
}

fn describe(module: &Module, files: &[PathBuf]) -> Value {
    let params: Vec<Value> = module
        .params
        .iter()
        .map(|p| {
            let mut param = json!({
                "name": p.name,
                "type": p.ty.to_string(),
                "doc": p.doc,
                "required": p.required,
                "lookup": p.lookup,
                "tracked_unless": p.tracked_unless,
            });
            for (key, value) in [("default", &p.default), ("min", &p.min), ("max", &p.max)] {
                if let Some(value) = value {
                    param[key] = json!(value);
                }
            }
            param
        })
        .collect();
    json!({
        "name": module.name,
        "alias": module.alias,
        "kind": module.kind.name(),
        "hooks": module.hooks.iter().map(|h| h.name()).collect::<Vec<_>>(),
        "since": module.since.to_string(),
        "doc": module.doc,
        "flags": {
            "impure": module.flags.impure,
            "edits": module.flags.edits,
            "observes": module.flags.observes,
            "ends": module.flags.ends,
            "fq": module.flags.fq,
            "tracked": module.flags.tracked,
        },
        "events": module.asks_events(),
        "warns": module.warns,
        "params": params,
        "builtin": files.is_empty(),
        "files": files.iter().map(|f| f.to_string_lossy()).collect::<Vec<_>>(),
    })
}
