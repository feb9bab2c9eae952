//! Steps of a policy to modules and their parameters.

use super::BoundChain;
use super::BoundExpr;
use super::BoundStep;
use crate::module::Hook;
use crate::module::Kind;
use crate::module::Module;
use crate::params;
use crate::params::Cgroup;
use crate::params::Encoded;
use crate::params::InterfaceResolver;
use crate::policy::Chain;
use crate::policy::Diagnostic;
use crate::policy::InterfacePattern;
use crate::policy::Policy;
use crate::policy::ResolvedExpr;
use crate::policy::ResolvedStep;
use crate::policy::Step;
use crate::policy::quoted;

/// Checks every step of a policy (those of disabled chains and of unused
/// sub-policies too) and every table, and encodes the parameters.
///
/// The chains are in the order of [`Policy::in_order`], disabled ones included.
///
/// # Errors
///
/// All that is wrong, sorted by place: unknown modules, an actor in the place of
/// a selector, hooks that a module does not run at, parameters, actors behind
/// one that ends, tables.
pub fn bind<'a>(
    policy: &'a Policy,
    modules: &[Module],
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<BoundChain<'a>>, Vec<Diagnostic>> {
    let mut binder = Binder {
        policy,
        modules,
        interfaces,
        errors: Vec::new(),
    };
    for table in &policy.tables {
        binder.errors.extend(
            params::encode_table(table, interfaces)
                .err()
                .into_iter()
                .flatten(),
        );
        let default = params::encode_table_default(table, interfaces);
        binder.errors.extend(default.err().into_iter().flatten());
    }
    for (step, kind) in policy.shared_steps() {
        let awaited = policy.chains.iter().flat_map(|chain| &chain.while_up);
        binder.module_and_params(step, kind, &awaited.collect::<Vec<_>>());
    }
    let chains: Vec<_> = policy
        .in_order()
        .into_iter()
        .map(|chain| binder.chain(chain))
        .collect();
    let mut errors = binder.errors;
    // A step of a shared sub-policy is met once for each use.
    errors.sort();
    errors.dedup();
    match chains.into_iter().collect::<Option<Vec<_>>>() {
        Some(chains) if errors.is_empty() => Ok(chains),
        _ => Err(errors),
    }
}

/// Checks the steps of an expression that is of no chain, and encodes their parameters.
///
/// # Errors
///
/// As for [`bind`], of its steps.
pub(crate) fn bind_expr(
    policy: &Policy,
    expr: &ResolvedExpr<'_>,
    modules: &[Module],
    interfaces: &dyn InterfaceResolver,
) -> Result<BoundExpr, Vec<Diagnostic>> {
    let mut binder = Binder {
        policy,
        modules,
        interfaces,
        errors: Vec::new(),
    };
    let bound = binder.expr(None, expr);
    binder.errors.sort();
    binder.errors.dedup();
    match bound {
        Some(bound) if binder.errors.is_empty() => Ok(bound),
        _ => Err(binder.errors),
    }
}

struct Binder<'a, 'b> {
    policy: &'a Policy,
    modules: &'b [Module],
    interfaces: &'b dyn InterfaceResolver,
    errors: Vec<Diagnostic>,
}

impl<'a> Binder<'a, '_> {
    fn chain(&mut self, chain: &'a Chain) -> Option<BoundChain<'a>> {
        let resolved = match self.policy.resolve(chain) {
            Ok(resolved) => resolved,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let select = self.expr(Some(chain), &resolved.select);
        // Every step is looked at, so that all errors are found.
        let act: Vec<Option<BoundStep>> = resolved
            .act
            .iter()
            .map(|step| self.step(Some(chain), step, Kind::Actor))
            .collect();
        let act = act.into_iter().collect::<Option<Vec<_>>>();
        let (select, act) = (select?, act?);
        self.check_reached(chain, &act);
        Some(BoundChain { chain, select, act })
    }

    fn check_reached(&mut self, chain: &Chain, act: &[BoundStep]) {
        let ends = |step: &&BoundStep| self.modules[step.module].flags.ends;
        let Some(end) = act.iter().position(|step| ends(&step)) else {
            return;
        };
        let Some(behind) = act.get(end + 1) else {
            return;
        };
        let (name, last) = (
            &self.modules[behind.module].name,
            &self.modules[act[end].module].name,
        );
        let message = format!(
            "{name} is never reached in the chain {:?}: {last} before it ends the chain",
            chain.name.value
        );
        self.errors.push(Diagnostic::new(&behind.at, message));
    }

    fn expr(&mut self, chain: Option<&Chain>, expr: &ResolvedExpr<'_>) -> Option<BoundExpr> {
        let mut all = |parts: &[ResolvedExpr<'_>]| {
            let parts: Vec<_> = parts.iter().map(|part| self.expr(chain, part)).collect();
            parts.into_iter().collect::<Option<Vec<_>>>()
        };
        Some(match expr {
            ResolvedExpr::All(parts) => BoundExpr::All(all(parts)?),
            ResolvedExpr::Any(parts) => BoundExpr::Any(all(parts)?),
            ResolvedExpr::Not(part) => BoundExpr::Not(Box::new(self.expr(chain, part)?)),
            ResolvedExpr::Step(step) => BoundExpr::Step(self.step(chain, step, Kind::Selector)?),
        })
    }

    fn step(
        &mut self,
        chain: Option<&Chain>,
        step: &ResolvedStep<'_>,
        kind: Kind,
    ) -> Option<BoundStep> {
        let awaited: Vec<_> = chain.iter().flat_map(|chain| &chain.while_up).collect();
        let (module, params) = self.module_and_params(step.step, kind, &awaited)?;
        let (name, hooks) = (&self.modules[module].name, &self.modules[module].hooks);
        let wanted = chain.map(|chain| chain.hooks.iter().map(move |hook| (chain, hook)));
        let missing = wanted
            .into_iter()
            .flatten()
            .filter(|(_, hook)| !hooks.contains(hook));
        for (chain, hook) in missing {
            let hooks: Vec<&str> = hooks.iter().map(|hook: &Hook| hook.name()).collect();
            let message = format!(
                "{name} does not run at {}, a hook of the chain {:?}, but at {}",
                hook.value,
                chain.name.value,
                hooks.join(", ")
            );
            self.errors
                .push(Diagnostic::new(&step.step.module.at, message));
        }
        let (at, key) = (step.step.module.at.clone(), step.key.clone());
        Some(BoundStep {
            at,
            key,
            module,
            params: params?,
        })
    }

    /// Whether the policy has a shared sub-policy of that name.
    fn is_shared(&self, name: &str, kind: Kind) -> bool {
        match kind {
            Kind::Selector => self.policy.selectors.iter().any(|s| *s.name == name),
            Kind::Actor => self.policy.actors.iter().any(|a| *a.name == name),
        }
    }

    /// The module of a step, and its parameters if there is nothing wrong with them. The interfaces
    /// that the chain waits for (`while_up`) may be absent.
    fn module_and_params(
        &mut self,
        step: &Step,
        kind: Kind,
        awaited: &[&InterfacePattern],
    ) -> Option<(usize, Option<Encoded>)> {
        let name = &step.module;
        let of_kind = |module: &Module, kind: Kind| module.kind == kind && module.is_named(name);
        let Some(index) = self.modules.iter().position(|module| of_kind(module, kind)) else {
            let other = self.modules.iter().find(|module| module.is_named(name));
            let error = match other {
                Some(other) => {
                    let (found, article) = (other.kind, article(other.kind));
                    let message = format!(
                        "{} is {article} {found}: {} belongs here",
                        name.value,
                        with(kind)
                    );
                    Diagnostic::new(&name.at, message)
                }
                None => {
                    let names = self.modules.iter().filter(|module| module.kind == kind);
                    let hint = if self.is_shared(name, kind) {
                        format!(": a shared one is used by {{ \"use\": {:?} }}", name.value)
                    } else {
                        String::new()
                    };
                    let message = format!("no {kind} is named {}{hint}", quoted(name));
                    Diagnostic::new(&name.at, message)
                        .suggest_nearest(name, names.map(|module| module.name.as_str()))
                }
            };
            self.errors.push(error);
            return None;
        };
        let encoded = params::encode(
            &self.modules[index],
            &step.params,
            &Awaiting {
                interfaces: self.interfaces,
                awaited,
            },
            &self.policy.tables,
        );
        match encoded {
            Ok(encoded) => Some((index, Some(encoded))),
            Err(errors) => {
                self.errors.extend(errors);
                Some((index, None))
            }
        }
    }
}

/// The interfaces of a chain that waits for some of them.
struct Awaiting<'a> {
    interfaces: &'a dyn InterfaceResolver,
    awaited: &'a [&'a InterfacePattern],
}

impl InterfaceResolver for Awaiting<'_> {
    /// 0, which no interface has, where one is awaited that is not there: so long the chain is not
    /// loaded.
    fn index(&self, name: &str) -> Option<u32> {
        let is_awaited = || self.awaited.iter().any(|pattern| pattern.matches(name));
        let found = self.interfaces.index(name);
        found.or_else(|| is_awaited().then_some(0))
    }

    fn name(&self, index: u32) -> Option<String> {
        self.interfaces.name(index)
    }

    fn names(&self) -> Vec<String> {
        self.interfaces.names()
    }

    fn cgroup(&self, path: &str) -> Result<Cgroup, String> {
        self.interfaces.cgroup(path)
    }

    fn cgroup_path(&self, id: u64) -> Option<String> {
        self.interfaces.cgroup_path(id)
    }
}

fn article(kind: Kind) -> &'static str {
    match kind {
        Kind::Selector => "a",
        Kind::Actor => "an",
    }
}

fn with(kind: Kind) -> String {
    format!("{} {kind}", article(kind))
}
