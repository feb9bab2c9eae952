//! `emptcp explain`

use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::Context;
use super::Done;
use super::check::with_plan;
use super::part_of;
use super::print_json;
use super::show::expression;
use super::status::print_table;
use super::status::table;
use crate::graph::Budget;
use crate::graph::Graph;
use crate::graph::Node;
use crate::graph::Target;
use crate::graph::longest_path;
use crate::memory::Memory;
use crate::memory::estimate;
use crate::module::KernelVersion;
use crate::module::Kind;
use crate::params::InterfaceResolver;
use crate::params::decode;
use crate::plan::ClassPlan;
use crate::plan::Plan;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A policy, or a folder of fragments (*.json).
    path: PathBuf,
    /// Judge for a machine with this kernel, whatever its interfaces.
    #[arg(long, value_name = "VERSION")]
    kernel: Option<KernelVersion>,
    /// Print a graph in the language of Graphviz: emptcp explain --dot FILE | dot -Tsvg
    #[arg(long, conflicts_with = "json")]
    dot: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Done> {
    with_plan(context, &args.path, args.kernel, |checked| {
        let (plan, budget) = (&checked.plan, &checked.budget);
        let runs: Vec<Run<'_>> = (0..plan.classes.len())
            .map(|class| Run::new(context, plan, class, budget, &checked.host))
            .collect();
        if args.dot {
            print!("{}", dot(&runs));
            return Ok(());
        }
        let cpus = libbpf_rs::num_possible_cpus().context("cannot count the CPUs")?;
        let memory = estimate(
            plan,
            &checked.tables,
            &context.registry,
            budget,
            cpus as u64,
        )?;
        if context.json {
            let attachments: Vec<Value> = runs.iter().map(Run::json).collect();
            let memory = json!({ "programs": memory.programs, "maps": memory.maps, "cpus": cpus });
            print_json(&json!({ "attachments": attachments, "memory": memory }))?;
        } else {
            runs.iter().for_each(Run::print);
            print_memory(memory, cpus);
        }
        Ok(())
    })
}

/// What packets can meet at one hook of interfaces that have the same chains.
struct Run<'p> {
    class: &'p ClassPlan,
    interfaces: Vec<&'p str>,
    part: String,
    steps: Vec<Step<'p>>,
    /// Steps that are one program.
    programs: Vec<Vec<usize>>,
    /// The longest path, its calls and those granted.
    longest: Vec<usize>,
    calls: usize,
    most_calls: usize,
}

/// A node of the graph, in words.
struct Step<'p> {
    node: &'p Node,
    chain: String,
    /// Where it stands in the chain.
    place: &'p str,
    module: &'p str,
    params: Value,
    ends: bool,
}

impl<'p> Run<'p> {
    fn new(
        context: &'p Context,
        plan: &'p Plan,
        index: usize,
        budget: &Budget<'_>,
        interfaces: &dyn InterfaceResolver,
    ) -> Self {
        let class = &plan.classes[index];
        let modules = context.registry.modules();
        let step = |node: &'p Node| {
            let module = &modules[node.module];
            let (chain, place) = node.key.split_once('/').unwrap_or(("", &node.key));
            Step {
                node,
                chain: chain.to_owned(),
                place,
                module: &module.name,
                params: decode(module, &node.params, interfaces),
                ends: module.flags.ends,
            }
        };
        let attached = || plan.attachments.iter().filter(|a| a.class == index);
        let (calls, longest) = longest_path(&class.graph, modules, budget);
        Self {
            class,
            interfaces: attached().map(|a| a.interface.as_str()).collect(),
            part: attached()
                .next()
                .map_or(String::new(), |a| part_of(a.part + 1, a.parts)),
            steps: class.graph.nodes.iter().map(step).collect(),
            programs: (budget.groups)(&class.graph, modules),
            longest: longest.into_iter().map(|(node, _)| node).collect(),
            calls,
            most_calls: budget.calls,
        }
    }

    fn graph(&self) -> &Graph {
        &self.class.graph
    }

    fn title(&self) -> String {
        format!(
            "{} of {}{}",
            self.class.hook,
            self.interfaces.join(", "),
            self.part
        )
    }

    fn print(&self) {
        let path: Vec<String> = self.longest.iter().map(|i| (i + 1).to_string()).collect();
        println!(
            "{}: longest path {} of {} calls: {}",
            self.title(),
            self.calls,
            self.most_calls,
            path.join(" → ")
        );
        println!();
        let mut steps = table(
            &["STEP", "CHAIN", "PLACE", "WHAT", "MATCH", "MISS", "ERROR"],
            &[0],
        );
        let mut chain = "";
        for (index, step) in self.steps.iter().enumerate() {
            let [to, miss, error] = step.leads_to().map(|target| target.map(word));
            let again = chain == step.chain;
            chain = &step.chain;
            steps.add_row([
                (index + 1).to_string(),
                if again {
                    String::new()
                } else {
                    step.chain.clone()
                },
                step.place.to_owned(),
                step.what(),
                to.unwrap_or("ends".to_owned()),
                miss.unwrap_or_default(),
                error.unwrap_or_default(),
            ]);
        }
        print_table(&steps);
        for (number, program) in self.programs.iter().enumerate() {
            let steps: Vec<String> = program.iter().map(|i| (i + 1).to_string()).collect();
            println!("program {}: steps {}", number + 1, steps.join(", "));
        }
        for step in self.steps.iter().filter(|s| !s.node.also.is_empty()) {
            println!(
                "{} stands for {} too",
                step.node.key,
                step.also().join(", ")
            );
        }
        println!();
    }

    fn json(&self) -> Value {
        let number = |index: &usize| index + 1;
        let numbers = |nodes: &Vec<usize>| nodes.iter().map(number).collect::<Vec<_>>();
        let programs: Vec<Vec<usize>> = self.programs.iter().map(numbers).collect();
        let steps: Vec<Value> = self
            .steps
            .iter()
            .enumerate()
            .map(|(index, step)| {
                let [to, miss, error] = step.leads_to().map(|t| t.map_or(Value::Null, target));
                json!({
                    "number": index + 1,
                    "step": step.node.key,
                    "chain": step.chain,
                    "module": step.module,
                    "kind": step.node.kind.name(),
                    "params": step.params,
                    "match": to,
                    "miss": miss,
                    "error": error,
                    "also": step.also(),
                })
            })
            .collect();
        json!({
            "hook": self.class.hook.name(),
            "interfaces": self.interfaces,
            "start": target(self.graph().start),
            "calls": self.calls,
            "longest_path": self.longest.iter().map(number).collect::<Vec<_>>(),
            "programs": programs,
            "steps": steps,
        })
    }
}

impl Step<'_> {
    /// Equal tests that this one stands for.
    fn also(&self) -> Vec<&str> {
        self.node
            .also
            .iter()
            .map(|also| also.key.as_str())
            .collect()
    }

    /// `dport(in=[22])`
    fn what(&self) -> String {
        expression(&json!({ self.module: self.params }))
    }

    /// Where a match (of an actor: what comes next), a miss and an error lead, if anywhere.
    fn leads_to(&self) -> [Option<Target>; 3] {
        let node = self.node;
        [
            (!self.ends).then_some(node.match_to),
            (node.kind == Kind::Selector).then_some(node.miss_to),
            Some(node.error_to),
        ]
    }
}

fn word(target: Target) -> String {
    match target {
        Target::Node(index) => (index + 1).to_string(),
        Target::Pass => "pass".to_owned(),
        Target::Drop => "drop".to_owned(),
    }
}

fn target(target: Target) -> Value {
    match target {
        Target::Node(index) => json!(index + 1),
        other => json!(word(other)),
    }
}

fn print_memory(memory: Memory, cpus: usize) {
    println!(
        "memory: about {} ({} programs, {} maps; {cpus} CPUs)",
        size(memory.total()),
        size(memory.programs),
        size(memory.maps)
    );
}

fn size(bytes: u64) -> String {
    match bytes.div_ceil(1024) {
        kib if kib < 10 * 1024 => format!("{kib} KiB"),
        kib => format!("{} MiB", kib.div_ceil(1024)),
    }
}

/// A cluster for each run, within it one for each chain.
fn dot(runs: &[Run<'_>]) -> String {
    let mut out = String::from("digraph emptcp {\n\tnode [shape=box, style=rounded];\n");
    for (number, run) in runs.iter().enumerate() {
        let end = |target: Target| match target {
            Target::Node(index) => format!("r{number}s{}", index + 1),
            other => format!("r{number}{}", word(other)),
        };
        out += &format!(
            "\tsubgraph cluster_r{number} {{\n\t\tlabel={};\n\t\tr{number}start [label=packet, shape=oval];\n",
            text(&run.title())
        );
        for (index, step) in run.steps.iter().enumerate() {
            let label = format!("{}  {}\n{}", index + 1, step.node.key, step.what());
            let shape = if step.node.kind == Kind::Selector {
                ""
            } else {
                ", style=\"filled,rounded\""
            };
            out += &format!(
                "\t\tr{number}s{} [label={}{shape}];\n",
                index + 1,
                text(&label)
            );
        }
        let mut ends: Vec<Target> = vec![run.graph().start];
        ends.extend(run.steps.iter().flat_map(|s| s.leads_to()).flatten());
        for (name, target) in [("pass", Target::Pass), ("drop", Target::Drop)] {
            if ends.contains(&target) {
                out += &format!("\t\tr{number}{name} [label={name}, shape=oval];\n");
            }
        }
        out += &format!("\t\tr{number}start -> {};\n", end(run.graph().start));
        for (index, step) in run.steps.iter().enumerate() {
            let words = match step.node.kind {
                Kind::Selector => ["match", "miss", "error"],
                Kind::Actor => ["", "", "error"],
            };
            for (word, target) in words.into_iter().zip(step.leads_to()) {
                let Some(target) = target else { continue };
                let style = if word == "error" {
                    ", style=dotted"
                } else {
                    ""
                };
                out += &format!(
                    "\t\tr{number}s{} -> {} [label={}{style}];\n",
                    index + 1,
                    end(target),
                    text(word)
                );
            }
        }
        out += "\t}\n";
    }
    out + "}\n"
}

/// A string of Graphviz.
fn text(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}
