//! Parameters of a module: JSON to the bytes of its C structure, and back.
//!
//! Driven by nothing but the module's description ([`crate::module::Module`]);
//! the representation of each type is that of [`crate::module::Type`].

use crate::module::Module;
use crate::module::TableKey;
use crate::policy::Diagnostic;
use crate::policy::Json;
use crate::policy::Table;

/// The `count` of a list that is in a table, because it is longer than the parameters hold.
pub const LIST_IN_TABLE: u32 = 0xffff_ffff;

/// Interfaces of the machine.
pub trait InterfaceResolver {
    /// The index of the interface with this name or alternative name.
    fn index(&self, name: &str) -> Option<u32>;

    /// The name of the interface with this index.
    fn name(&self, index: u32) -> Option<String>;

    /// All names, for proposals.
    fn names(&self) -> Vec<String>;
}

/// Accepts every name, as index 1: for checks that are not about this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyInterface;

/// Parameters as the kernel gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Encoded {
    /// The C structure: `params_size` bytes.
    pub bytes: Vec<u8>,
    /// What the maps of the module hold or are.
    pub tables: Vec<TableBinding>,
    /// Values that come from a table at run time.
    pub from_table: Vec<FromTable>,
}

/// What stands for a map of the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableBinding {
    /// The map's name in the module.
    pub map: String,
    /// What takes its place.
    pub contents: TableContents,
}

/// What stands for a map of a module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TableContents {
    /// A table of the step's own, with these entries.
    Anonymous {
        /// What it is looked up by.
        key: TableKey,
        /// Key and value of each entry, ascending and without repetition; see [`encode_key`].
        entries: Vec<Entry>,
    },
    /// The table of the policy with this name.
    Named(String),
}

/// Key and value of an entry of a table, as the kernel gets them.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A parameter whose value is that which a selector found in a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FromTable {
    /// Name of the parameter.
    pub param: String,
    /// Place of the parameter in the structure, in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Name of the table.
    pub table: String,
    /// What it is where the table was not looked up, or held nothing: the parameter's own
    /// `"default"`, else that of the table. It also stands in the structure.
    pub default: Option<Vec<u8>>,
}

/// Encodes the parameters of a step.
///
/// `tables` are those that the policy declares. Every parameter is checked, so
/// that all errors are reported.
///
/// # Errors
///
/// What is missing, unknown, of the wrong type or out of range, sorted by place.
pub fn encode(
    module: &Module,
    params: &Json,
    interfaces: &dyn InterfaceResolver,
    tables: &[Table],
) -> Result<Encoded, Vec<Diagnostic>> {
    let _ = (module, params, interfaces, tables);
    Err(Vec::new())
}

/// The inverse of [`encode`], for people: defaults are spelled out, quantities
/// have the largest unit that keeps them exact.
///
/// Encoding the result gives `encoded` again.
pub fn decode(
    module: &Module,
    encoded: &Encoded,
    interfaces: &dyn InterfaceResolver,
) -> serde_json::Value {
    let _ = (module, encoded, interfaces);
    serde_json::Value::Null
}
