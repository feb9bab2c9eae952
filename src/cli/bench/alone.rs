//! Each module alone, with parameters and a packet with which it does its work.

use anyhow::Context as _;
use anyhow::Result;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::frame::Frame;
use super::frame::kinds;
use super::invalid;
use super::read;
use crate::datapath::Instance;
use crate::datapath::Listener;
use crate::datapath::MARK;
use crate::datapath::Options;
use crate::graph::BoundChain;
use crate::graph::Graph;
use crate::graph::Target;
use crate::graph::bind;
use crate::graph::compile;
use crate::module::Hook;
use crate::module::KernelVersion;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Registry;
use crate::module::Type;
use crate::params::AnyInterface;

/// One step behind the entry program.
#[derive(Debug, Serialize)]
pub(super) struct ModuleCost {
    pub(super) name: String,
    pub(super) hook: &'static str,
    pub(super) kind: &'static str,
    /// What it was measured on.
    pub(super) packet: &'static str,
    /// It does its work on this packet; else nothing known here makes it.
    pub(super) works: bool,
    pub(super) ns: f64,
    /// The entry program without a step.
    pub(super) entry_ns: f64,
    pub(super) floor_ns: f64,
}

/// A step to measure.
pub(super) struct Alone {
    pub(super) instance: Instance,
    pub(super) packet: (&'static str, Vec<u8>),
    pub(super) works: bool,
}

/// Loads a module: with the first parameters and packet with which it matches (an actor: treats the
/// packet), else with the first ones that can be given. `None`: it needs a table.
pub(super) fn load(
    registry: &Registry,
    kernel: KernelVersion,
    (module, hook): (&Module, Hook),
    chains: &[BoundChain<'_>],
    count: bool,
) -> Result<Option<Alone>> {
    let options = Options {
        count,
        ..Options::default()
    };
    let graphs = graphs(registry.modules(), module, hook, chains)?;
    let trials = graphs
        .iter()
        .map(|graph| Trial::load(registry, kernel, graph))
        .collect::<Result<Vec<_>>>()?;
    for packets in [1, MANY] {
        for (graph, trial) in graphs.iter().zip(&trials) {
            for packet in kinds() {
                if trial.works(&packet.1, packets)? {
                    let instance = Instance::load(registry, kernel, graph.clone(), options)?;
                    return Ok(Some(Alone {
                        instance,
                        packet,
                        works: true,
                    }));
                }
            }
        }
    }
    let (Some(graph), Some(packet)) = (graphs.into_iter().next(), kinds().into_iter().next())
    else {
        return Ok(None);
    };
    let instance = Instance::load(registry, kernel, graph, options)?;
    Ok(Some(Alone {
        instance,
        packet,
        works: false,
    }))
}

/// Packets after which a step has to do that lets the first ones pass.
const MANY: u32 = 20_000;

/// A graph that is tried on packets.
pub(super) struct Trial {
    instance: Instance,
    mark: Option<u32>,
}

impl Trial {
    pub(super) fn load(registry: &Registry, kernel: KernelVersion, graph: &Graph) -> Result<Self> {
        let instance = Instance::load(registry, kernel, graph.clone(), Options::default())?;
        Ok(Self {
            mark: (graph.hook != Hook::Xdp).then_some(MARK),
            instance,
        })
    }

    /// Whether every step matches one of so many packets, the first that the modules see.
    pub(super) fn works(&self, packet: &[u8], packets: u32) -> Result<bool> {
        self.instance.forget()?;
        // A module may do nothing while nobody reads what it says.
        let _listener = Listener::new(&self.instance)?;
        let before = self.instance.counters()?;
        // A module may refuse a kind of packet that a test run cannot have.
        self.instance.run(packet, self.mark, packets)?;
        let after = self.instance.counters()?;
        Ok((before.iter().zip(&after)).all(|(before, after)| after.matched > before.matched))
    }
}

/// Graphs of one step: with parameters as a chain has them, else with those that must be given,
/// then with each of the others beside them.
fn graphs(
    modules: &[Module],
    module: &Module,
    hook: Hook,
    chains: &[BoundChain<'_>],
) -> Result<Vec<Graph>> {
    let known = chains.iter().filter(|c| {
        let mut steps = c.steps().into_iter();
        c.chain.hooks.iter().any(|h| h.value == hook)
            && steps.any(|s| modules[s.module].name == module.name)
    });
    let mut graphs: Vec<Graph> = known
        .map(|chain| compile(hook, &[chain], modules))
        .collect();
    let mut required = Map::new();
    for param in module.params.iter().filter(|p| p.required) {
        match sample(&param.name, &param.ty) {
            Some(value) => required.insert(param.name.clone(), value),
            None => {
                return Ok(graphs
                    .into_iter()
                    .map(|g| alone(modules, module, g))
                    .collect());
            }
        };
    }
    let mut all = vec![required.clone()];
    for param in module.params.iter().filter(|p| !p.required) {
        if let Some(value) = sample(&param.name, &param.ty) {
            let mut params = required.clone();
            params.insert(param.name.clone(), value);
            all.push(params);
        }
    }
    for params in all {
        let step = json!({ module.name.clone(): params });
        let mut chain = json!({
            "name": "alone", "hook": hook.name(), "interfaces": ["bench"], "act": [step]
        });
        if module.kind == Kind::Selector {
            // A chain needs an actor; it goes away below.
            let actor = modules.iter().find(|m| {
                m.kind == Kind::Actor
                    && m.hooks.contains(&hook)
                    && m.params.iter().all(|p| !p.required)
            });
            let actor = actor.context("no actor can be written without parameters")?;
            chain["select"] = step;
            chain["act"] = json!([{ actor.name.clone(): {} }]);
        }
        let policy = read(&json!({ "version": 1, "chains": [chain] }).to_string())?;
        // Values that were made up may contradict each other.
        match bind(&policy, modules, &AnyInterface) {
            Ok(bound) => graphs.push(compile(hook, &bound.iter().collect::<Vec<_>>(), modules)),
            Err(_) if !graphs.is_empty() => {}
            Err(errors) => return Err(invalid(errors)),
        }
    }
    Ok(graphs
        .into_iter()
        .map(|g| alone(modules, module, g))
        .collect())
}

/// The module's step of a graph, without the others.
fn alone(modules: &[Module], module: &Module, mut graph: Graph) -> Graph {
    graph
        .nodes
        .retain(|n| modules[n.module].name == module.name);
    graph.nodes.truncate(1);
    for node in &mut graph.nodes {
        node.match_to = Target::Pass;
        node.miss_to = Target::Pass;
        node.error_to = Target::Pass;
    }
    graph.start = Target::Node(0);
    graph
}

/// A value for a parameter.
fn sample(name: &str, ty: &Type) -> Option<Value> {
    let frame = Frame::default();
    let source = name.starts_with('s');
    let addr = if source { frame.src } else { frame.dst };
    let port = if source { frame.sport } else { frame.dport };
    Some(match ty {
        Type::Bytes => json!("64KiB"),
        // Less than a test run makes, so that packets queue up; but for a long time not by seconds.
        Type::Rate => json!("2Gbit"),
        Type::Time => json!("100ms"),
        Type::Ratio => json!(0.5),
        Type::Addr => json!(addr.to_string()),
        Type::Prefix => json!("10.0.0.0/8"),
        Type::Port | Type::PortRange => json!(port),
        Type::Interface => json!("bench"),
        Type::Cgroup => json!("/"),
        Type::Text => json!("text"),
        Type::Bool => json!(true),
        Type::Token | Type::Uint(_) | Type::Int(_) => json!(1),
        Type::Enum { values, .. } => json!(values.first()?.0),
        Type::Set { values } => json!(values.iter().map(|v| &v.0).collect::<Vec<_>>()),
        // Of either side, whichever the module looks at.
        Type::List { of, .. } if **of == Type::PortRange => json!([frame.sport, frame.dport]),
        Type::List { of, .. } => json!([sample(name, of)?]),
        Type::Table { .. } => return None,
    })
}
