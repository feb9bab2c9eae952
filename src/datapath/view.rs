//! What modules keep in their maps, shown as their BTF describes it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use super::state::state_pin;
use super::stored::Stored;
use super::stored::in_force;
use crate::interface::Interfaces;
use crate::module::Family;
use crate::module::Field;
use crate::module::Hook;
use crate::module::MapInfo;
use crate::module::Registry;
use crate::module::Scope;
use crate::module::Type;
use crate::params::decode_value;
use crate::params::value_size;
use crate::pin::Home;

/// What a map of a module holds.
#[derive(Clone, Debug, Serialize)]
pub struct StateView {
    /// The module.
    pub module: String,
    /// The map.
    pub map: String,
    /// Names of the members of key and value, in order.
    pub fields: Vec<String>,
    /// The entries, by member.
    pub entries: Vec<Map<String, Value>>,
}

/// The maps that the modules of the policy in force keep, as far as they can be shown.
///
/// # Errors
///
/// No privilege, or the kernel's.
pub fn state(registry: &Registry, interfaces: &Interfaces) -> Result<Vec<StateView>> {
    let home = Home::current(false)?;
    let Some(_lock) = home.lock_shared()? else {
        return Ok(Vec::new());
    };
    let Some(stored) = in_force(&home)? else {
        return Ok(Vec::new());
    };
    let names = step_names(&stored);
    let mut seen = Vec::new();
    let mut views = Vec::new();
    for class in &stored.classes {
        let hook: Hook = class.hook.parse().map_err(|e: String| anyhow::anyhow!(e))?;
        for step in &class.steps {
            let modules = registry.modules();
            let Some(index) = modules.iter().position(|m| m.name == step.module) else {
                continue;
            };
            if registry.bytes(index, Family::from(hook)).is_none() {
                continue;
            }
            for info in registry.object(index).own_maps() {
                let pin = state_pin(&home, info.scope, step.id, &info.name);
                if seen.contains(&pin) || !pin.exists() {
                    continue;
                }
                let map = MapHandle::from_pinned_path(&pin)
                    .with_context(|| format!("cannot open {}", pin.display()))?;
                seen.push(pin);
                if let Some(entries) = entries(&map, info, &names, interfaces)? {
                    views.push(StateView {
                        module: step.module.clone(),
                        map: match info.scope {
                            Scope::Step => format!("{} of {}", info.name, step.key),
                            Scope::Policy | Scope::Keep => info.name.clone(),
                        },
                        fields: info.fields().map(|f| f.name.clone()).collect(),
                        entries,
                    });
                }
            }
        }
    }
    Ok(views)
}

/// Steps by their number: hook and place.
fn step_names(stored: &Stored) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for class in &stored.classes {
        for step in &class.steps {
            names.insert(step.id, format!("{} {}", class.hook, step.key));
        }
    }
    names
}

/// The entries of a map; `None` where they cannot be shown.
fn entries(
    map: &MapHandle,
    info: &MapInfo,
    names: &BTreeMap<u32, String>,
    interfaces: &Interfaces,
) -> Result<Option<Vec<Map<String, Value>>>> {
    if info.key.is_empty() || info.value.is_empty() || map.map_type().is_percpu() {
        return Ok(None);
    }
    let mut entries = Vec::new();
    for key in map.keys() {
        // Gone since its key was read.
        let Some(value) = map.lookup(&key, MapFlags::ANY)? else {
            continue;
        };
        let mut entry = Map::new();
        for (fields, bytes) in [(&info.key, &key), (&info.value, &value)] {
            for field in fields {
                let shown = show(field, bytes, names, interfaces).unwrap_or_default();
                entry.insert(field.name.clone(), shown);
            }
        }
        entries.push(entry);
    }
    Ok(Some(entries))
}

/// A member as JSON; quantities as plain numbers, for they are counted, not written.
fn show(
    field: &Field,
    bytes: &[u8],
    names: &BTreeMap<u32, String>,
    interfaces: &Interfaces,
) -> Option<Value> {
    let size = value_size(Some(&field.ty));
    let bytes = bytes.get(field.offset..field.offset + size)?;
    if field.is_step {
        let number = u32::from_ne_bytes(*bytes.first_chunk()?);
        let name = names.get(&number).cloned();
        return Some(Value::from(
            name.unwrap_or_else(|| format!("step {number}, gone")),
        ));
    }
    if field.is_known_unless_zero && bytes.iter().all(|byte| *byte == 0) {
        return Some(Value::Null);
    }
    match field.ty {
        Type::Bytes | Type::Rate | Type::Time => {
            Some(Value::from(u64::from_ne_bytes(*bytes.first_chunk()?)))
        }
        _ => decode_value(&field.ty, bytes, interfaces),
    }
}
