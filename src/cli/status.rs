//! `emptcp status`

use anyhow::Result;
use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::Context;
use super::Done;
use super::part_of;
use super::print_drift;
use super::print_json;
use crate::datapath::NamespaceStatus;
use crate::datapath::StateView;
use crate::datapath::Status;
use crate::datapath::interfaces;
use crate::datapath::state;
use crate::datapath::status;
use crate::datapath::status_all;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A line for each network namespace that has a policy.
    #[arg(long)]
    all: bool,
    /// Also what the modules keep in their maps, such as the counts of record.
    #[arg(long, conflicts_with = "all")]
    state: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    if args.all {
        let all = status_all()?;
        if context.json {
            print_json(&all)?;
        } else {
            print_all(&all);
        }
        return Ok(Done::Yes);
    }
    let status = status()?;
    let kept = if args.state {
        state(&context.registry, &interfaces()?)?
    } else {
        Vec::new()
    };
    if context.json {
        let mut json = serde_json::to_value(&status)?;
        if let (true, Some(object)) = (args.state, json.as_object_mut()) {
            object.insert("state".to_owned(), serde_json::to_value(&kept)?);
        }
        print_json(&json)?;
        return Ok(Done::Yes);
    }
    match status {
        Some(status) => print(&status),
        None => eprintln!("emptcp: no policy is in force in this network namespace"),
    }
    kept.iter().for_each(print_state);
    Ok(Done::Yes)
}

fn print(status: &Status) {
    println!("generation {}, pins in {}", status.generation, status.pins);
    if let Some(applied) = &status.applied {
        println!("applied from {}", applied.from);
    }
    let mut places = table(
        &["INTERFACE", "HOOK", "VIA", "PROGRAM", "STEPS", "CHAINS"],
        &[3, 4],
    );
    for a in &status.attachments {
        places.add_row([
            a.interface.clone(),
            format!("{}{}", a.hook, part_of(a.part, a.parts)),
            a.via.clone(),
            a.program.to_string(),
            a.steps.to_string(),
            a.chains.join(", "),
        ]);
    }
    println!();
    print_table(&places);

    let mut header = vec![
        "CHAIN",
        "HOOK",
        "PACKETS",
        "BYTES",
        "STEP",
        "MODULE",
        "EVALUATED",
        "MATCHED",
        "ERRORS",
    ];
    let mut all = status.chains.iter().flat_map(|chain| &chain.steps);
    if all.any(|step| !step.shared_with.is_empty()) {
        header.push("SHARED WITH");
    }
    let mut steps = table(&header, &[2, 3, 6, 7, 8]);
    for chain in &status.chains {
        for (index, step) in chain.steps.iter().enumerate() {
            let [name, hook, packets, bytes] = match index {
                0 => [
                    chain.name.clone(),
                    chain.hook.clone(),
                    chain.packets.to_string(),
                    chain.bytes.to_string(),
                ],
                _ => Default::default(),
            };
            let own = step
                .step
                .strip_prefix(&format!("{}/", chain.name))
                .unwrap_or(&step.step);
            steps.add_row([
                name,
                hook,
                packets,
                bytes,
                own.to_owned(),
                step.module.clone(),
                step.counters.evaluated.to_string(),
                step.counters.matched.to_string(),
                step.counters.errors.to_string(),
                step.shared_with.join(", "),
            ]);
        }
    }
    println!();
    print_table(&steps);
    if !status.reasons.is_empty() {
        println!();
    }
    for (hook, reasons) in &status.reasons {
        for (reason, packets) in reasons {
            println!("{hook}: {packets} packets could not be treated: {reason}");
        }
    }
    if status.waiting > 0 {
        println!(
            "{} directions of subflows wait for a packet (emptcp run sends one)",
            status.waiting
        );
    }
    let held = &status.held_joins;
    if held.waiting > 0 {
        println!("{} further subflows are held", held.waiting);
    }
    if held.expired > 0 {
        println!(
            "{} further subflows were held until their client gave up",
            held.expired
        );
    }
    for (why, count) in &held.left {
        println!("  {count} of them not asked for again: {why}");
    }
    if held.asked > 0 {
        println!(
            "{} further subflows were held until their client gave up, and asked for again",
            held.asked
        );
    }
    print_drift(&status.drift, status.applied.as_ref());
}

fn print_state(view: &StateView) {
    let header: Vec<String> = view.fields.iter().map(|f| f.to_uppercase()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let is_number = |field: &String| {
        view.entries
            .iter()
            .all(|e| e[field].is_number() || e[field].is_null())
    };
    let right: Vec<usize> = (0..view.fields.len())
        .filter(|i| is_number(&view.fields[*i]))
        .collect();
    let mut table = table(&header, &right);
    for entry in &view.entries {
        table.add_row(view.fields.iter().map(|f| match &entry[f] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "-".to_owned(),
            other => other.to_string(),
        }));
    }
    println!("\n{} of module {}:", view.map, view.module);
    print_table(&table);
}

fn print_all(all: &[NamespaceStatus]) {
    let mut table = table(&["NETNS", "NAMES", "GENERATION", "CHAINS", "PINS"], &[0, 2]);
    for namespace in all {
        table.add_row([
            namespace.netns.to_string(),
            namespace.names.join(", "),
            namespace.generation.to_string(),
            namespace.chains.join(", "),
            namespace.pins.clone(),
        ]);
    }
    print_table(&table);
}

/// A table without lines; `right`: columns of numbers.
pub(super) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Without the blanks that fill the last column.
pub(super) fn print_table(table: &Table) {
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}
