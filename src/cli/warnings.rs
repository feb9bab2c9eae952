//! What a policy that is right should be put in force with open eyes for.

use crate::doctor::Finding;
use crate::doctor::leaving_by;
use crate::graph::Node;
use crate::interface::Interface;
use crate::interface::Interfaces;
use crate::module::KernelVersion;
use crate::module::Module;
use crate::module::Param;
use crate::plan::Plan;
use crate::plan::waits_for;
use crate::policy::Policy;

/// Each warning once, in the order of the plan: what modules say of themselves, and what this
/// machine has in the way of packets that leave past routing. `here`: its interfaces and kernel;
/// `None` where another machine is meant.
pub(super) fn warnings(
    plan: &Plan,
    modules: &[Module],
    here: Option<(&Interfaces, KernelVersion)>,
) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |line: String| {
        if !found.contains(&line) {
            found.push(line);
        }
    };
    for attachment in &plan.attachments {
        for node in &plan.classes[attachment.class].graph.nodes {
            let module = &modules[node.module];
            if let Some(warns) = &module.warns {
                add(format!("{}: {warns}", module.name));
            }
            let Some((interfaces, kernel)) = here else {
                continue;
            };
            for interface in leaves(module, node, interfaces) {
                for finding in leaving_by(interface, attachment.hook, kernel) {
                    add(format!("{}: {}", module.name, line(&finding)));
                }
            }
        }
    }
    found
}

/// Chains that are not in force because a link is down.
pub(super) fn waiting(policy: &Policy, interfaces: &Interfaces) -> Vec<String> {
    let chains = policy.chains.iter().filter(|chain| chain.enabled);
    let waiting = chains.filter_map(|chain| {
        let awaited = waits_for(chain, &interfaces.0)?;
        let name = &chain.name.value;
        Some(format!("the chain {name:?} waits until {awaited} is up"))
    });
    waiting.collect()
}

/// Interfaces by which packets leave a step. One that comes from a table is not known before.
fn leaves<'i>(
    module: &Module,
    node: &Node,
    interfaces: &'i Interfaces,
) -> impl Iterator<Item = &'i Interface> {
    let index = |param: &Param| {
        let bytes = node.params.bytes.get(param.offset..param.offset + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let params = module.params.iter().filter(|p| p.leaves_by);
    let found = params.filter_map(|p| interfaces.by_index(index(p)?));
    found.collect::<Vec<_>>().into_iter()
}

fn line(finding: &Finding) -> String {
    let mut line = finding.found.clone();
    if let Some(means) = &finding.means {
        line = format!("{line}: {means}");
    }
    match &finding.cure {
        Some(cure) => format!("{line}; {}", cure.trim_matches(['(', ')'])),
        None => line,
    }
}

/// Prints them for people.
pub(super) fn print(warnings: &[String]) {
    for warning in warnings {
        eprintln!("emptcp: warning: {warning}");
    }
}
