//! What two policies in the form of [`canonical`](super::canonical) differ in.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// The sections of a policy whose members have names, and what one member is called.
pub const SECTIONS: [(&str, &str); 4] = [
    ("chains", "chain"),
    ("selectors", "selector"),
    ("actors", "actors"),
    ("tables", "table"),
];

/// Names of one section that are new, different or gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those that say something else.
    pub changed: Vec<String>,
    /// Those that are no more.
    pub removed: Vec<String>,
}

impl Changes {
    /// The changes of one of [`SECTIONS`].
    pub fn of(section: &str, before: &Value, after: &Value) -> Self {
        let (old, new) = (named(before, section), named(after, section));
        let mut changes = Self::default();
        for (name, value) in &new {
            match old.iter().find(|(n, _)| n == name) {
                None => changes.added.push((*name).to_owned()),
                Some((_, before)) if before != value => changes.changed.push((*name).to_owned()),
                Some(_) => {}
            }
        }
        let gone = old.iter().filter(|(n, _)| new.iter().all(|(m, _)| m != n));
        changes.removed = gone.map(|(name, _)| (*name).to_owned()).collect();
        changes
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Chains that were changed since a policy was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChainChanges {
    /// New ones.
    pub added: Vec<String>,
    /// Those that others took the place of.
    pub replaced: Vec<String>,
    /// Those that are no more.
    pub deleted: Vec<String>,
    /// Those that were disabled.
    pub enabled: Vec<String>,
    /// Those that were enabled.
    pub disabled: Vec<String>,
    /// Those in both do not come one after the other as before, which counts where their
    /// priorities are equal.
    pub reordered: bool,
}

impl ChainChanges {
    /// From the policy as applied to the one in force.
    pub fn between(applied: &Value, in_force: &Value) -> Self {
        let changes = Changes::of("chains", applied, in_force);
        let (old, new) = (named(applied, "chains"), named(in_force, "chains"));
        let find = |all: &[(&str, &Value)], name: &str| {
            all.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).clone())
        };
        let order = |all: &[(&str, &Value)], other: &[(&str, &Value)]| -> Vec<String> {
            let names = all.iter().map(|(n, _)| (*n).to_owned());
            names
                .filter(|n| other.iter().any(|(m, _)| m == n))
                .collect()
        };
        let mut found = Self {
            reordered: order(&old, &new) != order(&new, &old),
            added: changes.added,
            deleted: changes.removed,
            ..Self::default()
        };
        for name in changes.changed {
            let (before, after) = (find(&old, &name), find(&new, &name));
            let is_disabled = |c: &Option<Value>| {
                c.as_ref().and_then(|c| c.get("enabled")) == Some(&Value::Bool(false))
            };
            let disabled = is_disabled(&after);
            let toggled = is_disabled(&before) != disabled;
            match toggled && without_enabled(before) == without_enabled(after) {
                true if disabled => found.disabled.push(name),
                true => found.enabled.push(name),
                false => found.replaced.push(name),
            }
        }
        found
    }

    /// What became of the chains, for people: `chain cap was added`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, names) in [
            ("added", &self.added),
            ("replaced", &self.replaced),
            ("deleted", &self.deleted),
            ("enabled", &self.enabled),
            ("disabled", &self.disabled),
        ] {
            lines.extend(names.iter().map(|name| format!("chain {name} was {what}")));
        }
        if self.reordered {
            lines.push("the chains were reordered".to_owned());
        }
        lines
    }
}

fn without_enabled(mut chain: Option<Value>) -> Option<Value> {
    if let Some(object) = chain.as_mut().and_then(Value::as_object_mut) {
        object.remove("enabled");
    }
    chain
}

/// The members of a section; chains have their name inside, the others as key.
fn named<'a>(policy: &'a Value, section: &str) -> Vec<(&'a str, &'a Value)> {
    match policy.get(section) {
        Some(Value::Array(chains)) => {
            let name = |c: &'a Value| Some((c.get("name")?.as_str()?, c));
            chains.iter().filter_map(name).collect()
        }
        Some(Value::Object(members)) => members.iter().map(|(k, v)| (k.as_str(), v)).collect(),
        _ => Vec::new(),
    }
}

/// The changes of every section that has some.
pub fn changes(before: &Value, after: &Value) -> BTreeMap<&'static str, Changes> {
    SECTIONS
        .iter()
        .map(|(section, _)| (*section, Changes::of(section, before, after)))
        .filter(|(_, changes)| !changes.is_empty())
        .collect()
}
