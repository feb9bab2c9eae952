//! JSON to the parameters of a step.

use std::collections::BTreeMap;

use super::Encoded;
use super::FromTable;
use super::InterfaceResolver;
use super::LIST_IN_TABLE;
use super::TableBinding;
use super::TableContents;
use super::scalar;
use super::table;
use crate::module::Kind;
use crate::module::Module;
use crate::module::Param;
use crate::module::TableKey;
use crate::module::Type;
use crate::policy::Diagnostic;
use crate::policy::Json;
use crate::policy::Spanned;
use crate::policy::Table;
use crate::policy::Value;
use crate::policy::quantity;
use crate::policy::quoted;
use crate::policy::table_key_name;
use crate::policy::value_type_name;

/// Encodes the parameters of a step.
///
/// `tables` are those that the policy declares. `min` and `max` of a parameter hold for each item
/// of a list. A list that is longer than the parameters hold goes into a table of the step's
/// own where the module has a map for it: repeated items once, and ranges of ports joined
/// first, so that what then fits stays in the parameters.
///
/// # Errors
///
/// All that is missing, unknown, of the wrong type or out of range, sorted by place.
pub fn encode(
    module: &Module,
    params: &Json,
    interfaces: &dyn InterfaceResolver,
    tables: &[Table],
) -> Result<Encoded, Vec<Diagnostic>> {
    let Some(members) = params.as_object() else {
        let expected = "an object of parameters";
        return Err(vec![Diagnostic::expected(
            &params.at,
            expected,
            params.found(),
        )]);
    };
    let mut encoder = Encoder {
        module,
        interfaces,
        tables,
        encoded: Encoded {
            bytes: vec![0; module.params_size],
            ..Encoded::default()
        },
    };
    let mut errors = Vec::new();
    for member in members {
        if !module.params.iter().any(|param| *param.name == *member.key) {
            let names = module.params.iter().map(|param| param.name.as_str());
            let message = match module.params.is_empty() {
                true => format!("{} takes no parameters", quoted(&module.name)),
                false => format!("{} has no parameter {}", module.name, quoted(&member.key)),
            };
            let error = Diagnostic::new(&member.key_at(), message);
            errors.push(error.suggest_nearest(&member.key, names));
        }
    }
    let lookup = module.params.iter().find(|param| param.lookup);
    let by_table = lookup.is_some_and(|table| params.get(&table.name).is_some());
    for param in &module.params {
        let result = match (params.get(&param.name), &param.default) {
            (Some(json), _) if by_table && param.required && !param.lookup => {
                let table = lookup.map_or("", |table| table.name.as_str());
                let message = format!("either {:?} or {table:?} is given, not both", param.name);
                Err(vec![Diagnostic::new(&json.at, message)])
            }
            (Some(json), _) => encoder.param(param, json),
            (None, _) if param.required && by_table => Ok(()),
            (None, _) if param.required => {
                let other = lookup.filter(|table| table.name != param.name);
                let instead = other.map_or(String::new(), |table| {
                    format!(", or {:?} in its place", table.name)
                });
                let message = format!("the parameter {:?} is missing{instead}", param.name);
                Err(vec![Diagnostic::new(&params.at, message)])
            }
            (None, _) if is_called_for(param, params) => {
                let (other, value) = param.required_if.clone().unwrap_or_default();
                let message = format!(
                    "the parameter {:?} is missing: {other} {value:?} needs it",
                    param.name
                );
                Err(vec![Diagnostic::new(&params.at, message)])
            }
            (None, Some(default)) => encoder.param(param, &scalar::literal(default, &params.at)),
            (None, None) if param.tracked_unless => {
                let len = scalar::size(&param.ty).unwrap_or(0);
                encoder.put(param, params, param.offset, &vec![0xff; len])
            }
            (None, None) => Ok(()),
        };
        errors.extend(result.err().into_iter().flatten());
    }
    if errors.is_empty() {
        Ok(encoder.encoded)
    } else {
        errors.sort();
        Err(errors)
    }
}

/// Whether another parameter is given as the value with which this one must be given, too.
fn is_called_for(param: &Param, params: &Json) -> bool {
    let by = param.required_if.as_ref();
    by.is_some_and(|(other, value)| params.get(other).and_then(Json::as_str) == Some(value))
}

struct Encoder<'a> {
    module: &'a Module,
    interfaces: &'a dyn InterfaceResolver,
    tables: &'a [Table],
    encoded: Encoded,
}

type Done = Result<(), Vec<Diagnostic>>;

impl Encoder<'_> {
    fn put(&mut self, param: &Param, json: &Json, offset: usize, bytes: &[u8]) -> Done {
        let end = offset.saturating_add(bytes.len());
        match self.encoded.bytes.get_mut(offset..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => {
                let (module, name) = (&self.module.name, &param.name);
                let message = format!(
                    "{module} describes itself wrongly: {name} ends at byte {end} of {}",
                    self.module.params_size
                );
                Err(vec![Diagnostic::new(&json.at, message)])
            }
        }
    }

    fn param(&mut self, param: &Param, json: &Json) -> Done {
        match &param.ty {
            Type::List { .. } => self.list(param, json),
            Type::Table { key, value } => self.table(param, *key, value.as_deref(), json),
            _ if self.module.kind == Kind::Actor && json.as_object().is_some() => {
                self.looked_up(param, json)
            }
            ty => {
                let bytes = scalar::encode_in_range(param, ty, json, self.interfaces)?;
                self.put(param, json, param.offset, &bytes)
            }
        }
    }

    fn list(&mut self, param: &Param, json: &Json) -> Done {
        let Type::List {
            of,
            max,
            items_offset,
            item_size,
            table,
        } = &param.ty
        else {
            return Ok(());
        };
        let items = match &json.value {
            Value::Array(items) => items.as_slice(),
            _ => std::slice::from_ref(json),
        };
        let mut encoded = Vec::new();
        let mut errors = Vec::new();
        for item in items {
            match scalar::encode_in_range(param, of, item, self.interfaces) {
                Ok(bytes) => encoded.push(bytes),
                Err(error) => errors.extend(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        if encoded.len() > *max {
            let key = table
                .as_ref()
                .and_then(|map| Some((map, table::key_of_items(of)?)));
            let Some((map, key)) = key else {
                let expected = format!("at most {max} items");
                return Err(vec![Diagnostic::expected(
                    &json.at,
                    expected,
                    encoded.len(),
                )]);
            };
            encoded = distinct(of, encoded);
            if encoded.len() > *max {
                let contents = TableContents::Anonymous {
                    key,
                    entries: entries(key, items)?,
                };
                self.encoded.tables.push(TableBinding {
                    map: map.clone(),
                    contents,
                    lookup: false,
                });
                return self.put(param, json, param.offset, &LIST_IN_TABLE.to_ne_bytes());
            }
        }
        let count = u32::try_from(encoded.len()).unwrap_or(LIST_IN_TABLE);
        self.put(param, json, param.offset, &count.to_ne_bytes())?;
        for (i, bytes) in encoded.iter().enumerate() {
            self.put(
                param,
                json,
                param.offset + items_offset + i * item_size,
                bytes,
            )?;
        }
        Ok(())
    }

    fn find_table(&self, name: &Json) -> Result<&Table, Vec<Diagnostic>> {
        let Some(text) = name.as_str() else {
            let expected = "the name of a table";
            return Err(vec![Diagnostic::expected(&name.at, expected, name.found())]);
        };
        self.tables
            .iter()
            .find(|table| table.name.value == text)
            .ok_or_else(|| {
                let names = self.tables.iter().map(|table| table.name.value.as_str());
                let message = format!("no table is named {}", quoted(text));
                vec![Diagnostic::new(&name.at, message).suggest_nearest(text, names)]
            })
    }

    fn table(&mut self, param: &Param, key: TableKey, value: Option<&Type>, json: &Json) -> Done {
        let table = self.find_table(json)?;
        let mut errors = Vec::new();
        let name = &table.name.value;
        // A look-up by prefix also knows how to find a plain address.
        let addr = param.lookup && key == TableKey::Prefix && table.key.value == TableKey::Addr;
        if table.key.value != key && !addr {
            let (found, expected) = (table_key_name(table.key.value), table_key_name(key));
            let expected = format!("a table of type {expected}");
            let found = format!("{name:?}, a table of type {found}");
            errors.push(Diagnostic::expected(&json.at, expected, found));
        }
        // A module without a type of values takes every table.
        if let Some(value) = value.filter(|value| Some(*value) != held(table)) {
            let expected = format!("a table with values of type {}", type_name(value));
            let found = match held(table) {
                Some(ty) => format!("{name:?} with values of type {}", type_name(ty)),
                None => format!("{name:?} without values"),
            };
            errors.push(Diagnostic::expected(&json.at, expected, found));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let contents = TableContents::Named(name.clone());
        self.encoded.tables.push(TableBinding {
            map: param.name.clone(),
            contents,
            lookup: param.lookup,
        });
        Ok(())
    }

    /// `{"table": …, "default": …}` in the place of a single value.
    fn looked_up(&mut self, param: &Param, json: &Json) -> Done {
        let mut errors = Vec::new();
        for member in json.as_object().unwrap_or_default() {
            if !matches!(&*member.key, "table" | "default") {
                let message = format!("unknown field {}", quoted(&member.key));
                let error = Diagnostic::new(&member.key_at(), message);
                errors.push(error.suggest_nearest(&member.key, ["table", "default"]));
            }
        }
        let mut default = None;
        if let Some(value) = json.get("default") {
            match scalar::encode_in_range(param, &param.ty, value, self.interfaces) {
                Ok(bytes) => default = Some(bytes),
                Err(error) => errors.extend(error),
            }
        }
        let Some(name) = json.get("table") else {
            errors.push(Diagnostic::new(&json.at, "the field \"table\" is missing"));
            return Err(errors);
        };
        let table = match self.find_table(name) {
            Ok(table) => table,
            Err(error) => {
                errors.extend(error);
                return Err(errors);
            }
        };
        let table_name = table.name.value.clone();
        if held(table) != Some(&param.ty) {
            let expected = format!("a table with values of type {}", type_name(&param.ty));
            let found = match held(table) {
                Some(ty) => format!("{table_name:?} with values of type {}", type_name(ty)),
                None => format!("{table_name:?} without values"),
            };
            errors.push(Diagnostic::expected(&name.at, expected, found));
        } else if let (None, [], Some(value)) = (&default, errors.as_slice(), &table.default)
            && table::encode_table_default(table, self.interfaces).is_ok()
        {
            // In range for the table is not yet in range for the parameter.
            let here = Spanned::new(value.value.clone(), name.at.clone());
            match scalar::encode_in_range(param, &param.ty, &here, self.interfaces) {
                Ok(bytes) => default = Some(bytes),
                Err(error) => errors.extend(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let size = scalar::size(&param.ty).unwrap_or(0);
        if let Some(bytes) = &default {
            self.put(param, json, param.offset, bytes)?;
        }
        self.encoded.from_table.push(FromTable {
            param: param.name.clone(),
            offset: param.offset,
            size,
            table: table_name,
            default,
        });
        Ok(())
    }
}

fn held(table: &Table) -> Option<&Type> {
    table.value.as_ref().map(|ty| &ty.value)
}

fn type_name(ty: &Type) -> &'static str {
    value_type_name(ty).unwrap_or("that no table holds")
}

/// Items without repetition, in the order of their first; ranges of ports joined.
fn distinct(ty: &Type, items: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if *ty == Type::PortRange {
        let port = |bytes: &[u8]| u16::try_from(scalar::from_number(bytes)).unwrap_or_default();
        let ranges = items
            .iter()
            .map(|item| (port(&item[..2]), port(&item[2..])))
            .collect();
        let bytes = |(first, last): (u16, u16)| [first.to_ne_bytes(), last.to_ne_bytes()].concat();
        return table::merge(ranges).into_iter().map(bytes).collect();
    }
    let mut seen = std::collections::HashSet::new();
    items
        .into_iter()
        .filter(|item| seen.insert(item.clone()))
        .collect()
}

fn entries(key: TableKey, items: &[Json]) -> Result<Vec<super::Entry>, Vec<Diagnostic>> {
    let mut entries = BTreeMap::new();
    for item in items {
        let keys = match (key, &item.value) {
            // A port of a list is never a range; a key may be one.
            (TableKey::Port, _) => {
                let (first, last) = quantity::port_range(item).map_err(|error| vec![error])?;
                (first..=last)
                    .map(|port| u32::from(port).to_ne_bytes().to_vec())
                    .collect()
            }
            _ => table::encode_key(key, item).map_err(|error| vec![error])?,
        };
        entries.extend(keys.into_iter().map(|key| (key, vec![1])));
    }
    Ok(entries.into_iter().collect())
}
