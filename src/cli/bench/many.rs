// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! The miss path: what a packet costs that many chains look at and none selects.

use std::collections::BTreeMap;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::Frame;
use super::Instance;
use super::Options;
use super::bind;
use super::compile;
use super::invalid;
use super::read;
use super::table;
use crate::graph::Budget;
use crate::graph::longest_path;
use crate::graph::split;
use crate::module::Hook;
use crate::module::KernelVersion;
use crate::module::Kind;
use crate::module::Registry;
use crate::params::AnyInterface;

/// Expressions of a chain by what is special about them; `{n}` is the number of the chain.
const SHAPES: &str = include_str!("../../../benches/many.json");
/// So many chains at one hook.
const COUNTS: [usize; 4] = [1, 16, 24, 64];

/// Many chains that all miss; nanoseconds, medians.
#[derive(Debug, Serialize)]
pub(super) struct ManyCost {
    hook: &'static str,
    shape: String,
    chains: usize,
    /// Programs that the chains are split over.
    parts: usize,
    /// Tail calls of the longest path of one of these.
    calls: usize,
    ns: f64,
    /// The entry program without a step.
    entry_ns: f64,
}

/// What was loaded for one of these.
pub(super) struct Many {
    cost: ManyCost,
    hook: Hook,
    parts: Vec<usize>,
}

/// Loads all shapes in all numbers at a hook; where they do not fit they are left out.
pub(super) fn load(
    registry: &Registry,
    kernel: KernelVersion,
    hook: Hook,
    bench: &mut Bench,
) -> Result<Vec<Many>> {
    let modules = registry.modules();
    let shapes: BTreeMap<String, Value> = serde_json::from_str(SHAPES)?;
    // One that only looks: what is known stays known behind it.
    let actor = modules.iter().find(|m| {
        m.kind == Kind::Actor
            && m.flags.observes
            && !m.flags.ends
            && m.params.iter().all(|p| !p.required)
    });
    let actor = &actor.context("no actor only observes")?.name;
    let budget = Budget::default();
    let packet = Frame::default().bytes();
    let mut all = Vec::new();
    for (shape, select) in shapes {
        for count in COUNTS {
            let chain = |n: usize| -> Result<Value> {
                let select = select.to_string().replace("{n}", &n.to_string());
                let select: Value = serde_json::from_str(&select)?;
                Ok(
                    json!({ "name": format!("c{n}"), "hook": hook.name(), "interfaces": ["bench"],
                    "select": select, "act": [{ actor.as_str(): {} }] }),
                )
            };
            let chains = (0..count).map(chain).collect::<Result<Vec<_>>>()?;
            let policy = read(&json!({ "version": 1, "chains": chains }).to_string())?;
            let bound = bind(&policy, modules, &AnyInterface).map_err(invalid)?;
            let bound: Vec<_> = bound.iter().collect();
            let Ok(parts) = split(hook, &bound, modules, &budget) else {
                continue;
            };
            let mut many = Many {
                cost: ManyCost {
                    hook: hook.name(),
                    shape: shape.clone(),
                    chains: count,
                    parts: parts.len(),
                    calls: 0,
                    ns: 0.0,
                    entry_ns: 0.0,
                },
                hook,
                parts: Vec::new(),
            };
            for part in parts {
                let graph = compile(hook, &bound[part], modules);
                let (calls, _) = longest_path(&graph, modules, &budget);
                many.cost.calls = many.cost.calls.max(calls);
                let instance = Instance::load(registry, kernel, graph, Options::default())?;
                instance.run(&packet, None, 1)?;
                let reasons = instance.reasons()?;
                ensure!(reasons.is_empty(), "{count} chains, {shape}: {reasons:?}");
                many.parts
                    .push(bench.add_instance(hook.into(), instance, &packet)?);
            }
            all.push(many);
        }
    }
    Ok(all)
}

/// With what was measured. `floor`, `entry`: of the hook.
pub(super) fn cost(
    many: Many,
    bench: &Bench,
    floor: impl Fn(Hook) -> f64,
    entry: impl Fn(Hook) -> f64,
) -> ManyCost {
    let floor = floor(many.hook);
    let net = |part: &usize| bench.median(*part) - floor;
    ManyCost {
        ns: floor + many.parts.iter().map(net).sum::<f64>(),
        entry_ns: entry(many.hook),
        ..many.cost
    }
}

pub(super) fn print(all: &[ManyCost]) {
    let mut table = table(
        &[
            "HOOK",
            "CHAINS",
            "MISSED BY",
            "PARTS",
            "CALLS",
            "ALL",
            "ENTRY",
            "A CHAIN",
        ],
        &[1, 3, 4, 5, 6, 7],
    );
    for m in all {
        table.add_row([
            m.hook.to_owned(),
            m.chains.to_string(),
            m.shape.clone(),
            m.parts.to_string(),
            m.calls.to_string(),
            format!("{:.0}", m.ns),
            format!("{:.0}", m.entry_ns),
            format!("{:.1}", (m.ns - m.entry_ns) / m.chains as f64),
        ]);
    }
    println!("\n{table}");
}
