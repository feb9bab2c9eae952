//! The tracker in front of the chains that go by what it remembers.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::json;

use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::policy::Act;
use crate::policy::Chain;
use crate::policy::Expr;
use crate::policy::ExprNode;
use crate::policy::InterfacePattern;
use crate::policy::Json;
use crate::policy::OnError;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::Position;
use crate::policy::Spanned;
use crate::policy::Step;
use crate::policy::XdpOptions;

/// Begin of the names of its chains, which no chain of a policy can have.
const PREFIX: char = '@';

/// Where packets have to meet the tracker: a hook, a zone, and interfaces.
struct Needed {
    hook: Hook,
    zone: u32,
    interfaces: Vec<InterfacePattern>,
}

/// The policy with chains of the tracker before all others: where `track` asks for it, and at both
/// directions of interfaces with a chain that goes by what it remembers.
pub fn with_tracker<'p>(policy: &'p Policy, modules: &[Module]) -> Cow<'p, Policy> {
    let of = |kind| {
        let mut found = modules.iter();
        found.find(|m| m.kind == kind && m.flags.tracks)
    };
    let (Some(selector), Some(actor)) = (of(Kind::Selector), of(Kind::Actor)) else {
        return Cow::Borrowed(policy);
    };
    let mut needed = Vec::new();
    let mut at = None;
    let mut totals = false;
    if let Some(first) = policy.track.first() {
        at = Some(first.name.at.clone());
        need(&mut needed, &[Hook::TcIngress], 0, &policy.track);
    }
    for chain in policy.chains.iter().filter(|c| c.enabled) {
        // What is wrong with it is said where it is bound.
        let Ok(resolved) = policy.resolve(chain) else {
            continue;
        };
        let steps = resolved.steps();
        totals |= steps.iter().any(|step| goes_by_totals(step.step, modules));
        if steps.iter().any(|step| is_tracked(step.step, modules)) {
            at.get_or_insert_with(|| chain.name.at.clone());
            let hooks: Vec<Hook> = chain.hooks.iter().map(|h| h.value).collect();
            need(&mut needed, &hooks, chain.zone, &chain.interfaces);
        }
    }
    let Some(at) = at else {
        return Cow::Borrowed(policy);
    };
    let mut policy = policy.clone();
    let chains = needed
        .into_iter()
        .map(|needed| chain(&needed, &selector.name, &actor.name, totals, &at));
    policy.chains.splice(0..0, chains);
    Cow::Owned(policy)
}

/// Whether a step goes by what the tracker remembers.
fn is_tracked(step: &Step, modules: &[Module]) -> bool {
    let is_given = |param: &str| step.params.get(param).is_some();
    let mut meant = modules.iter().filter(|m| m.is_named(&step.module.value));
    meant.any(|module| module.is_tracked(is_given))
}

/// Whether a step goes by the bytes of connections.
fn goes_by_totals(step: &Step, modules: &[Module]) -> bool {
    let mut meant = modules.iter().filter(|m| m.is_named(&step.module.value));
    meant.any(|module| module.flags.totals)
}

/// Adds interfaces to both directions that these hooks are of.
fn need(needed: &mut Vec<Needed>, hooks: &[Hook], zone: u32, interfaces: &[InterfacePattern]) {
    let received = match hooks.contains(&Hook::Xdp) {
        true => Hook::Xdp,
        false => Hook::TcIngress,
    };
    for hook in [received, Hook::TcEgress] {
        let same = |n: &Needed| n.hook == hook && n.zone == zone;
        let at = needed.iter().position(same).unwrap_or_else(|| {
            needed.push(Needed {
                hook,
                zone,
                interfaces: Vec::new(),
            });
            needed.len() - 1
        });
        let known = &mut needed[at].interfaces;
        for pattern in interfaces {
            match known
                .iter_mut()
                .find(|p| p.name.value == pattern.name.value)
            {
                Some(known) => known.optional &= pattern.optional,
                None => known.push(pattern.clone()),
            }
        }
    }
}

fn chain(needed: &Needed, selector: &str, actor: &str, totals: bool, at: &Place) -> Chain {
    let step = |module: &str, params: &Value| Step {
        module: Spanned::new(module.to_owned(), at.clone()),
        params: Json::from_value(params, at),
    };
    let zone = match needed.zone {
        0 => String::new(),
        zone => format!("-{zone}"),
    };
    Chain {
        name: Spanned::new(
            format!("{PREFIX}{selector}-{}{zone}", needed.hook.name()),
            at.clone(),
        ),
        comment: None,
        hooks: vec![Spanned::new(needed.hook, at.clone())],
        interfaces: needed.interfaces.clone(),
        priority: Spanned::new(i32::MIN, at.clone()),
        enabled: true,
        while_up: Vec::new(),
        zone: needed.zone,
        on_error: OnError::Pass,
        xdp: XdpOptions::default(),
        position: Position::default(),
        select: Some(Expr {
            at: at.clone(),
            node: ExprNode::Step(step(selector, &json!({ "totals": totals }))),
        }),
        act: vec![Act::Step(step(actor, &json!({})))],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::module::Type;
    use crate::params::fake::module;
    use crate::params::fake::registry;
    use crate::policy::Fragment;
    use crate::policy::parse;

    /// The modules of [`registry`], one selector and one actor of them the tracker, and one
    /// selector that needs it.
    fn modules() -> Vec<Module> {
        let mut modules = registry();
        for (kind, tracks) in [
            (Kind::Selector, true),
            (Kind::Actor, true),
            (Kind::Selector, false),
        ] {
            let mut free = modules.iter_mut();
            let module = free
                .find(|m| m.kind == kind && !m.flags.tracks && m.params.iter().all(|p| !p.required))
                .unwrap();
            module.flags.tracks = tracks;
            module.flags.tracked = !tracks;
        }
        modules
    }

    /// A line for each chain of the tracker: name, and interfaces.
    fn added(text: &str) -> Vec<String> {
        let modules = modules();
        let tracked = &modules.iter().find(|m| m.flags.tracked).unwrap().name;
        let fragment = Fragment {
            name: "p".to_owned(),
            bytes: text.replace("TRACKED", tracked).into_bytes(),
        };
        let policy = parse(&[fragment]).unwrap();
        let whole = with_tracker(&policy, &modules);
        let chains = whole.in_order();
        let own = chains.len() - policy.chains.len();
        let line = |c: &&Chain| {
            let (_, name) = c.name.value.split_once('-').unwrap();
            let interfaces: Vec<_> = c.interfaces.iter().map(|i| i.name.as_str()).collect();
            format!("{name}: {}", interfaces.join(" "))
        };
        assert!(chains[..own].iter().all(|c| c.name.starts_with(PREFIX)));
        chains[..own].iter().map(line).collect()
    }

    const ACT: &str = r#""act": [{ "use": "none" }]"#;

    fn policy(fields: &str, chains: &[&str]) -> String {
        let chains: Vec<String> = chains
            .iter()
            .enumerate()
            .map(|(i, c)| format!(r#"{{ "name": "c{i}", {c}, {ACT} }}"#))
            .collect();
        format!(
            r#"{{ "version": 1, {fields} "actors": {{ "none": [{{ "accept": {{}} }}] }},
                 "chains": [{}] }}"#,
            chains.join(",")
        )
    }

    #[test]
    fn nothing_needs_it() {
        let chain = r#""hook": "tc-ingress", "interfaces": ["eth0"]"#;
        assert!(added(&policy("", &[chain])).is_empty());
        let off = r#""hook": "xdp", "interfaces": ["eth0"], "enabled": false, "select": { "TRACKED": {} }"#;
        assert!(added(&policy("", &[off])).is_empty());
    }

    /// A parameter that stands for what the tracker knows.
    #[test]
    fn what_is_not_given_is_tracked() {
        let mut modules = modules();
        modules.push(
            module(Kind::Actor, "clamp")
                .with("scale", Type::Uint(1))
                .tracked_unless(),
        );
        let chains = |params: &str| {
            let text = format!(
                r#"{{ "version": 1, "chains": [{{ "name": "c", "hook": "tc-egress",
                     "interfaces": ["eth0"], "act": [{{ "clamp": {params} }}] }}] }}"#
            );
            let fragment = Fragment {
                name: "p".to_owned(),
                bytes: text.into_bytes(),
            };
            with_tracker(&parse(&[fragment]).unwrap(), &modules)
                .chains
                .len()
        };
        assert_eq!(chains("{}"), 3);
        assert_eq!(chains(r#"{ "scale": 0 }"#), 1);
        assert_eq!(chains(r#"{ "scale": { "table": "t" } }"#), 1);
    }

    #[test]
    fn both_directions_of_a_chain() {
        let egress = r#""hook": "tc-egress", "interfaces": ["eth0"], "select": { "not": { "TRACKED": {} } }"#;
        assert_eq!(
            added(&policy("", &[egress])),
            ["tc-ingress: eth0", "tc-egress: eth0"]
        );
        let xdp = r#""hook": ["xdp"], "interfaces": ["eth1"], "select": { "use": "shared" }"#;
        let fields = r#""selectors": { "shared": { "any": [{ "TRACKED": {} }] } },"#;
        assert_eq!(
            added(&policy(fields, &[xdp])),
            ["xdp: eth1", "tc-egress: eth1"]
        );
    }

    #[test]
    fn one_chain_for_a_hook_and_zone() {
        let one = r#""hook": "tc-ingress", "interfaces": ["eth0"], "select": { "TRACKED": {} }"#;
        let two =
            r#""hook": "tc-egress", "interfaces": ["eth0", "eth1"], "select": { "TRACKED": {} }"#;
        let tenant = r#""hook": "tc-egress", "interfaces": ["eth0"], "zone": 7, "select": { "TRACKED": {} }"#;
        assert_eq!(
            added(&policy("", &[one, two, tenant])),
            [
                "tc-ingress: eth0 eth1",
                "tc-egress: eth0 eth1",
                "tc-ingress-7: eth0",
                "tc-egress-7: eth0"
            ]
        );
    }

    /// The tracker keeps bytes of connections up where a step goes by them, whichever chain has it.
    #[test]
    fn totals_where_they_are_needed() {
        let totals = |modules: &[Module]| {
            let tracked = &modules.iter().find(|m| m.flags.tracked).unwrap().name;
            let chain =
                r#""hook": "tc-ingress", "interfaces": ["eth0"], "select": { "TRACKED": {} }"#;
            let fragment = Fragment {
                name: "p".to_owned(),
                bytes: policy(r#""track": ["eth1"],"#, &[chain])
                    .replace("TRACKED", tracked)
                    .into_bytes(),
            };
            let policy = parse(&[fragment]).unwrap();
            let whole = with_tracker(&policy, modules);
            let of = |chain: &Chain| match &chain.select.as_ref().unwrap().node {
                ExprNode::Step(step) => step.params.get("totals").unwrap().to_value(),
                other => panic!("{other:?}"),
            };
            let own = whole.chains.iter().filter(|c| c.name.starts_with(PREFIX));
            own.map(of).collect::<Vec<_>>()
        };
        let mut modules = modules();
        assert_eq!(totals(&modules), [json!(false), json!(false)]);
        let mut tracked = modules.iter_mut();
        tracked.find(|m| m.flags.tracked).unwrap().flags.totals = true;
        assert_eq!(totals(&modules), [json!(true), json!(true)]);
    }

    #[test]
    fn views_ask_for_it() {
        assert_eq!(
            added(&policy(r#""track": ["eth*"],"#, &[])),
            ["tc-ingress: eth*", "tc-egress: eth*"]
        );
    }
}
