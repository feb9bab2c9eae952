//! `emptcp check`

use std::path::Path;
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
use super::warnings;
use crate::datapath::Host;
use crate::datapath::Judge;
use crate::datapath::interfaces;
use crate::datapath::missing_fq;
use crate::graph::Budget;
use crate::graph::with_tracker;
use crate::interface::Interface;
use crate::interface::Interfaces;
use crate::module::KernelVersion;
use crate::plan::Plan;
use crate::plan::longest_paths;
use crate::plan::plan;
use crate::policy::Policy;
use crate::table;
use crate::table::Planned;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy (-: standard input), or a folder of fragments (*.json).
    path: PathBuf,
    /// Judge for a machine with this kernel, whatever its interfaces.
    #[arg(long, value_name = "VERSION")]
    kernel: Option<KernelVersion>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    with_plan(context, &args.path, args.kernel, |checked| {
        let Checked {
            plan,
            tables,
            budget,
            ..
        } = checked;
        let paths = longest_paths(plan, context.registry.modules(), budget);
        if context.json {
            let paths: Vec<_> = paths
                .iter()
                .map(|(a, calls)| {
                    json!({ "interface": a.interface, "hook": a.hook.name(), "part": a.part + 1,
                        "parts": a.parts, "longest_path": calls })
                })
                .collect();
            let tables: Vec<_> = tables.iter().map(describe).collect();
            print_json(&json!({
                "valid": true, "attachments": paths, "tables": tables,
                "warnings": checked.warnings,
            }))?;
        } else {
            for (a, calls) in paths {
                let part = part_of(a.part + 1, a.parts);
                println!(
                    "{} {}{part}: longest path {calls} of {} calls",
                    a.interface, a.hook, budget.calls
                );
            }
            for table in tables {
                let (empty, full) = table.definition.memory();
                println!(
                    "table {}: room for {} entries, memory about {} empty, {} full",
                    table.name,
                    table.definition.size,
                    megabytes(empty),
                    megabytes(full)
                );
            }
        }
        Ok(())
    })
}

/// A policy that is valid, laid out.
pub(super) struct Checked {
    pub(super) plan: Plan,
    pub(super) tables: Vec<Planned>,
    pub(super) host: Host,
    pub(super) budget: Budget<'static>,
    /// What to know before it is put in force.
    pub(super) warnings: Vec<String>,
}

/// Reads, checks and lays out a policy, and shows the plan; of a policy that is not valid, what is
/// wrong. `kernel`: of another machine, whatever its interfaces.
pub(super) fn with_plan(
    context: &Context,
    path: &Path,
    kernel: Option<KernelVersion>,
    show: impl FnOnce(&Checked) -> Result<()>,
) -> Result<Done> {
    let Some(policy) = load_policy(context, path)? else {
        return Ok(Done::Invalid);
    };
    // For another machine every interface that the policy names is there.
    let host = match kernel {
        Some(_) => Host::new(named_interfaces(&policy), Judge::Elsewhere),
        None => Host::new(interfaces()?, Judge::Checked),
    };
    let budget = budget();
    let elsewhere = kernel.is_some();
    let kernel = kernel.map_or_else(running_kernel, Ok)?;
    let whole = with_tracker(&policy, context.registry.modules());
    let planned = bind_policy(context, &whole, &host, kernel).and_then(|chains| {
        let plan = plan(
            &chains,
            context.registry.modules(),
            &host.interfaces.0,
            &budget,
        )?;
        Ok((plan, table::planned(&policy, &host)?))
    });
    match planned {
        Ok((plan, tables)) => {
            let here = (!elsewhere).then_some((&host.interfaces, kernel));
            let warnings = warnings::warnings(&plan, context.registry.modules(), here);
            let checked = Checked {
                plan,
                tables,
                host,
                budget,
                warnings,
            };
            warn(context, &checked, elsewhere)?;
            show(&checked).map(|()| Done::Yes)
        }
        Err(errors) => print_invalid(context, &errors),
    }
}

/// Tells what is not as the policy needs it here and now, though the policy is right.
fn warn(context: &Context, checked: &Checked, elsewhere: bool) -> Result<()> {
    if !context.json {
        warnings::print(&checked.warnings);
    }
    if elsewhere {
        return Ok(());
    }
    let unpaced = missing_fq(&checked.plan, context.registry.modules())?;
    let unpaced = unpaced.iter().map(ToString::to_string);
    for why in checked.host.missing().into_iter().chain(unpaced) {
        eprintln!("emptcp: warning: {why} (apply would refuse the policy)");
    }
    Ok(())
}

fn describe(table: &Planned) -> serde_json::Value {
    let (empty, full) = table.definition.memory();
    json!({
        "name": table.name, "size": table.definition.size,
        "bytes_empty": empty, "bytes_full": full,
    })
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Hardware interfaces with the names that a policy uses.
fn named_interfaces(policy: &Policy) -> Interfaces {
    let mut found = Interfaces::default();
    let chains = policy.chains.iter();
    for pattern in chains.flat_map(|c| c.interfaces.iter().chain(&c.while_up)) {
        let name = &pattern.name.value;
        if found.0.iter().all(|i| i.name != *name) {
            found.0.push(Interface {
                index: found.0.len() as u32 + 1,
                name: name.clone(),
                altnames: Vec::new(),
                mtu: 1500,
                up: true,
                kind: None,
                raw_ip: false,
                xdp_program: None,
            });
        }
    }
    found
}
