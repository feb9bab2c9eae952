//! Shared sub-policies put in the place where they are used.

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
    /// None for a chain of a policy that was parsed: a sub-policy that does not exist,
    /// cycles, and more than [`MOST_STEPS`] or [`DEEPEST_EXPRESSION`] allow.
    pub fn resolve<'a>(&'a self, chain: &'a Chain) -> Result<ResolvedChain<'a>, Diagnostic> {
        Err(Diagnostic::new(&chain.name.at, "not resolved"))
    }
}
