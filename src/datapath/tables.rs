//! Tables of the policy as maps: made, filled, read, and pinned with a generation.
//!
//! A generation has its tables in a folder of its own. A table that stays as it is is the same
//! map in both generations; another one is a new map, which is in force when its
//! generation is. Whoever changes entries holds the lock, so that none is lost meanwhile.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;
use sha2::Sha256;

use super::maps::create_map;
use super::stored::generation_folder;
use super::stored::open_json;
use super::stored::open_map;
use super::stored::pin_json;
use crate::module::TableKey;
use crate::params::Entry;
use crate::pin;
use crate::pin::Home;
use crate::policy::table_key_by_name;
use crate::policy::table_key_name;
use crate::policy::value_type_by_name;
use crate::policy::value_type_name;
use crate::sys;
use crate::table::Change;
use crate::table::Definition;
use crate::table::Planned;
use crate::table::change;

/// Folder of a generation's tables.
const TABLES: &str = "tables";
/// Pin of what is known of them.
const TYPES: &str = "table-types";
/// Entries that are read or written at once.
const BATCH: usize = 4096;

/// A table in the kernel.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) map: MapHandle,
    /// Id of the map.
    pub(crate) id: u32,
    pub(crate) definition: Definition,
    /// Of the contents that the file gives it.
    pub(crate) digest: Option<String>,
}

/// The tables of a policy, by name.
pub(crate) type Tables = BTreeMap<String, Loaded>;

/// What is stored beside the maps of a generation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct StoredTables {
    /// As in [`super::stored::Stored`].
    pub(super) netns_cookie: Option<u64>,
    pub(super) tables: BTreeMap<String, StoredTable>,
}

/// A table as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredTable {
    r#type: String,
    value: Option<String>,
    size: u32,
    timeout: Option<u64>,
    of_file: bool,
    /// Of the contents that the file gives it.
    pub(super) digest: Option<String>,
}

impl StoredTable {
    fn new(definition: &Definition, digest: Option<String>) -> Self {
        Self {
            r#type: table_key_name(definition.key).to_owned(),
            value: definition
                .value
                .as_ref()
                .and_then(value_type_name)
                .map(str::to_owned),
            size: definition.size,
            timeout: definition.timeout,
            of_file: definition.of_file,
            digest,
        }
    }

    pub(super) fn definition(&self) -> Result<Definition> {
        let value = self.value.as_deref();
        let (Some(key), true) = (
            table_key_by_name(&self.r#type),
            value.is_none_or(|name| value_type_by_name(name).is_some()),
        ) else {
            bail!("the stored policy is of another version of emptcp: delete and apply again");
        };
        Ok(Definition {
            key,
            value: value.and_then(value_type_by_name),
            size: self.size,
            timeout: self.timeout,
            of_file: self.of_file,
        })
    }
}

/// What is known of the tables of a generation.
pub(super) fn stored(home: &Home, generation: u64) -> Result<StoredTables> {
    let path = home.join(generation_folder(generation)).join(TYPES);
    Ok(open_json(&path)?.unwrap_or_default())
}

/// Path of the pin of a table.
pub(super) fn table_pin(home: &Home, generation: u64, name: &str) -> PathBuf {
    home.join(generation_folder(generation))
        .join(TABLES)
        .join(name)
}

/// The map of a table.
pub(super) fn open(home: &Home, generation: u64, name: &str) -> Result<MapHandle> {
    open_map(&table_pin(home, generation, name))?
        .with_context(|| format!("the map of table {name} is gone"))
}

/// An empty map for a table.
pub(super) fn create(name: &str, definition: &Definition) -> Result<MapHandle> {
    let ty = match definition.key {
        TableKey::Prefix => MapType::LpmTrie,
        TableKey::Addr | TableKey::Subflow | TableKey::Token | TableKey::Port => MapType::Hash,
    };
    let sizes = [
        definition.key_size() as u32,
        definition.stored_size() as u32,
        definition.size,
    ];
    // Names of maps take no hyphen. Memory comes with the entries, not with the size.
    let name = name.replace('-', "_");
    create_map(&name, ty, sizes, libbpf_sys::BPF_F_NO_PREALLOC)
}

/// All entries of a table, as stored.
pub(super) fn read(map: &MapHandle) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    each(map, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
    })?;
    Ok(entries)
}

/// Goes through all entries, as stored.
pub(super) fn each(map: &MapHandle, run: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
    let (key, value) = (map.key_size() as usize, map.value_size() as usize);
    let mut none = true;
    let mut batches = sys::Batches::new(map, key, value);
    loop {
        match batches.next(BATCH as u32) {
            Ok(Some((keys, values))) => {
                for (key, value) in keys.chunks_exact(key).zip(values.chunks_exact(value)) {
                    none = false;
                    run(key, value);
                }
            }
            Ok(None) => return Ok(()),
            // Kernels before 5.13 have no batches of prefixes.
            Err(_) if none => break,
            Err(e) => return Err(e).context("cannot read the table"),
        }
    }
    for key in map.keys() {
        if let Some(value) = map.lookup(&key, MapFlags::ANY)? {
            run(&key, &value);
        }
    }
    Ok(())
}

/// Writes entries, as stored; what is there already gets the new value.
pub(super) fn write(map: &MapHandle, entries: &[Entry]) -> Result<()> {
    for some in entries.chunks(BATCH) {
        let keys: Vec<u8> = some.iter().flat_map(|(key, _)| key).copied().collect();
        let values: Vec<u8> = some.iter().flat_map(|(_, value)| value).copied().collect();
        let count = some.len() as u32;
        let all = map.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY);
        if some.len() == 1 || all.is_err() {
            // Each by itself: where the kernel has no batches, and to see which one fails.
            for (key, value) in some {
                map.update(key, value, MapFlags::ANY)?;
            }
        }
    }
    Ok(())
}

/// A number for contents; the same whatever their order.
fn digest(definition: &Definition, mut entries: Vec<(&[u8], &[u8])>) -> String {
    entries.sort_unstable();
    let mut hash = Sha256::new();
    for (key, value) in entries {
        hash.update(key);
        hash.update(value);
    }
    hash.update(definition.size.to_ne_bytes());
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn digest_of_file(planned: &Planned) -> Option<String> {
    let entries = || planned.elements.iter().map(|(k, v)| (&k[..], &v[..]));
    let definition = &planned.definition;
    (definition.of_file).then(|| digest(definition, entries().collect()))
}

fn digest_in_kernel(definition: &Definition, map: &MapHandle) -> Result<String> {
    let entries = read(map)?;
    let entries = entries
        .iter()
        .map(|(key, stored)| (&key[..], definition.value_of(stored)));
    Ok(digest(definition, entries.collect()))
}

/// A table in force.
struct Present {
    definition: Definition,
    map: MapHandle,
}

/// The tables of a generation, where they are pinned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    home: &'a Home,
    generation: u64,
    stored: &'a StoredTables,
}

impl<'a> Before<'a> {
    pub(super) fn new(home: &'a Home, known: Option<&'a (u64, StoredTables)>) -> Option<Self> {
        known.map(|(generation, stored)| Self {
            home,
            generation: *generation,
            stored,
        })
    }
}

/// The table that is in force, if there is one of that name.
fn present(before: Option<Before<'_>>, name: &str) -> Result<Option<Present>> {
    let Some(Before {
        home,
        generation,
        stored,
    }) = before
    else {
        return Ok(None);
    };
    let Some(table) = stored.tables.get(name) else {
        return Ok(None);
    };
    let definition = table.definition()?;
    // One that somebody has removed begins anew.
    let map = open_map(&table_pin(home, generation, name))?;
    Ok(map.map(|map| Present { definition, map }))
}

fn change_of(present: Option<&Present>, planned: &Planned) -> Result<Change> {
    let mut error = None;
    let contents = || {
        let map = present.map(|p| digest_in_kernel(&planned.definition, &p.map));
        match map.transpose() {
            Ok(found) => found == digest_of_file(planned),
            Err(e) => {
                error = Some(e);
                false
            }
        }
    };
    let change = change(
        present.map(|p| &p.definition),
        &planned.definition,
        contents,
    );
    error.map_or(Ok(change), Err)
}

/// The tables of the next generation: maps of the one before where they serve, else new ones with
/// all that they shall hold. Nothing that is in force changes. Says what is lost.
///
/// # Errors
///
/// No memory; entries that do not fit in a smaller size.
pub(super) fn prepare(
    before: Option<Before<'_>>,
    wanted: &[Planned],
) -> Result<(Tables, Vec<String>)> {
    let mut tables = Tables::new();
    let mut lost = Vec::new();
    for planned in wanted {
        let (name, definition) = (&planned.name, &planned.definition);
        let present = present(before, name)?;
        let what = || format!("table {name}");
        let map = match (change_of(present.as_ref(), planned)?, present) {
            (Change::Keep, Some(present)) => present.map,
            (Change::Copy, Some(present)) => {
                let entries = carried(&present, definition)?;
                if entries.len() > definition.size as usize {
                    bail!(
                        "table {name} holds {} entries, more than its new size {}: delete some, or \
                         emptcp table flush {name}",
                        entries.len(),
                        definition.size
                    );
                }
                let map = create(name, definition)?;
                write(&map, &entries).with_context(what)?;
                map
            }
            (_, present) => {
                let count = match &present {
                    Some(present) if !definition.of_file => read(&present.map)?.len(),
                    _ => 0,
                };
                if count > 0 {
                    lost.push(format!(
                        "table {name} is of another type now: its {count} entries are gone"
                    ));
                }
                let map = create(name, definition)?;
                let stored: Vec<Entry> = (planned.elements.iter())
                    .map(|(key, value)| (key.clone(), definition.store(value, u64::MAX)))
                    .collect();
                write(&map, &stored).with_context(what)?;
                map
            }
        };
        tables.insert(
            name.clone(),
            Loaded {
                id: map.info()?.info.id,
                map,
                definition: definition.clone(),
                digest: digest_of_file(planned),
            },
        );
    }
    Ok((tables, lost))
}

/// The tables with what the policy's file gives them, pinned nowhere.
pub(super) fn load(wanted: &[Planned]) -> Result<Tables> {
    Ok(prepare(None, wanted)?.0)
}

/// The entries of a table in the form of another definition.
fn carried(present: &Present, now: &Definition) -> Result<Vec<Entry>> {
    let (before, time) = (&present.definition, sys::boot_time()?);
    let mut entries = read(&present.map)?;
    entries.retain(|(_, stored)| before.expiry_of(stored) > time);
    for (_, stored) in &mut entries {
        let expires = match before.timeout {
            Some(_) => before.expiry_of(stored),
            None => time.saturating_add(now.timeout.unwrap_or(0)),
        };
        *stored = now.store(before.value_of(stored), expires);
    }
    Ok(entries)
}

/// The tables in force where they all stay as they are; `None` where an apply would change one.
pub(super) fn unchanged(before: Option<Before<'_>>, wanted: &[Planned]) -> Result<Option<Tables>> {
    for planned in wanted {
        let present = present(before, &planned.name)?;
        if present.is_none() || change_of(present.as_ref(), planned)? != Change::Keep {
            return Ok(None);
        }
    }
    Ok(Some(prepare(before, wanted)?.0))
}

/// Pins the tables of a generation, with what is known of them.
pub(super) fn pin_all(home: &Home, generation: u64, tables: &Tables) -> Result<()> {
    let folder = home.join(generation_folder(generation));
    if !tables.is_empty() {
        pin::create_folder(&folder.join(TABLES))?;
    }
    let mut stored = StoredTables {
        netns_cookie: sys::netns_cookie(),
        tables: BTreeMap::new(),
    };
    for (name, table) in tables {
        let path = table_pin(home, generation, name);
        sys::pin(&table.map, &path).with_context(|| format!("cannot pin {}", path.display()))?;
        let known = StoredTable::new(&table.definition, table.digest.clone());
        stored.tables.insert(name.clone(), known);
    }
    if tables.is_empty() {
        return Ok(());
    }
    pin_json("table_types", &stored, &folder.join(TYPES))
}

/// Tables that are not as they were published.
pub(super) fn drift(home: &Home, generation: u64) -> Vec<String> {
    let Ok(stored) = stored(home, generation) else {
        return vec!["tables: what is known of them is gone".to_owned()];
    };
    let mut drift = Vec::new();
    for (name, table) in &stored.tables {
        let found = open(home, generation, name).and_then(|map| match &table.digest {
            Some(_) => Ok(Some(digest_in_kernel(&table.definition()?, &map)?)),
            None => Ok(None),
        });
        match found {
            Ok(found) if found == table.digest => {}
            Ok(_) => drift.push(format!(
                "table {name}: its entries are not those of the policy"
            )),
            Err(_) => drift.push(format!("table {name}: its map is gone")),
        }
    }
    drift
}

/// What an apply would do to a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableChange {
    /// Its name.
    pub name: String,
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
    /// What becomes of its entries.
    pub entries: String,
}

/// What an apply would do to the tables.
pub(super) fn preview(before: Option<Before<'_>>, wanted: &[Planned]) -> Result<Vec<TableChange>> {
    let mut changes = Vec::new();
    for planned in wanted {
        let present = present(before, &planned.name)?;
        let (now, count) = (&planned.definition, planned.elements.len());
        let (change, entries) = match (&present, change_of(present.as_ref(), planned)?) {
            (Some(before), Change::Keep) if before.definition == *now => continue,
            (Some(_), Change::Keep | Change::Copy) => ("changed", "keeps its entries".to_owned()),
            (None, _) if now.of_file => ("added", format!("{count} entries")),
            (None, _) => ("added", "empty".to_owned()),
            (Some(_), Change::New) if now.of_file => (
                "changed",
                format!("its entries become the {count} of the policy"),
            ),
            (Some(before), Change::New) => {
                let count = read(&before.map)?.len();
                (
                    "changed",
                    format!("another type: its {count} entries are lost"),
                )
            }
        };
        let name = planned.name.clone();
        changes.push(TableChange {
            name,
            change,
            entries,
        });
    }
    for name in before.iter().flat_map(|before| before.stored.tables.keys()) {
        if wanted.iter().all(|planned| planned.name != *name) {
            changes.push(TableChange {
                name: name.clone(),
                change: "removed",
                entries: "removed with its entries".to_owned(),
            });
        }
    }
    Ok(changes)
}

/// Entries by their keys.
pub(super) fn by_key(entries: Vec<Entry>) -> HashMap<Vec<u8>, Vec<u8>> {
    entries.into_iter().collect()
}
