//! Changes of one chain of a policy in force.

use super::*;

/// How messages name the policy that is changed: its places are those in this output.
const IN_FORCE: &str = "emptcp show --json";

/// A change of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A file with a new chain, as it stands in `chains`; it comes last.
    Add(Fragment),
    /// The name of a chain, and a file with the one that takes its place.
    Replace(String, Fragment),
    /// The name of the chain that goes.
    Delete(String),
    /// The name of the chain that is enabled.
    Enable(String),
    /// The name of the chain that is disabled.
    Disable(String),
}

/// A policy in the form of [`canonical`], as it is.
///
/// # Errors
///
/// It is of another version of this program.
pub fn unchanged(policy: &serde_json::Value) -> Result<Policy, Vec<Diagnostic>> {
    parse(&[in_force(policy)])
}

fn in_force(policy: &serde_json::Value) -> Fragment {
    Fragment {
        name: IN_FORCE.to_owned(),
        bytes: format!("{policy:#}").into_bytes(),
    }
}

/// A policy in the form of [`canonical`] with one chain changed.
///
/// # Errors
///
/// All that is wrong, sorted by place: the chain of that name is not there, the file is
/// wrong, something of the policy does not fit to it.
pub fn edit(policy: &serde_json::Value, edit: &Edit) -> Result<Policy, Vec<Diagnostic>> {
    let base = in_force(policy);
    let (name, enabled) = match edit {
        Edit::Add(chain) => return parse::parse_with_chain(&base, chain, None),
        Edit::Replace(name, chain) => {
            find(&parse(std::slice::from_ref(&base))?, name)?;
            return parse::parse_with_chain(&base, chain, Some(name));
        }
        Edit::Delete(name) => (name, None),
        Edit::Enable(name) => (name, Some(true)),
        Edit::Disable(name) => (name, Some(false)),
    };
    let mut policy = parse(&[base])?;
    let index = find(&policy, name)?;
    match enabled {
        Some(enabled) => policy.chains[index].enabled = enabled,
        None => {
            policy.chains.remove(index);
        }
    }
    Ok(policy)
}

fn find(policy: &Policy, name: &str) -> Result<usize, Vec<Diagnostic>> {
    let names = || policy.chains.iter().map(|c| c.name.value.as_str());
    names().position(|n| n == name).ok_or_else(|| {
        let message = format!("no chain is named {}", quoted(name));
        vec![Diagnostic::of_file(IN_FORCE, message).suggest_nearest(name, names())]
    })
}
