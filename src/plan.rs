//! Which chains meet at which hook of which interface, and what is loaded there.
//! Pure: interfaces are given.
//!
//! Interfaces with the same chains, framing and flavour share one *class*: one
//! graph, loaded once. At tc, chains that do not fit in one run of a program are
//! split into parts, each with a class and an attachment of its own.

use std::ops::Range;

use crate::graph::BoundChain;
use crate::graph::Budget;
use crate::graph::Graph;
use crate::graph::Node;
use crate::graph::check_values;
use crate::graph::compile;
use crate::graph::longest_path;
use crate::graph::split;
use crate::interface::Interface;
use crate::interface::ONE_BUFFER_MTU;
use crate::module::Hook;
use crate::module::Module;
use crate::policy::Chain;
use crate::policy::Diagnostic;
use crate::policy::InterfacePattern;
use crate::policy::OnError;
use crate::policy::Position;
use crate::policy::XdpOptions;

/// All that is in force under a policy.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is loaded.
    pub classes: Vec<ClassPlan>,
    /// Where it runs.
    pub attachments: Vec<Attachment>,
}

/// A graph that one or several interfaces share.
#[derive(Clone, Debug)]
pub struct ClassPlan {
    /// The hook.
    pub hook: Hook,
    /// Packets begin with an IP header.
    pub raw_ip: bool,
    /// XDP for packets of several buffers.
    pub frags: bool,
    /// Packets that cannot be parsed are dropped.
    pub drop_undecidable: bool,
    /// Another part follows: packets that end here must be told to it.
    pub more: bool,
    /// Indices of the chains, in order.
    pub chains: Vec<usize>,
    /// The steps.
    pub graph: Graph,
    /// Zone of each node's chain.
    pub zones: Vec<u32>,
}

/// A class at one hook of one interface, or a part of what is there.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The interface.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// The hook.
    pub hook: Hook,
    /// Index of the class.
    pub class: usize,
    /// Which of the programs that the chains of this hook and interface are split over.
    pub part: usize,
    /// How many these are.
    pub parts: usize,
    /// How, at XDP.
    pub xdp: XdpOptions,
    /// Where among others, at tc.
    pub position: Position,
}

/// Programs that one hook of an interface may be split over.
pub(crate) const MOST_PARTS: usize = 64;

/// Chains that meet at a hook of some interfaces, and the classes that their parts make up.
struct Met {
    hook: Hook,
    raw_ip: bool,
    frags: bool,
    chains: Vec<usize>,
    parts: Vec<usize>,
}

/// Lays out the enabled chains of a policy over the interfaces.
///
/// # Errors
///
/// A chain names an interface that does not exist, a path is longer than one run
/// may be and cannot be split, chains want an interface in different ways, edits at XDP where
/// checksums may be incomplete.
pub fn plan(
    chains: &[BoundChain<'_>],
    modules: &[Module],
    interfaces: &[Interface],
    budget: &Budget<'_>,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    for chain in chains.iter().filter(|c| c.chain.enabled) {
        missing_interfaces(chain, interfaces, &mut errors);
    }
    for chain in chains {
        errors.extend(check_values(chain, modules).err().into_iter().flatten());
    }
    let waits: Vec<bool> = chains
        .iter()
        .map(|c| waits_for(c.chain, interfaces).is_some())
        .collect();
    let mut plan = Plan::default();
    let mut known: Vec<Met> = Vec::new();
    for interface in interfaces {
        for hook in Hook::ALL {
            let met: Vec<usize> = (0..chains.len())
                .filter(|i| meets(&chains[*i], interface, hook) && !waits[*i])
                .collect();
            if met.is_empty() {
                continue;
            }
            let frags = hook == Hook::Xdp && interface.mtu > ONE_BUFFER_MTU;
            let same = known.iter().position(|k| {
                k.hook == hook
                    && k.raw_ip == interface.raw_ip
                    && k.frags == frags
                    && k.chains == met
            });
            let same = same.unwrap_or_else(|| {
                let mut new = Met {
                    hook,
                    raw_ip: interface.raw_ip,
                    frags,
                    chains: met.clone(),
                    parts: Vec::new(),
                };
                match classes(chains, modules, &new, budget) {
                    Ok(classes) => {
                        new.parts = (plan.classes.len()..).take(classes.len()).collect();
                        plan.classes.extend(classes);
                    }
                    Err(error) => errors.push(error),
                }
                known.push(new);
                known.len() - 1
            });
            let parts = &known[same].parts;
            if parts.is_empty() {
                // Nothing can match: nothing to attach.
                continue;
            }
            let attachment = attachment(chains, &met, interface, hook, &mut errors);
            for (part, class) in parts.iter().enumerate() {
                let attachment = Attachment {
                    class: *class,
                    part,
                    parts: parts.len(),
                    ..attachment.clone()
                };
                let class = &plan.classes[*class];
                unsafe_edits(chains, class, modules, interface, &attachment, &mut errors);
                plan.attachments.push(attachment);
            }
        }
    }
    errors.sort();
    errors.dedup();
    if errors.is_empty() {
        Ok(plan)
    } else {
        Err(errors)
    }
}

/// The parts of a hook whose packets meet all enabled chains of it, whatever their interfaces, or
/// (`interface`) those of an interface of this name; none where nothing can match.
///
/// # Errors
///
/// A path is longer than one run may be and cannot be split, or a value may be missing.
pub fn at_hook(
    chains: &[BoundChain<'_>],
    modules: &[Module],
    hook: Hook,
    interface: Option<&str>,
    budget: &Budget<'_>,
) -> Result<Vec<ClassPlan>, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    for chain in chains {
        errors.extend(check_values(chain, modules).err().into_iter().flatten());
    }
    let met = Met {
        hook,
        raw_ip: false,
        frags: false,
        chains: (0..chains.len())
            .filter(|i| runs_at(chains[*i].chain, hook, interface))
            .collect(),
        parts: Vec::new(),
    };
    if met.chains.is_empty() {
        return Ok(Vec::new());
    }
    match classes(chains, modules, &met, budget) {
        Ok(classes) if errors.is_empty() => Ok(classes),
        Ok(_) => Err(errors),
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

/// Whether packets of the hook meet the chain, at an interface of this name where one is given.
pub fn runs_at(chain: &Chain, hook: Hook, interface: Option<&str>) -> bool {
    let mut patterns = chain.interfaces.iter();
    chain.enabled
        && chain.hooks.iter().any(|h| h.value == hook)
        && interface.is_none_or(|name| patterns.any(|pattern| pattern.matches(name)))
}

/// Tail calls of the longest path of each attachment, for people.
pub fn longest_paths<'p>(
    plan: &'p Plan,
    modules: &[Module],
    budget: &Budget<'_>,
) -> Vec<(&'p Attachment, usize)> {
    let paths: Vec<usize> = plan
        .classes
        .iter()
        .map(|c| longest_path(&c.graph, modules, budget).0)
        .collect();
    let attachments = plan.attachments.iter();
    attachments.map(|a| (a, paths[a.class])).collect()
}

/// Where packets are given a time to leave, which needs fq: each interface with the first step that
/// does so.
pub fn paced<'p>(plan: &'p Plan, modules: &[Module]) -> Vec<(&'p Attachment, &'p Node)> {
    let mut found: Vec<(&Attachment, &Node)> = Vec::new();
    for attachment in &plan.attachments {
        let mut nodes = plan.classes[attachment.class].graph.nodes.iter();
        let known = |(a, _): &(&Attachment, &Node)| a.ifindex == attachment.ifindex;
        if let Some(node) = nodes.find(|node| modules[node.module].flags.fq)
            && !found.iter().any(known)
        {
            found.push((attachment, node));
        }
    }
    found
}

fn meets(chain: &BoundChain<'_>, interface: &Interface, hook: Hook) -> bool {
    chain.chain.enabled
        && chain.chain.hooks.iter().any(|h| h.value == hook)
        && chain
            .chain
            .interfaces
            .iter()
            .any(|pattern| interface.names().any(|name| pattern.matches(name)))
}

/// What a chain waits for before it is in force: the first of its `while_up` for which no interface
/// is up.
pub fn waits_for<'c>(chain: &'c Chain, interfaces: &[Interface]) -> Option<&'c str> {
    let is_up = |pattern: &InterfacePattern| {
        let mut up = interfaces.iter().filter(|interface| interface.up);
        up.any(|interface| interface.names().any(|name| pattern.matches(name)))
    };
    let mut wanted = chain.while_up.iter();
    let absent = wanted.find(|pattern| !is_up(pattern))?;
    Some(&absent.name.value)
}

fn missing_interfaces(
    chain: &BoundChain<'_>,
    interfaces: &[Interface],
    errors: &mut Vec<Diagnostic>,
) {
    let names = || interfaces.iter().flat_map(Interface::names);
    for pattern in &chain.chain.interfaces {
        if !pattern.may_be_absent() && !names().any(|name| pattern.matches(name)) {
            errors.push(
                Diagnostic::new(
                    &pattern.name.at,
                    format!(
                        "there is no interface {:?} here; {{\"name\": …, \"optional\": true}} lets it be absent",
                        pattern.name.value
                    ),
                )
                .suggest_nearest(&pattern.name.value, names()),
            );
        }
    }
}

/// A class for each part that the chains have to be split into.
fn classes(
    chains: &[BoundChain<'_>],
    modules: &[Module],
    met: &Met,
    budget: &Budget<'_>,
) -> Result<Vec<ClassPlan>, Diagnostic> {
    let own: Vec<&BoundChain<'_>> = met.chains.iter().map(|i| &chains[*i]).collect();
    let parts = split(met.hook, &own, modules, budget)?;
    if parts.len() > MOST_PARTS {
        let message = format!(
            "the chains of {} would have to be split over {} programs, {MOST_PARTS} at the most",
            met.hook,
            parts.len()
        );
        return Err(Diagnostic::new(
            &own[parts[MOST_PARTS].start].chain.name.at,
            message,
        ));
    }
    let last = parts.len() - 1;
    let class = |(number, part): (usize, Range<usize>)| {
        let graph = compile(met.hook, &own[part.clone()], modules);
        ClassPlan {
            hook: met.hook,
            raw_ip: met.raw_ip,
            frags: met.frags,
            // Whichever part meets a packet first.
            drop_undecidable: own.iter().any(|c| c.chain.on_error == OnError::Drop),
            more: number < last,
            zones: graph
                .nodes
                .iter()
                .map(|n| own[part.start + n.chain].chain.zone)
                .collect(),
            chains: met.chains[part].to_vec(),
            graph,
        }
    };
    let classes = parts.into_iter().enumerate().map(class);
    Ok(classes.filter(|c| !c.graph.nodes.is_empty()).collect())
}

/// Joins what the chains of one hook and interface want of the attachment.
fn attachment(
    chains: &[BoundChain<'_>],
    met: &[usize],
    interface: &Interface,
    hook: Hook,
    errors: &mut Vec<Diagnostic>,
) -> Attachment {
    let mut attachment = Attachment {
        ifindex: interface.index,
        interface: interface.name.clone(),
        hook,
        class: 0,
        part: 0,
        parts: 1,
        xdp: XdpOptions::default(),
        position: Position::default(),
    };
    for chain in met.iter().map(|i| chains[*i].chain) {
        let mut conflict = |what: &str| {
            errors.push(Diagnostic::new(
                &chain.name.at,
                format!(
                    "chain {:?} wants another {what} than an earlier chain at {hook} of {}, where one \
                     program runs them all",
                    chain.name.value, interface.name
                ),
            ));
        };
        if hook == Hook::Xdp {
            let (own, wanted) = (&mut attachment.xdp, chain.xdp);
            if wanted.mode != Default::default() {
                if own.mode != Default::default() && own.mode != wanted.mode {
                    conflict("xdp mode");
                }
                own.mode = wanted.mode;
            }
            own.replace |= wanted.replace;
            own.trust_checksums |= wanted.trust_checksums;
        } else if chain.position != Position::default() {
            if attachment.position != Position::default() && attachment.position != chain.position {
                conflict("position");
            }
            attachment.position = chain.position.clone();
        }
    }
    attachment
}

/// An XDP program does not see that a checksum is still to be completed; an edit then makes it
/// wrong for good as soon as the packet leaves the machine.
fn unsafe_edits(
    chains: &[BoundChain<'_>],
    class: &ClassPlan,
    modules: &[Module],
    interface: &Interface,
    attachment: &Attachment,
    errors: &mut Vec<Diagnostic>,
) {
    if class.hook != Hook::Xdp
        || attachment.xdp.trust_checksums
        || !interface.hides_partial_checksums()
    {
        return;
    }
    for node in class
        .graph
        .nodes
        .iter()
        .filter(|n| n.params.edits(&modules[n.module]))
    {
        errors.push(Diagnostic::new(
            &node.at,
            format!(
                "{} edits packets at xdp of {} ({}), where checksums may not be complete yet and the \
                 edit would make them wrong: use hook tc-ingress, or say \"xdp\": \
                 {{\"trust_checksums\": true}} in chain {:?} if transmit checksum offload is off there",
                modules[node.module].name,
                interface.name,
                interface.kind.as_deref().unwrap_or("loopback"),
                chains[class.chains[node.chain]].chain.name.value
            ),
        ));
    }
}
