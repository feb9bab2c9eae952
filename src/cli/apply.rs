//! `emptcp apply`

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
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
use super::warnings;
use crate::datapath::Apply;
use crate::datapath::Host;
use crate::datapath::Judge;
use crate::datapath::Origin;
use crate::datapath::Outcome;
use crate::datapath::interfaces;
use crate::datapath::missing_fq;
use crate::datapath::policy as policy_in_force;
use crate::graph::with_tracker;
use crate::plan::Plan;
use crate::plan::plan;
use crate::policy::Policy;
use crate::policy::SECTIONS;
use crate::policy::canonical;
use crate::policy::changes;
use crate::table;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy (-: standard input), or a folder of fragments (*.json).
    path: PathBuf,
    /// Print what would change, and change nothing (exit code 3: something would).
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    let Some(policy) = load_policy(context, &args.path)? else {
        return Ok(Done::Invalid);
    };
    let origin = Origin::File(full_name(&args.path));
    // Never none: it is not made from the policy in force.
    let done = put_in_force(context, &policy, origin, args.dry_run)?;
    Ok(done.unwrap_or(Done::Yes))
}

/// The name by which a file is found from everywhere.
fn full_name(path: &Path) -> String {
    let standard_input = path == Path::new("-");
    let full = (!standard_input).then(|| fs::canonicalize(path).ok());
    full.flatten()
        .as_deref()
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Makes a policy the one in force, or says what would change. `None`: the policy from which it
/// was made is no longer in force.
pub(super) fn put_in_force(
    context: &Context,
    policy: &Policy,
    origin: Origin,
    dry_run: bool,
) -> Result<Option<Done>> {
    let host = Host::new(interfaces()?, Judge::InForce);
    let kernel = running_kernel()?;
    let whole = with_tracker(policy, context.registry.modules());
    let planned = bind_policy(context, &whole, &host, kernel).and_then(|chains| {
        let plan = plan(
            &chains,
            context.registry.modules(),
            &host.interfaces.0,
            &budget(),
        )?;
        Ok((chains, plan, table::planned(policy, &host)?))
    });
    let (chains, plan, tables) = match planned {
        Ok(planned) => planned,
        Err(errors) => return print_invalid(context, &errors).map(Some),
    };
    let unpaced = missing_fq(&plan, context.registry.modules())?;
    if !unpaced.is_empty() {
        return print_invalid(context, &unpaced).map(Some);
    }
    let apply = Apply {
        registry: &context.registry,
        kernel,
        policy: canonical(policy),
        origin,
        chains: &chains,
        plan: &plan,
        interfaces: &host.interfaces,
        cgroups: host.cgroups(),
        tables: &tables,
        limits: policy.limits(),
    };
    let here = Some((&host.interfaces, kernel));
    let mut warnings = warnings::warnings(&plan, context.registry.modules(), here);
    warnings.extend(warnings::waiting(policy, &host.interfaces));
    if dry_run {
        return would_change(context, &apply, &plan, &warnings).map(Some);
    }
    let outcome = apply.run()?;
    if outcome == Outcome::Overtaken {
        return Ok(None);
    }
    if outcome == Outcome::Unchanged && context.quiet {
        return Ok(Some(Done::Yes));
    }
    if context.json {
        print_json(&match outcome {
            Outcome::Applied { generation } => {
                json!({ "changed": true, "generation": generation, "warnings": warnings })
            }
            Outcome::Unchanged | Outcome::Overtaken => json!({ "changed": false }),
        })?;
    } else if outcome == Outcome::Unchanged {
        eprintln!("emptcp: nothing to change");
    } else {
        warnings::print(&warnings);
    }
    Ok(Some(Done::Yes))
}

fn would_change(
    context: &Context,
    apply: &Apply<'_>,
    plan: &Plan,
    warnings: &[String],
) -> Result<Done> {
    let would_change = apply.would_change()?;
    let (before, drift) = match policy_in_force()? {
        Some(before) => (before.policy, before.drift),
        None => (Value::Null, Vec::new()),
    };
    let mut changes = changes(&before, &apply.policy);
    // What becomes of their entries says more than that their definitions differ.
    changes.remove("tables");
    let tables = apply.table_changes()?;
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
        let mut output = json!({
            "would_change": would_change,
            "chains": changes.remove("chains").unwrap_or_default(),
            "attachments": places,
            "drift": drift,
            "tables": tables,
            "warnings": warnings,
        });
        for (section, changes) in changes {
            output[section] = serde_json::to_value(changes)?;
        }
        print_json(&output)?;
    } else {
        for (section, what) in SECTIONS {
            let changes = changes.remove(section).unwrap_or_default();
            for (sign, names) in [
                ('+', &changes.added),
                ('~', &changes.changed),
                ('-', &changes.removed),
            ] {
                for name in names {
                    println!("{sign} {what} {name}");
                }
            }
        }
        for table in &tables {
            let sign = match table.change {
                "added" => '+',
                "removed" => '-',
                _ => '~',
            };
            println!("{sign} table {}: {}", table.name, table.entries);
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
        if would_change {
            warnings::print(warnings);
        } else {
            eprintln!("emptcp: nothing to change");
        }
    }
    Ok(if would_change {
        Done::WouldChange
    } else {
        Done::Yes
    })
}
