//! Policies: the JSON that operators write, with the place of every value.
//!
//! # The format, version 1
//!
//! A policy is one file, or a directory whose `*.json` files (*fragments*) are
//! read in the order of their names and count as one policy. Each file is a
//! JSON object with these fields, all but `version` optional:
//!
//! - `version`: 1.
//! - `$schema`, `comment`: strings without effect.
//! - `limits`: [`LIMITS`], a positive number each.
//! - `track`: array of interfaces whose subflows and connections are tracked, for views.
//! - `tables`: object of name to [`Table`]: sets and maps that are changed at run time.
//! - `selectors`: object of name to expression: shared sub-policies of chains.
//! - `actors`: object of name to list of steps: shared sub-policies of chains.
//! - `chains`: array of [`Chain`].
//!
//! Names are 1 to 63 characters of `[a-z0-9_-]`. A name is defined once in the
//! whole policy, whichever the file. Unknown fields and duplicate keys are errors.
//!
//! ## Steps and expressions
//!
//! A step is an object with one key: the name of a module, its parameters in an
//! object: `{ "dport": { "in": [22] } }`. `{ "use": "name" }` stands for the shared
//! sub-policy of that name. An expression is a step of a selector, or one of
//!
//! - `{ "all": [ … ] }`: every part matches; true if there is none,
//! - `{ "any": [ … ] }`: a part matches; false if there is none,
//! - `{ "not": … }`: the part does not match,
//!
//! evaluated from left to right, and no further than needed. The `select` of a
//! chain may be absent or `{}`: then the chain takes every TCP packet.
//!
//! ## Chains
//!
//! Every enabled chain whose expression matches a packet runs its actors, in the
//! order of `priority`, lower first; equal ones in the order of the fragments' names,
//! then as written ([`Policy::in_order`]). Later chains see the packet as
//! edited. An actor that ends (accept, drop, redirect) ends them all at this hook.
//!
//! Everything here is pure: nothing but [`load`] touches the system, and that
//! only reads files.

mod canonical;
mod changes;
mod diagnostic;
mod edit;
mod fragments;
mod json;
mod names;
mod parse;
mod pattern;
pub mod quantity;
mod resolve;

#[cfg(test)]
mod tests;

pub use canonical::canonical;
pub use canonical::canonical_chain;
pub use canonical::canonical_text;
pub use changes::ChainChanges;
pub use changes::Changes;
pub use changes::SECTIONS;
pub use changes::changes;
pub use diagnostic::Diagnostic;
pub use diagnostic::nearest;
pub(crate) use diagnostic::quoted;
pub use edit::Edit;
pub use edit::edit;
pub use edit::unchanged;
pub use fragments::Fragment;
pub use fragments::load;
pub use fragments::read_fragments;
pub use fragments::read_one;
pub use json::DEEPEST;
pub use json::Json;
pub use json::Member;
pub use json::Place;
pub use json::Spanned;
pub use json::Value;
pub use json::read;
#[cfg(test)]
pub(crate) use names::TABLE_KEYS;
#[cfg(test)]
pub(crate) use names::VALUE_TYPES;
pub use names::table_key_by_name;
pub use names::table_key_name;
pub use names::value_type_by_name;
pub use names::value_type_name;
#[cfg(test)]
pub(crate) use parse::CHAIN_FIELDS;
#[cfg(test)]
pub(crate) use parse::FIELDS;
#[cfg(test)]
pub(crate) use parse::TABLE_FIELDS;
pub(crate) use parse::one_of;
pub use parse::parse;
pub(crate) use parse::parse_expr;
pub use pattern::InterfacePattern;
pub(crate) use pattern::glob_matches;
pub use resolve::ResolvedChain;
pub use resolve::ResolvedExpr;
pub use resolve::ResolvedStep;

use std::collections::BTreeMap;

use crate::module::Hook;
use crate::module::TableKey;
use crate::module::Type;

/// The version of the format.
pub const VERSION: u64 = 1;

/// How deep an expression or a list of actors may be nested, shared sub-policies included.
pub const DEEPEST_EXPRESSION: usize = 64;

/// How many steps a chain may have, shared sub-policies included.
pub const MOST_STEPS: usize = 4096;

/// The keys of `limits`, each with one line for people.
pub const LIMITS: [(&str, &str); 3] = [
    ("connections", "MPTCP connections whose state is kept"),
    ("subflows", "subflows whose state is kept"),
    (
        "half_open",
        "connections and subflows whose handshake is not complete",
    ),
];

/// All that is in one file or one directory of fragments. Two are equal if they
/// say the same, wherever it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `$schema`; of several fragments the first.
    pub schema: Option<String>,
    /// `comment`; those of several fragments are joined by newlines.
    pub comment: Option<String>,
    /// `limits`, in the order of [`LIMITS`].
    pub limits: Vec<(&'static str, Spanned<u32>)>,
    /// `track`: where subflows and connections are tracked even if no step needs it.
    pub track: Vec<InterfacePattern>,
    /// Tables as written, fragments in order.
    pub tables: Vec<Table>,
    /// Shared expressions as written, fragments in order.
    pub selectors: Vec<SharedSelector>,
    /// Shared lists of actors as written, fragments in order.
    pub actors: Vec<SharedActors>,
    /// Chains as written, fragments in order; see [`Policy::in_order`].
    pub chains: Vec<Chain>,
}

impl Policy {
    /// The chains in the order in which they meet a packet: by priority, lower
    /// first; equal ones as written, fragments by name. Disabled ones included.
    pub fn in_order(&self) -> Vec<&Chain> {
        let mut chains: Vec<&Chain> = self.chains.iter().collect();
        chains.sort_by_key(|chain| chain.priority.value);
        chains
    }

    /// The chain of that name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name.value == name)
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name.value == name)
    }

    /// The limits that the policy sets, by name.
    pub fn limits(&self) -> BTreeMap<String, u32> {
        let limits = self.limits.iter();
        limits
            .map(|(name, value)| ((*name).to_owned(), value.value))
            .collect()
    }
}

/// A named set (without `value`) or map (with `value`), changed at run time
/// without a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: Spanned<String>,
    /// A comment without effect.
    pub comment: Option<String>,
    /// `type`: what it is looked up by.
    pub key: Spanned<TableKey>,
    /// `value`: type of the values, of a map.
    pub value: Option<Spanned<Type>>,
    /// `size`: the most entries that it takes.
    pub size: Option<Spanned<u32>>,
    /// `timeout`: an entry is forgotten after so many nanoseconds; not together with
    /// `elements`.
    pub timeout: Option<Spanned<u64>>,
    /// `default`: what an actor takes from a map where nothing was found.
    pub default: Option<Json>,
    /// `elements`: an array of keys, of a map an object of key to value. The table
    /// belongs to the file if they are given (even if there are none), else to run time.
    pub elements: Option<Json>,
}

/// A shared expression: a member of `selectors`.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedSelector {
    /// Its name.
    pub name: Spanned<String>,
    /// What it stands for.
    pub expr: Expr,
}

/// A shared list of actors: a member of `actors`.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedActors {
    /// Its name.
    pub name: Spanned<String>,
    /// What it stands for.
    pub act: Vec<Act>,
}

/// Which packets at which hooks and interfaces, and what is done to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Its name.
    pub name: Spanned<String>,
    /// A comment without effect.
    pub comment: Option<String>,
    /// `hook`: one or several, without repetition, as written.
    pub hooks: Vec<Spanned<Hook>>,
    /// `interfaces`: at least one.
    pub interfaces: Vec<InterfacePattern>,
    /// `priority`: lower first; 0 if not given.
    pub priority: Spanned<i32>,
    /// `enabled`: true if not given.
    pub enabled: bool,
    /// `while_up`: in force only while, for each of these, an interface is up; none if not given.
    pub while_up: Vec<InterfacePattern>,
    /// `zone`: keeps overlapping tenants apart; 0 if not given.
    pub zone: u32,
    /// `on_error`: pass if not given.
    pub on_error: OnError,
    /// `xdp`: only with that hook.
    pub xdp: XdpOptions,
    /// `position`: only with a hook of tc; last if not given.
    pub position: Position,
    /// `select`: `None` (absent or `{}`) is every TCP packet.
    pub select: Option<Expr>,
    /// `act`: at least one.
    pub act: Vec<Act>,
}

/// What becomes of a packet where a step fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The rest of the chain is skipped.
    #[default]
    Pass,
    /// The packet is dropped.
    Drop,
}

/// How a chain is attached at XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpOptions {
    /// `mode`
    pub mode: XdpMode,
    /// `replace`: a program of somebody else gives way.
    pub replace: bool,
    /// `trust_checksums`: the operator vouches that checksums are complete here.
    pub trust_checksums: bool,
}

/// Where a driver runs XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver if it can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
}

/// Place among other programs at a hook of tc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// Before all that are there.
    First,
    /// Behind all that are there.
    #[default]
    Last,
    /// Before the program with this id.
    BeforeId(u32),
    /// Before the program with this name.
    BeforeName(String),
}

/// An expression as written. Two are equal if they say the same.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Where it stands.
    pub at: Place,
    /// What it says.
    pub node: ExprNode,
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprNode {
    /// Every part matches.
    All(Vec<Expr>),
    /// A part matches.
    Any(Vec<Expr>),
    /// The part does not match.
    Not(Box<Expr>),
    /// A shared expression.
    Use(Spanned<String>),
    /// A selector.
    Step(Step),
}

/// An element of `act` as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// A shared list of actors.
    Use(Spanned<String>),
    /// An actor.
    Step(Step),
}

/// A module with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Name of the module, where it stands as key.
    pub module: Spanned<String>,
    /// Its parameters: an object.
    pub params: Json,
}
