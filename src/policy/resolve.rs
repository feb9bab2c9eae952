//! Shared sub-policies put in the place where they are used.

use std::collections::HashMap;

use super::parse::too_deep;
use super::*;

/// A chain without `use`.
#[derive(Clone, Debug)]
pub struct ResolvedChain<'a> {
    /// The chain as written.
    pub chain: &'a Chain,
    /// Its expression; `all: []` where the chain takes every TCP packet.
    pub select: ResolvedExpr<'a>,
    /// Its actors, in order; at least one.
    pub act: Vec<ResolvedStep<'a>>,
}

impl<'a> ResolvedChain<'a> {
    /// All its steps: selectors as written, then actors.
    pub fn steps(&self) -> Vec<&ResolvedStep<'a>> {
        let mut steps = Vec::new();
        self.select.steps(&mut steps);
        steps.extend(&self.act);
        steps
    }
}

/// An expression without `use`.
#[derive(Clone, Debug)]
pub enum ResolvedExpr<'a> {
    /// Every part matches.
    All(Vec<ResolvedExpr<'a>>),
    /// A part matches.
    Any(Vec<ResolvedExpr<'a>>),
    /// The part does not match.
    Not(Box<ResolvedExpr<'a>>),
    /// A selector.
    Step(ResolvedStep<'a>),
}

impl<'a> ResolvedExpr<'a> {
    /// Adds its steps, as written.
    pub(crate) fn steps<'e>(&'e self, steps: &mut Vec<&'e ResolvedStep<'a>>) {
        match self {
            ResolvedExpr::All(parts) | ResolvedExpr::Any(parts) => {
                parts.iter().for_each(|part| part.steps(steps));
            }
            ResolvedExpr::Not(part) => part.steps(steps),
            ResolvedExpr::Step(step) => steps.push(step),
        }
    }
}

/// A step and its name in the chain.
#[derive(Clone, Debug)]
pub struct ResolvedStep<'a> {
    /// The step as written; that of a shared sub-policy is the same in all its places.
    pub step: &'a Step,
    /// Stable id: where it stands in the policy, such as
    /// `cap-lte/select/all[1]/use:lte/any[0]` or `cap-lte/act[0]/use:watch[0]`.
    /// Unique in the policy.
    pub key: String,
}

impl Policy {
    /// The chain without `use`.
    ///
    /// # Errors
    ///
    /// None for a chain of a policy that was parsed. Else a sub-policy that does not
    /// exist, a cycle, or more steps than [`MOST_STEPS`] and [`DEEPEST_EXPRESSION`] allow.
    pub fn resolve<'a>(&'a self, chain: &'a Chain) -> Result<ResolvedChain<'a>, Diagnostic> {
        let mut resolver = Resolver {
            policy: self,
            name: &chain.name,
            steps: 0,
        };
        let root = format!("{}/select", chain.name.value);
        let select = match &chain.select {
            Some(expr) => resolver.expr(expr, root, 1)?,
            None => ResolvedExpr::All(Vec::new()),
        };
        let mut act = Vec::new();
        resolver.acts(
            &chain.act,
            &format!("{}/act", chain.name.value),
            1,
            &mut act,
        )?;
        Ok(ResolvedChain { chain, select, act })
    }

    /// An expression of no chain without `use`; `name` stands for that of its chain.
    ///
    /// # Errors
    ///
    /// A sub-policy that does not exist, or more steps than a chain may have.
    pub(crate) fn resolve_expr<'a>(
        &'a self,
        expr: &'a Expr,
        name: &'a Spanned<String>,
    ) -> Result<ResolvedExpr<'a>, Diagnostic> {
        let mut resolver = Resolver {
            policy: self,
            name,
            steps: 0,
        };
        resolver.expr(expr, name.value.clone(), 1)
    }

    /// Steps of shared sub-policies, for those that no chain uses.
    pub(crate) fn shared_steps(&self) -> impl Iterator<Item = (&Step, crate::module::Kind)> {
        use crate::module::Kind;
        let mut steps = Vec::new();
        let mut exprs: Vec<&Expr> = self.selectors.iter().map(|s| &s.expr).collect();
        while let Some(expr) = exprs.pop() {
            match &expr.node {
                ExprNode::All(parts) | ExprNode::Any(parts) => exprs.extend(parts),
                ExprNode::Not(part) => exprs.push(part),
                ExprNode::Use(_) => {}
                ExprNode::Step(step) => steps.push((step, Kind::Selector)),
            }
        }
        for act in self.actors.iter().flat_map(|actors| &actors.act) {
            if let Act::Step(step) = act {
                steps.push((step, Kind::Actor));
            }
        }
        steps.into_iter()
    }
}

struct Resolver<'a> {
    policy: &'a Policy,
    /// Of the chain.
    name: &'a Spanned<String>,
    steps: usize,
}

impl<'a> Resolver<'a> {
    fn step(&mut self, step: &'a Step, key: String) -> Result<ResolvedStep<'a>, Diagnostic> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(too_many(self.name));
        }
        Ok(ResolvedStep { step, key })
    }

    fn expr(
        &mut self,
        expr: &'a Expr,
        key: String,
        level: usize,
    ) -> Result<ResolvedExpr<'a>, Diagnostic> {
        if level > DEEPEST_EXPRESSION {
            return Err(too_deep(&expr.at));
        }
        let mut parts = |operator: &str, parts: &'a [Expr]| {
            let part = |(i, part)| self.expr(part, format!("{key}/{operator}[{i}]"), level + 1);
            parts
                .iter()
                .enumerate()
                .map(part)
                .collect::<Result<Vec<_>, _>>()
        };
        match &expr.node {
            ExprNode::All(all) => Ok(ResolvedExpr::All(parts("all", all)?)),
            ExprNode::Any(any) => Ok(ResolvedExpr::Any(parts("any", any)?)),
            ExprNode::Not(part) => {
                let part = self.expr(part, format!("{key}/not"), level + 1)?;
                Ok(ResolvedExpr::Not(Box::new(part)))
            }
            ExprNode::Use(name) => {
                let mut shared = self.policy.selectors.iter();
                let Some(shared) = shared.find(|s| s.name.value == name.value) else {
                    return Err(unknown_selector(self.policy, name));
                };
                self.expr(&shared.expr, format!("{key}/use:{}", name.value), level + 1)
            }
            ExprNode::Step(step) => Ok(ResolvedExpr::Step(self.step(step, key)?)),
        }
    }

    fn acts(
        &mut self,
        acts: &'a [Act],
        key: &str,
        level: usize,
        into: &mut Vec<ResolvedStep<'a>>,
    ) -> Result<(), Diagnostic> {
        for (i, act) in acts.iter().enumerate() {
            let key = format!("{key}[{i}]");
            match act {
                Act::Step(step) => into.push(self.step(step, key)?),
                Act::Use(name) => {
                    if level >= DEEPEST_EXPRESSION {
                        return Err(too_deep(&name.at));
                    }
                    let mut shared = self.policy.actors.iter();
                    let Some(shared) = shared.find(|s| s.name.value == name.value) else {
                        return Err(unknown_actors(self.policy, name));
                    };
                    self.acts(
                        &shared.act,
                        &format!("{key}/use:{}", name.value),
                        level + 1,
                        into,
                    )?;
                }
            }
        }
        Ok(())
    }
}

fn unknown_selector(policy: &Policy, name: &Spanned<String>) -> Diagnostic {
    let other = policy.actors.iter().any(|a| a.name.value == name.value);
    let hint = if other {
        ": it is a list of actors"
    } else {
        ""
    };
    let message = format!("no shared selector is named {}{hint}", quoted(name));
    let names = policy.selectors.iter().map(|s| s.name.value.as_str());
    Diagnostic::new(&name.at, message).suggest_nearest(name, names)
}

fn unknown_actors(policy: &Policy, name: &Spanned<String>) -> Diagnostic {
    let other = policy.selectors.iter().any(|s| s.name.value == name.value);
    let hint = if other { ": it is a selector" } else { "" };
    let message = format!("no shared list of actors is named {}{hint}", quoted(name));
    let names = policy.actors.iter().map(|s| s.name.value.as_str());
    Diagnostic::new(&name.at, message).suggest_nearest(name, names)
}

fn too_many(name: &Spanned<String>) -> Diagnostic {
    let message = format!(
        "the chain {:?} has more than {MOST_STEPS} steps, those of shared sub-policies included",
        name.value
    );
    Diagnostic::new(&name.at, message)
}

/// What is wrong with the uses of shared sub-policies: unknown names, cycles, size.
///
/// Each sub-policy is measured once, so that this takes no longer than reading
/// them, whatever they would grow to; and never deeper than [`DEEPEST_EXPRESSION`].
pub(super) fn check(policy: &Policy) -> Vec<Diagnostic> {
    let mut checker = Checker {
        policy,
        selectors: policy
            .selectors
            .iter()
            .map(|s| (s.name.value.as_str(), s))
            .collect(),
        actors: policy
            .actors
            .iter()
            .map(|s| (s.name.value.as_str(), s))
            .collect(),
        measured: HashMap::new(),
        within: Vec::new(),
        errors: Vec::new(),
    };
    for shared in &policy.selectors {
        checker.shared(Shared::Selector(&shared.name.value), &shared.name.at, 1);
    }
    for shared in &policy.actors {
        checker.shared(Shared::Actors(&shared.name.value), &shared.name.at, 1);
    }
    for chain in &policy.chains {
        let select = match &chain.select {
            Some(expr) => checker.expr(expr, 1),
            None => Some(Size::default()),
        };
        let act = checker.acts(&chain.act, 1);
        if let (Some(select), Some(act)) = (select, act)
            && select.steps.saturating_add(act.steps) > MOST_STEPS
        {
            checker.errors.push(too_many(&chain.name));
        }
    }
    checker.errors
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Shared<'a> {
    Selector(&'a str),
    Actors(&'a str),
}

impl<'a> Shared<'a> {
    fn name(self) -> &'a str {
        match self {
            Shared::Selector(name) | Shared::Actors(name) => name,
        }
    }
}

/// What a sub-policy grows to.
#[derive(Clone, Copy, Default)]
struct Size {
    steps: usize,
    depth: usize,
}

impl Size {
    fn join(self, other: Self) -> Self {
        Self {
            steps: self.steps.saturating_add(other.steps),
            depth: self.depth.max(other.depth),
        }
    }

    fn deeper(self) -> Self {
        Self {
            depth: self.depth + 1,
            ..self
        }
    }
}

struct Checker<'a> {
    policy: &'a Policy,
    selectors: HashMap<&'a str, &'a SharedSelector>,
    actors: HashMap<&'a str, &'a SharedActors>,
    /// `None` where an error was found, so that it is reported once.
    measured: HashMap<Shared<'a>, Option<Size>>,
    /// Sub-policies that are being measured, outermost first.
    within: Vec<Shared<'a>>,
    errors: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    fn shared(&mut self, shared: Shared<'a>, at: &Place, level: usize) -> Option<Size> {
        if let Some(size) = self.measured.get(&shared) {
            let size = (*size)?;
            return self.fits(size, at, level);
        }
        if let Some(start) = self.within.iter().position(|outer| *outer == shared) {
            let mut names: Vec<&str> = self.within[start..].iter().map(|s| s.name()).collect();
            names.push(shared.name());
            let message = format!("{:?} uses itself: {}", shared.name(), names.join(" → "));
            self.errors.push(Diagnostic::new(at, message));
            return None;
        }
        self.within.push(shared);
        let size = match shared {
            Shared::Selector(name) => match self.selectors.get(name).copied() {
                Some(shared) => self.expr(&shared.expr, level),
                None => None,
            },
            Shared::Actors(name) => match self.actors.get(name).copied() {
                Some(shared) => self.acts(&shared.act, level),
                None => None,
            },
        };
        self.within.pop();
        self.measured.insert(shared, size);
        size
    }

    fn fits(&mut self, size: Size, at: &Place, level: usize) -> Option<Size> {
        // The outermost of these levels is `level` itself.
        if level + size.depth > DEEPEST_EXPRESSION + 1 {
            self.errors.push(too_deep(at));
            return None;
        }
        Some(size)
    }

    fn expr(&mut self, expr: &'a Expr, level: usize) -> Option<Size> {
        if level > DEEPEST_EXPRESSION {
            self.errors.push(too_deep(&expr.at));
            return None;
        }
        let size = match &expr.node {
            ExprNode::All(parts) | ExprNode::Any(parts) => {
                // Every part is looked at, so that all errors are found.
                let sizes: Vec<_> = parts
                    .iter()
                    .map(|part| self.expr(part, level + 1))
                    .collect();
                sizes
                    .into_iter()
                    .try_fold(Size::default(), |sum, part| Some(sum.join(part?)))?
            }
            ExprNode::Not(part) => self.expr(part, level + 1)?,
            ExprNode::Use(name) if self.selectors.contains_key(name.as_str()) => {
                self.shared(Shared::Selector(name), &name.at, level + 1)?
            }
            ExprNode::Use(name) => {
                self.errors.push(unknown_selector(self.policy, name));
                return None;
            }
            ExprNode::Step(_) => Size { steps: 1, depth: 0 },
        };
        Some(size.deeper())
    }

    fn acts(&mut self, acts: &'a [Act], level: usize) -> Option<Size> {
        let mut sum = Some(Size::default());
        for act in acts {
            let size = match act {
                Act::Step(_) => Some(Size { steps: 1, depth: 0 }),
                Act::Use(name) if level >= DEEPEST_EXPRESSION => {
                    self.errors.push(too_deep(&name.at));
                    None
                }
                Act::Use(name) if self.actors.contains_key(name.as_str()) => {
                    self.shared(Shared::Actors(name), &name.at, level + 1)
                }
                Act::Use(name) => {
                    self.errors.push(unknown_actors(self.policy, name));
                    None
                }
            };
            sum = sum.and_then(|sum| Some(sum.join(size?)));
        }
        sum.map(Size::deeper)
    }
}
