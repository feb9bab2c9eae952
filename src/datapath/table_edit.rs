//! Entries of the tables in force, read and changed while traffic flows.
//!
//! Nothing but the word of the generation and what is stored beside the tables is
//! read: no module, and not the policy, which may be long.

use std::fs::File;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use nix::fcntl::Flock;

use super::stored::generation;
use super::tables;
use super::tables::StoredTables;
use crate::params::Entry;
use crate::pin::Home;
use crate::policy::nearest;
use crate::sys;
use crate::table::Definition;

/// Who may use the tables meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Others read, and nobody changes.
    Shared,
    /// Nobody else; no apply either, so that no entry is lost in it.
    Exclusive,
}

/// A table in force; the lock is held as long as this lives.
#[derive(Debug)]
pub struct OpenTable {
    name: String,
    definition: Definition,
    map: MapHandle,
    _lock: std::rc::Rc<Flock<File>>,
}

/// An entry of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// The key, as [`crate::params::encode_key`] makes it.
    pub key: Vec<u8>,
    /// The value, as [`crate::params::encode_value`] makes it.
    pub value: Vec<u8>,
    /// Nanoseconds that it has left, where entries expire.
    pub left: Option<u64>,
}

/// What a change has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Entries that were not there before.
    pub added: usize,
    /// Entries that were there and have been written again.
    pub updated: usize,
}

/// The tables in force, and how to say that there are none.
fn tables_in_force(home: &Home, lock: Lock) -> Result<(Flock<File>, u64, StoredTables)> {
    let nothing = || anyhow!("no policy is in force in this network namespace: apply one first");
    let held = match lock {
        Lock::Shared => home.lock_shared()?,
        Lock::Exclusive => home.lock_present()?,
    };
    let held = held.ok_or_else(nothing)?;
    let current = generation(home)?.map_or(0, |generation| generation.current);
    if current == 0 {
        return Err(nothing());
    }
    let stored = tables::stored(home, current)?;
    // The inode of a namespace that is gone is given to new ones.
    if stored.netns_cookie.is_some() && stored.netns_cookie != sys::netns_cookie() {
        return Err(nothing());
    }
    Ok((held, current, stored))
}

/// Opens a table in force.
///
/// # Errors
///
/// There is no such table, or no policy, or no privilege.
pub fn open_table(name: &str, lock: Lock) -> Result<OpenTable> {
    let home = Home::current(false)?;
    let (held, current, stored) = tables_in_force(&home, lock)?;
    let Some(known) = stored.tables.get(name) else {
        let names = stored.tables.keys().map(String::as_str);
        let hint = match nearest(name, names) {
            Some(nearest) => format!("; did you mean {nearest:?}?"),
            None => ": tables are declared in the policy".to_owned(),
        };
        bail!("the policy in force has no table {name:?}{hint}");
    };
    Ok(OpenTable {
        name: name.to_owned(),
        definition: known.definition()?,
        map: tables::open(&home, current, name)?,
        _lock: std::rc::Rc::new(held),
    })
}

/// Opens all tables in force, to read them.
///
/// # Errors
///
/// There is no policy, or no privilege.
pub fn open_tables() -> Result<Vec<OpenTable>> {
    let home = Home::current(false)?;
    let (held, current, stored) = tables_in_force(&home, Lock::Shared)?;
    let held = std::rc::Rc::new(held);
    let open = |name: &String| {
        Ok(OpenTable {
            name: name.clone(),
            definition: stored.tables[name].definition()?,
            map: tables::open(&home, current, name)?,
            _lock: held.clone(),
        })
    };
    stored.tables.keys().map(open).collect()
}

impl OpenTable {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Its entries, without those that have expired.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn entries(&self) -> Result<Vec<TableEntry>> {
        let time = sys::boot_time()?;
        let entries = tables::read(&self.map)?.into_iter();
        let living = entries.filter_map(|(key, stored)| {
            let left = self.definition.expiry_of(&stored).checked_sub(time);
            Some(TableEntry {
                key,
                value: self.definition.value_of(&stored).to_vec(),
                left: Some(left.filter(|left| *left > 0)?)
                    .filter(|_| self.definition.timeout.is_some()),
            })
        });
        Ok(living.collect())
    }

    /// Writes entries: all, or none where they do not fit. `timeout`: of these, instead of the
    /// table's, in nanoseconds.
    ///
    /// # Errors
    ///
    /// The table is full, or has no timeout.
    pub fn put(&self, entries: &[Entry], timeout: Option<u64>) -> Result<Put> {
        let definition = &self.definition;
        if timeout.is_some() && definition.timeout.is_none() {
            bail!(
                "entries of table {} do not expire: give it a \"timeout\" in the policy first",
                self.name
            );
        }
        let lasts = timeout.or(definition.timeout).unwrap_or(u64::MAX);
        let expires = sys::boot_time()?.saturating_add(lasts);
        let stored: Vec<Entry> = (entries.iter())
            .map(|(key, value)| (key.clone(), definition.store(value, expires)))
            .collect();
        if let [(key, value)] = &stored[..] {
            return self.put_one(key, value);
        }
        let mut before = tables::by_key(tables::read(&self.map)?);
        let present = (stored.iter())
            .filter(|(key, _)| before.contains_key(key))
            .count();
        let added = stored.len() - present;
        if before.len() + added > definition.size as usize {
            self.purge()?;
            before = tables::by_key(tables::read(&self.map)?);
            let new = stored.iter().filter(|(key, _)| !before.contains_key(key));
            if before.len() + new.count() > definition.size as usize {
                return Err(self.full(before.len()));
            }
        }
        if let Err(error) = tables::write(&self.map, &stored) {
            // No memory: as before, as far as can be.
            for (key, _) in &stored {
                match before.get(key) {
                    Some(old) => self.map.update(key, old, MapFlags::ANY)?,
                    None => drop(self.map.delete(key)),
                }
            }
            return Err(error).with_context(|| format!("table {}", self.name));
        }
        Ok(Put {
            added,
            updated: present,
        })
    }

    fn put_one(&self, key: &[u8], value: &[u8]) -> Result<Put> {
        let put = || match self.map.update(key, value, MapFlags::NO_EXIST) {
            Ok(()) => Ok(Put {
                added: 1,
                updated: 0,
            }),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::AlreadyExists => {
                self.map.update(key, value, MapFlags::ANY)?;
                Ok(Put {
                    added: 0,
                    updated: 1,
                })
            }
            Err(e) => Err(e),
        };
        put().or_else(|error| {
            if self.purge()? > 0 {
                return Ok(put()?);
            }
            let count = tables::read(&self.map)?.len();
            if count >= self.definition.size as usize {
                return Err(self.full(count));
            }
            Err(error).with_context(|| format!("table {}", self.name))
        })
    }

    fn full(&self, count: usize) -> anyhow::Error {
        anyhow!(
            "table {} has room for {} entries and holds {count}: delete some, or give it a larger \
             \"size\" in the policy",
            self.name,
            self.definition.size
        )
    }

    /// Removes entries that have expired; how many.
    fn purge(&self) -> Result<usize> {
        if self.definition.timeout.is_none() {
            return Ok(0);
        }
        let time = sys::boot_time()?;
        let mut gone = 0;
        for (key, stored) in tables::read(&self.map)? {
            if self.definition.expiry_of(&stored) <= time {
                gone += usize::from(self.map.delete(&key).is_ok());
            }
        }
        Ok(gone)
    }

    /// Removes an entry. `false`: there was none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        match self.map.delete(key) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).with_context(|| format!("table {}", self.name)),
        }
    }

    /// Removes all entries; how many.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn flush(&self) -> Result<usize> {
        let entries = tables::read(&self.map)?;
        for (key, _) in &entries {
            self.delete(key)?;
        }
        Ok(entries.len())
    }
}
