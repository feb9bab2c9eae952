//! Values that actors take from tables: which, and whether they can have them.

use std::collections::BTreeMap;

use super::BoundChain;
use super::Graph;
use super::compile;
use super::proves_lookup;
use crate::abi;
use crate::module::Module;
use crate::policy::Diagnostic;

/// Largest value that can be handed on, in bytes.
const LARGEST: usize = 8;

/// The tables from which the actors of each chain take values; the place of a table in the list is
/// the slot of its values.
pub(crate) fn value_tables(graph: &Graph) -> BTreeMap<usize, Vec<String>> {
    let mut tables: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for node in &graph.nodes {
        for from in &node.params.from_table {
            let wanted = tables.entry(node.chain).or_default();
            if !wanted.contains(&from.table) {
                wanted.push(from.table.clone());
            }
        }
    }
    tables
}

/// Checks that every actor of a chain gets the values that it takes from tables: that they were
/// found on every path, and that there is room to hand them on.
///
/// # Errors
///
/// Values that may be missing, are too large or too many.
pub fn check_values(chain: &BoundChain<'_>, modules: &[Module]) -> Result<(), Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let takers = || (chain.act.iter()).filter(|step| !step.params.from_table.is_empty());
    for step in takers() {
        let module = modules.get(step.module);
        let name = module.map_or("", |module| module.name.as_str());
        let size = module.map_or(0, |module| module.params_size);
        let mut refuse = |message: String| errors.push(Diagnostic::new(&step.at, message));
        if size > abi::MOST_OWN {
            refuse(format!(
                "{name} has {size} bytes of parameters: one that takes values from tables has at most {}",
                abi::MOST_OWN
            ));
        }
        let count = step.params.from_table.len();
        if count > abi::MOST_FROM_TABLE {
            refuse(format!(
                "{count} parameters come from tables: a step takes at most {}",
                abi::MOST_FROM_TABLE
            ));
        }
        for from in (step.params.from_table.iter()).filter(|from| from.size > LARGEST) {
            refuse(format!(
                "{} cannot come from a table: values of {} bytes are not handed on, {LARGEST} are",
                from.param, from.size
            ));
        }
    }
    if takers().next().is_some()
        && let Some(hook) = chain.chain.hooks.first()
    {
        // The same at every hook.
        let graph = compile(hook.value, &[chain], modules);
        errors.extend(proves_lookup(&graph).err().into_iter().flatten());
        let wanted = value_tables(&graph).remove(&0).unwrap_or_default();
        if wanted.len() > abi::VALUE_SLOTS {
            let message = format!(
                "the actors of the chain {:?} take values from {} tables, {}: a chain hands on those of {}",
                chain.chain.name.value,
                wanted.len(),
                wanted.join(", "),
                abi::VALUE_SLOTS
            );
            errors.push(Diagnostic::new(&chain.chain.name.at, message));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}
