//! Tables of a policy as the kernel gets them: pure.
//!
//! The value of an entry is that of the table, filled with zeros to a multiple of 8
//! bytes (of a set: the byte 1), and behind it, where entries expire, the time at which
//! this one does: 8 bytes, nanoseconds of `CLOCK_BOOTTIME`.

use serde_json::Value as Plain;
use serde_json::json;

use crate::module::TableKey;
use crate::module::Type;
use crate::params::Entry;
use crate::params::InterfaceResolver;
use crate::params::encode_table;
use crate::params::key_size;
use crate::params::value_size;
use crate::policy;
use crate::policy::Diagnostic;
use crate::policy::Policy;
use crate::policy::quantity;
use crate::policy::table_key_name;
use crate::policy::value_type_name;

/// Entries that a table has room for where the policy says nothing and brings no more.
pub const DEFAULT_SIZE: u32 = 16_384;

/// What decides how the map of a table looks, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What it is looked up by.
    pub key: TableKey,
    /// Type of the values, of a map.
    pub value: Option<Type>,
    /// The most entries that it takes.
    pub size: u32,
    /// Entries that were not written for so many nanoseconds match no more.
    pub timeout: Option<u64>,
    /// The contents are those of the policy's file.
    pub of_file: bool,
}

/// A table of a policy.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// What it is.
    pub definition: Definition,
    /// The contents that the file gives it, in the form of [`encode_table`].
    pub elements: Vec<Entry>,
}

impl Definition {
    /// Bytes of a key.
    pub fn key_size(&self) -> usize {
        key_size(self.key)
    }

    /// Where the time is at which an entry expires, behind its value.
    pub fn expires_at(&self) -> usize {
        value_size(self.value.as_ref()).next_multiple_of(8)
    }

    /// Bytes of a value in the kernel.
    pub fn stored_size(&self) -> usize {
        self.expires_at() + if self.timeout.is_some() { 8 } else { 0 }
    }

    /// A value as the kernel gets it.
    pub fn store(&self, value: &[u8], expires: u64) -> Vec<u8> {
        let mut bytes = value.to_vec();
        bytes.resize(self.expires_at(), 0);
        if self.timeout.is_some() {
            bytes.extend_from_slice(&expires.to_ne_bytes());
        }
        bytes
    }

    /// The value in what the kernel has.
    pub fn value_of<'a>(&self, stored: &'a [u8]) -> &'a [u8] {
        stored
            .get(..value_size(self.value.as_ref()))
            .unwrap_or_default()
    }

    /// When an entry expires; `u64::MAX`: never.
    pub fn expiry_of(&self, stored: &[u8]) -> u64 {
        let bytes = stored.get(self.expires_at()..).unwrap_or_default();
        bytes
            .first_chunk()
            .map_or(u64::MAX, |bytes| u64::from_ne_bytes(*bytes))
    }

    /// Whether entries of the other keep their meaning here.
    pub fn takes_entries_of(&self, other: &Definition) -> bool {
        self.key == other.key && self.value == other.value
    }

    /// Whether the map of the other serves for this one.
    pub fn same_map(&self, other: &Definition) -> bool {
        self.takes_entries_of(other)
            && self.size == other.size
            && self.timeout.is_some() == other.timeout.is_some()
    }

    /// Bytes of kernel memory about: of the empty table, and of the full one.
    pub fn memory(&self) -> (u64, u64) {
        // The kernel takes its memory in these sizes, of which 8 bytes are its own.
        let taken = |bytes: usize| {
            let sizes = [16, 32, 64, 96, 128, 192, 256];
            let fits = sizes.into_iter().find(|size| bytes + 8 <= *size);
            fits.unwrap_or_else(|| (bytes + 8).next_power_of_two()) as u64
        };
        let size = u64::from(self.size);
        if self.key == TableKey::Prefix {
            // A node of 40 bytes with key and value, and at worst one more where two paths part.
            let data = self.key_size() - size_of::<u32>();
            let entry = taken(40 + data + self.stored_size()) + taken(40 + data);
            return (0, size * entry);
        }
        let empty = size.next_power_of_two() * 16;
        let entry = 48 + self.key_size().next_multiple_of(8) + self.stored_size();
        (empty, empty + size * taken(entry))
    }

    /// As in a policy, without contents.
    pub fn to_json(&self) -> Plain {
        let mut json = json!({ "type": table_key_name(self.key) });
        if let Some(value) = self.value.as_ref().and_then(value_type_name) {
            json["value"] = json!(value);
        }
        json["size"] = json!(self.size);
        if let Some(timeout) = self.timeout {
            json["timeout"] = quantity::show_time(timeout);
        }
        json
    }
}

/// The definition of a table as the policy writes it; `elements`: how many it brings.
fn definition(table: &policy::Table, elements: usize) -> Definition {
    let most = u32::try_from(elements).unwrap_or(u32::MAX);
    Definition {
        key: table.key.value,
        value: table.value.as_ref().map(|value| value.value.clone()),
        size: (table.size.as_ref()).map_or(most.max(DEFAULT_SIZE), |size| size.value),
        timeout: table.timeout.as_ref().map(|timeout| timeout.value),
        of_file: table.elements.is_some(),
    }
}

/// The tables of a policy with their contents.
///
/// # Errors
///
/// Those of [`encode_table`].
pub fn planned(
    policy: &Policy,
    interfaces: &dyn InterfaceResolver,
) -> Result<Vec<Planned>, Vec<Diagnostic>> {
    let mut tables = Vec::new();
    for table in &policy.tables {
        let elements = encode_table(table, interfaces)?.unwrap_or_default();
        tables.push(Planned {
            name: table.name.value.clone(),
            definition: definition(table, elements.len()),
            elements,
        });
    }
    Ok(tables)
}

/// How a table of the policy in force becomes that of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    Keep,
    /// Its entries go into a map of another size or form.
    Copy,
    /// It begins anew: with what the file says, or empty.
    New,
}

/// What becomes of a table. `contents`: whether what it holds is what the file says.
pub fn change(
    before: Option<&Definition>,
    now: &Definition,
    contents: impl FnOnce() -> bool,
) -> Change {
    match before {
        Some(before) if now.of_file => {
            if now.same_map(before) && contents() {
                Change::Keep
            } else {
                Change::New
            }
        }
        Some(before) if now.same_map(before) => Change::Keep,
        Some(before) if now.takes_entries_of(before) => Change::Copy,
        _ => Change::New,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow() -> Definition {
        Definition {
            key: TableKey::Subflow,
            value: Some(Type::Bytes),
            size: 100,
            timeout: Some(5),
            of_file: false,
        }
    }

    #[test]
    fn values_are_stored_with_their_end() {
        let timed = slow();
        let stored = timed.store(&7u64.to_ne_bytes(), 99);
        assert_eq!(stored, [7u64.to_ne_bytes(), 99u64.to_ne_bytes()].concat());
        assert_eq!(timed.value_of(&stored), 7u64.to_ne_bytes());
        assert_eq!(timed.expiry_of(&stored), 99);
        let set = Definition {
            value: None,
            timeout: None,
            ..slow()
        };
        let stored = set.store(&[1], 99);
        assert_eq!(stored, [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            (set.value_of(&stored), set.expiry_of(&stored)),
            (&[1][..], u64::MAX)
        );
        let addr = Definition {
            value: Some(Type::Addr),
            ..slow()
        };
        assert_eq!((addr.expires_at(), addr.stored_size()), (16, 24));
    }

    #[test]
    fn run_time_keeps_what_it_can() {
        let before = slow();
        let becomes = |now: Definition| change(Some(&before), &now, || unreachable!());
        assert_eq!(becomes(slow()), Change::Keep);
        let longer = Definition {
            timeout: Some(6),
            ..slow()
        };
        assert_eq!(becomes(longer), Change::Keep);
        let larger = Definition {
            size: 101,
            ..slow()
        };
        assert_eq!(becomes(larger), Change::Copy);
        let lasting = Definition {
            timeout: None,
            ..slow()
        };
        assert_eq!(becomes(lasting), Change::Copy);
        let rates = Definition {
            value: Some(Type::Rate),
            ..slow()
        };
        assert_eq!(becomes(rates), Change::New);
        assert_eq!(change(None, &slow(), || unreachable!()), Change::New);
    }

    #[test]
    fn a_file_decides_what_is_in_its_table() {
        let own = Definition {
            of_file: true,
            timeout: None,
            ..slow()
        };
        assert_eq!(change(Some(&own), &own, || true), Change::Keep);
        assert_eq!(change(Some(&own), &own, || false), Change::New);
        // It was run time's before.
        let before = Definition {
            of_file: false,
            ..own.clone()
        };
        assert_eq!(change(Some(&before), &own, || true), Change::Keep);
        assert_eq!(change(Some(&before), &own, || false), Change::New);
        assert_eq!(change(Some(&own), &before, || unreachable!()), Change::Keep);
    }

    #[test]
    fn an_empty_table_costs_little() {
        let million = Definition {
            size: 1_000_000,
            ..slow()
        };
        let (empty, full) = million.memory();
        assert_eq!(empty, 16 << 20);
        assert_eq!(full, (16 << 20) + 128_000_000);
        let prefixes = Definition {
            key: TableKey::Prefix,
            value: None,
            timeout: None,
            ..million
        };
        assert_eq!(prefixes.memory(), (0, 192_000_000));
    }
}
