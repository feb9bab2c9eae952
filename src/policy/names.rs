//! Names that stand for types and choices in JSON.

use crate::module::TableKey;
use crate::module::Type;

/// The names of the kinds of tables, as `type` of a table.
pub(crate) const TABLE_KEYS: [(&str, TableKey); 5] = [
    ("prefix", TableKey::Prefix),
    ("addr", TableKey::Addr),
    ("subflow", TableKey::Subflow),
    ("token", TableKey::Token),
    ("port", TableKey::Port),
];

/// The names of the types that the values of a table can have, as `value` of a table.
pub(crate) const VALUE_TYPES: [(&str, Type); 17] = [
    ("bytes", Type::Bytes),
    ("rate", Type::Rate),
    ("time", Type::Time),
    ("ratio", Type::Ratio),
    ("addr", Type::Addr),
    ("port", Type::Port),
    ("token", Type::Token),
    ("interface", Type::Interface),
    ("bool", Type::Bool),
    ("u8", Type::Uint(1)),
    ("u16", Type::Uint(2)),
    ("u32", Type::Uint(4)),
    ("u64", Type::Uint(8)),
    ("s8", Type::Int(1)),
    ("s16", Type::Int(2)),
    ("s32", Type::Int(4)),
    ("s64", Type::Int(8)),
];

/// The name of a kind of tables.
pub fn table_key_name(key: TableKey) -> &'static str {
    TABLE_KEYS
        .iter()
        .find(|(_, k)| *k == key)
        .map_or("", |(name, _)| name)
}

/// The kind of tables that has this name.
pub fn table_key_by_name(name: &str) -> Option<TableKey> {
    let found = TABLE_KEYS.iter().find(|(known, _)| *known == name);
    found.map(|(_, key)| *key)
}

/// The type of values that has this name.
pub fn value_type_by_name(name: &str) -> Option<Type> {
    let found = VALUE_TYPES.iter().find(|(known, _)| *known == name);
    found.map(|(_, ty)| ty.clone())
}

/// The name of a type of values, if the values of a table can have it.
pub fn value_type_name(ty: &Type) -> Option<&'static str> {
    VALUE_TYPES
        .iter()
        .find(|(_, t)| t == ty)
        .map(|(name, _)| *name)
}
