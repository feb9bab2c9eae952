//! What a step knows of the tables that it looks up, or takes values from.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use super::tables::Loaded;
use super::tables::Tables;
use crate::abi;
use crate::graph::Node;
use crate::module::TableKey;

/// A table that a policy defines.
pub(super) fn named_table<'t>(tables: &'t Tables, name: &str) -> Result<&'t Loaded> {
    tables
        .get(name)
        .with_context(|| format!("the table {name} is not there"))
}

/// What a step must know of the tables that it looks up or takes values from. `handed_on`: the
/// tables whose values go from selectors to actors of its chain, by slot.
pub(super) fn link_tables(
    links: &mut abi::Links,
    node: &Node,
    handed_on: &[String],
    tables: &Tables,
) -> Result<()> {
    let slot = |name: &str| {
        let slot = handed_on.iter().position(|table| table == name);
        slot.filter(|slot| *slot < abi::VALUE_SLOTS)
    };
    if let Some(name) = node.params.looked_up() {
        let definition = &named_table(tables, name)?.definition;
        links.flags |= abi::STEP_TABLE;
        if definition.key == TableKey::Addr {
            links.flags |= abi::STEP_ADDR_TABLE;
        }
        if definition.timeout.is_some() {
            links.flags |= abi::STEP_TIMED;
            links.expires_at = definition.expires_at() as u8;
        }
        if let Some(slot) = slot(name) {
            links.flags |= abi::STEP_LEAVES_VALUE;
            links.slot = slot as u8;
        }
    }
    for (index, from) in node.params.from_table.iter().enumerate() {
        let to = links.from_table.get_mut(index);
        let (Some(to), Some(slot)) = (to, slot(&from.table)) else {
            bail!("{}: too many values from tables", node.key);
        };
        to.offset = u16::try_from(from.offset)?;
        to.size = u8::try_from(from.size)?;
        to.slot = slot as u8;
        links.from_tables += 1;
        links.defaults |= u8::from(from.default.is_some()) << index;
    }
    Ok(())
}
