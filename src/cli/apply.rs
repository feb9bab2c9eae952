//! `emptcp apply`

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Context;
use super::Done;
use super::bind_policy;
use super::budget;
use super::load_policy;
use super::part_of;
use super::print_invalid;
use super::print_json;
use super::running_kernel;
use crate::datapath::Apply;
use crate::datapath::Outcome;
use crate::datapath::interfaces;
use crate::datapath::policy as policy_in_force;
use crate::plan::Plan;
use crate::plan::plan;
use crate::policy::canonical;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy, or a folder of fragments (*.json).
    path: PathBuf,
    /// Print what would change, and change nothing (exit code 3: something would).
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    let Some(policy) = load_policy(context, &args.path)? else {
        return Ok(Done::Invalid);
    };
    let interfaces = interfaces()?;
    let kernel = running_kernel()?;
    let planned = bind_policy(context, &policy, &interfaces, kernel).and_then(|chains| {
        let plan = plan(
            &chains,
            context.registry.modules(),
            &interfaces.0,
            &budget(),
        )?;
        Ok((chains, plan))
    });
    let (chains, plan) = match planned {
        Ok(planned) => planned,
        Err(errors) => return print_invalid(context, &errors),
    };
    let apply = Apply {
        registry: &context.registry,
        kernel,
        policy: canonical(&policy),
        chains: &chains,
        plan: &plan,
        interfaces: &interfaces,
    };
    if args.dry_run {
        return dry_run(context, &apply, &plan);
    }
    let outcome = apply.run()?;
    if context.json {
        print_json(&match outcome {
            Outcome::Unchanged => json!({ "changed": false }),
            Outcome::Applied { generation } => json!({ "changed": true, "generation": generation }),
        })?;
    } else if outcome == Outcome::Unchanged {
        eprintln!("emptcp: nothing to change");
    }
    Ok(Done::Yes)
}

/// Chains that are new, gone or different, in terms of the policy.
#[derive(Debug, Default, serde::Serialize)]
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

fn dry_run(context: &Context, apply: &Apply<'_>, plan: &Plan) -> Result<Done> {
    let changes = apply.would_change()?;
    let before = policy_in_force()?;
    let (before, drift) = before.unwrap_or_default();
    let mut chains = Changes::default();
    for (name, chain) in named(&apply.policy) {
        match named(&before).find(|(n, _)| *n == name) {
            None => chains.added.push(name.to_owned()),
            Some((_, old)) if old != chain => chains.changed.push(name.to_owned()),
            Some(_) => {}
        }
    }
    for (name, _) in named(&before) {
        if !named(&apply.policy).any(|(n, _)| n == name) {
            chains.removed.push(name.to_owned());
        }
    }
    if context.json {
        let places: Vec<_> = plan
            .attachments
            .iter()
            .map(|a| {
                let steps = plan.classes[a.class].graph.nodes.len();
                json!({ "interface": a.interface, "hook": a.hook.name(), "part": a.part + 1,
                    "parts": a.parts, "steps": steps })
            })
            .collect();
        print_json(&json!({
            "would_change": changes, "chains": chains, "attachments": places, "drift": drift
        }))?;
    } else {
        for (sign, names) in [
            ('+', &chains.added),
            ('~', &chains.changed),
            ('-', &chains.removed),
        ] {
            for name in names {
                println!("{sign} chain {name}");
            }
        }
        for line in &drift {
            println!("! {line}");
        }
        for attachment in &plan.attachments {
            let steps = plan.classes[attachment.class].graph.nodes.len();
            let plural = if steps == 1 { "" } else { "s" };
            println!(
                "  {} {}{}: {steps} step{plural}",
                attachment.interface,
                attachment.hook,
                part_of(attachment.part + 1, attachment.parts)
            );
        }
        if !changes {
            eprintln!("emptcp: nothing to change");
        }
    }
    Ok(if changes {
        Done::WouldChange
    } else {
        Done::Yes
    })
}

/// The chains of a policy in its canonical form.
fn named(policy: &serde_json::Value) -> impl Iterator<Item = (&str, &serde_json::Value)> {
    let chains = policy.get("chains").and_then(|c| c.as_array());
    chains
        .into_iter()
        .flatten()
        .filter_map(|c| Some((c.get("name")?.as_str()?, c)))
}
