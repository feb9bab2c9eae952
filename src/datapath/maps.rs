//! Maps of the kernel that are made before the programs that use them.

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_sys::bpf_map_create_opts;

use crate::params::Entry;
use crate::sys::PreparedMap;

/// Creates a map; sizes: key, value (bytes), entries.
pub(crate) fn create_map(
    name: &str,
    ty: MapType,
    [key, value, entries]: [u32; 3],
    flags: u32,
) -> Result<MapHandle> {
    let opts = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as _,
        map_flags: flags,
        ..Default::default()
    };
    MapHandle::create(ty, Some(name), key, value, entries, &opts)
        .with_context(|| format!("cannot create the map {name} of {entries} entries"))
}

/// A map of one value that nobody changes any more, so that the verifier reads it.
pub(super) fn frozen(bytes: &[u8]) -> Result<MapHandle> {
    let size = bytes.len().max(8) as u32;
    let map = create_map(
        "constants",
        MapType::Array,
        [4, size, 1],
        libbpf_sys::BPF_F_RDONLY_PROG,
    )?;
    let mut value = bytes.to_vec();
    value.resize(size as usize, 0);
    map.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY)
        .context("cannot write constants")?;
    map.freeze().context("cannot freeze constants")?;
    Ok(map)
}

/// A map that a step has for a list that is too long for its parameters.
pub(super) fn anonymous_table(map: &PreparedMap, entries: &[Entry]) -> Result<MapHandle> {
    let sizes = [map.key_size, map.value_size, entries.len().max(1) as u32];
    let table = create_map(&map.name, map.ty, sizes, map.flags)?;
    for (key, value) in entries {
        let mut value = value.clone();
        value.resize(map.value_size as usize, 0);
        table
            .update(key, &value, MapFlags::ANY)
            .context("cannot fill the table of a list")?;
    }
    Ok(table)
}
