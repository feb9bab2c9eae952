//! Maps that modules keep, by their pins.

use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapHandle;

use super::loader::Limits;
use super::loader::StateMap;
use super::maps::create_map;
use crate::module::Scope;
use crate::pin;
use crate::pin::Home;
use crate::sys;

/// Folder of the maps that modules keep.
pub(super) const STATE: &str = "state";
/// Prefix of the pins that outlive every apply.
pub(super) const KEPT: &str = "k-";

pub(super) fn state_name(scope: Scope, step: u32, map: &str) -> String {
    match scope {
        Scope::Step => format!("s{step}-{map}"),
        Scope::Policy => format!("p-{map}"),
        Scope::Keep => format!("{KEPT}{map}"),
    }
}

/// Path of the pin of a map that a module keeps.
pub(super) fn state_pin(home: &Home, scope: Scope, step: u32, map: &str) -> PathBuf {
    home.join(STATE).join(state_name(scope, step, map))
}

/// The map of this name that outlives every apply; `None`: there is none.
pub(super) fn kept(home: &Home, name: &str) -> Result<Option<MapHandle>> {
    let path = state_pin(home, Scope::Keep, 0, name);
    if !path.exists() {
        return Ok(None);
    }
    let map = MapHandle::from_pinned_path(&path);
    Ok(Some(map.with_context(|| {
        format!("cannot open {}", path.display())
    })?))
}

/// The same, of keys and values of these sizes.
///
/// # Errors
///
/// The kernel's, or that another version of emptcp made the map.
pub(super) fn kept_of<K, V>(home: &Home, name: &str) -> Result<Option<MapHandle>> {
    let Some(map) = kept(home, name)? else {
        return Ok(None);
    };
    let sizes = [map.key_size(), map.value_size()].map(|size| size as usize);
    if sizes != [size_of::<K>(), size_of::<V>()] {
        bail!("the map {name} in force has another layout (of another version?)");
    }
    Ok(Some(map))
}

/// The map that a step of a module keeps: the one that is there, else a new one.
pub(super) fn state_map(home: &Home, wanted: &StateMap<'_>, limits: &Limits) -> Result<MapHandle> {
    pin::create_folder(&home.join(STATE))?;
    let path = state_pin(home, wanted.info.scope, wanted.step, &wanted.info.name);
    let shape = wanted.prepared;
    let entries = wanted.entries(limits);
    if path.exists() {
        let map = MapHandle::from_pinned_path(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let same = map.map_type() == shape.ty
            && map.key_size() == shape.key_size
            && map.value_size() == shape.value_size
            && map.max_entries() == entries;
        if same {
            return Ok(map);
        }
        if wanted.info.scope == Scope::Keep && map.max_entries() != entries {
            bail!(
                "the map {} in force has room for {} entries, not for {entries}: what it holds would be \
                 lost with another limit; delete the policy first",
                wanted.info.name,
                map.max_entries(),
            );
        }
        if wanted.info.scope == Scope::Keep {
            bail!(
                "the map {} in force has another layout (of another version?): delete the policy first",
                wanted.info.name
            );
        }
        pin::remove(&path)?;
    }
    let sizes = [shape.key_size, shape.value_size, entries];
    let map = create_map(&wanted.info.name, shape.ty, sizes, shape.flags)?;
    sys::pin(&map, &path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(map)
}
