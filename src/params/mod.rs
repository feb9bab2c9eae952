//! Parameters of a module: JSON to the bytes of its C structure, and back.
//!
//! Driven by nothing but the module's description ([`crate::module::Module`]);
//! the representation of each type is that of [`crate::module::Type`].

mod decode;
mod describe;
mod encode;
mod items;
mod scalar;
mod table;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use describe::check_description;
pub use encode::encode;
pub(crate) use items::items;
pub(crate) use scalar::bound;
pub(crate) use scalar::default_value;
pub(crate) use scalar::from_number;
pub use scalar::literal;
pub use table::decode_key;
pub use table::decode_value;
pub use table::encode_elements;
pub use table::encode_key;
pub use table::encode_table;
pub use table::encode_table_default;
pub use table::encode_value;
pub use table::key_size;
pub use table::value_size;

use std::hash::DefaultHasher;
use std::hash::Hash as _;
use std::hash::Hasher as _;

use crate::module::Module;
use crate::module::Param;
use crate::module::TableKey;

/// The `count` of a list that is in a table, because it is longer than the parameters hold.
pub const LIST_IN_TABLE: u32 = 0xffff_ffff;

/// A cgroup (version 2), as the kernel tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cgroup {
    /// Inode of its folder; never 0.
    pub id: u64,
    /// How many cgroups it is below that of the whole machine.
    pub level: u32,
}

impl Cgroup {
    /// What stands for a cgroup of a machine that is not this one: another path has another id,
    /// and no cgroup of a kernel has it.
    pub fn elsewhere(path: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let level = path.split('/').filter(|part| !part.is_empty()).count() as u32;
        match level {
            // The same everywhere: the first node of the file system.
            0 => Self { id: 1, level },
            _ => Self {
                id: hasher.finish() | 1 << 63,
                level,
            },
        }
    }
}

/// Interfaces of the machine, and its cgroups.
pub trait InterfaceResolver {
    /// The index of the interface with this name or alternative name.
    fn index(&self, name: &str) -> Option<u32>;

    /// The name of the interface with this index.
    fn name(&self, index: u32) -> Option<String>;

    /// All names, for proposals.
    fn names(&self) -> Vec<String>;

    /// The cgroup of a path.
    ///
    /// # Errors
    ///
    /// Why there is none, for people.
    fn cgroup(&self, path: &str) -> Result<Cgroup, String> {
        Err(format!("nothing is known here of the cgroup {path:?}"))
    }

    /// A path that was asked for, and had this id.
    fn cgroup_path(&self, _id: u64) -> Option<String> {
        None
    }
}

/// Accepts every name, as index 1, and every cgroup: for checks that are not about this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyInterface;

impl InterfaceResolver for AnyInterface {
    fn index(&self, _: &str) -> Option<u32> {
        Some(1)
    }

    fn name(&self, _: u32) -> Option<String> {
        None
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn cgroup(&self, path: &str) -> Result<Cgroup, String> {
        Ok(Cgroup::elsewhere(path))
    }
}

/// Parameters as the kernel gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Encoded {
    /// The C structure: `params_size` bytes.
    pub bytes: Vec<u8>,
    /// What stands for maps of the module; a map that is not among them stays the module's own.
    pub tables: Vec<TableBinding>,
    /// Values that come from a table at run time.
    pub from_table: Vec<FromTable>,
}

impl Encoded {
    /// Whether a step of this module with these parameters changes bytes of the packet.
    pub fn edits(&self, module: &Module) -> bool {
        let zero = |param: &Param| {
            let len = scalar::size(&param.ty).unwrap_or(1);
            let bytes = self.bytes.get(param.offset..param.offset + len);
            let known = self.from_table.iter().all(|f| f.offset != param.offset);
            known && bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
        };
        let only_if = module.params.iter().filter(|param| param.edits_if);
        module.flags.edits && !only_if.into_iter().any(zero)
    }

    /// The table of the policy whose values the step leaves to the actors behind.
    pub fn looked_up(&self) -> Option<&str> {
        let binding = self.tables.iter().find(|binding| binding.lookup)?;
        match &binding.contents {
            TableContents::Named(name) => Some(name),
            TableContents::Anonymous { .. } => None,
        }
    }
}

/// What stands for a map of the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableBinding {
    /// The map's name in the module.
    pub map: String,
    /// What takes its place.
    pub contents: TableContents,
    /// The step leaves the values that it finds there to the actors behind.
    pub lookup: bool,
}

/// What stands for a map of a module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TableContents {
    /// A table of the step's own, with these entries.
    Anonymous {
        /// What it is looked up by.
        key: TableKey,
        /// Key ([`encode_key`]) and value (one byte, 1) of each entry, sorted by the bytes of the
        /// keys, without repetition. A range of ports stands as its ports.
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
    /// What it is where the table was not looked up or nothing was found: the `"default"` beside
    /// the table's name, else that of the table. It also stands in the structure, which is
    /// zero there without one.
    pub default: Option<Vec<u8>>,
}
