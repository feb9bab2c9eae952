//! Entries of the tables in force, read and changed while traffic flows.
//!
//! Nothing but the word of the generation and what is stored beside the tables is
//! read: no module, and not the policy, which may be long.

use std::fs::File;
use std::rc::Rc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use nix::fcntl::Flock;

use super::pending::Changes;
use super::stored::generation;
use super::tables;
use super::tables::StoredTables;
use crate::module::TableKey;
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
    changes: Rc<Changes>,
    _lock: Rc<Flock<File>>,
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

/// All tables in force; the lock is held as long as this or one of them lives.
#[derive(Debug)]
pub struct Tables {
    home: Home,
    generation: u64,
    stored: StoredTables,
    /// What waits for changes of them.
    changes: Rc<Changes>,
    lock: Rc<Flock<File>>,
}

impl Tables {
    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// There is no policy, or no privilege.
    pub fn lock(lock: Lock) -> Result<Self> {
        let home = Home::current(false)?;
        let held = match lock {
            Lock::Shared => home.lock_shared()?,
            Lock::Exclusive => home.lock_present()?,
        };
        Self::locked(home, held.ok_or_else(nothing)?)
    }

    /// The same as [`Lock::Exclusive`] without waiting: `None`, somebody else holds the lock.
    ///
    /// # Errors
    ///
    /// As for [`Tables::lock`].
    pub fn try_lock() -> Result<Option<Self>> {
        let home = Home::current(false)?;
        match home.try_lock_present()?.ok_or_else(nothing)? {
            Some(held) => Self::locked(home, held).map(Some),
            None => Ok(None),
        }
    }

    fn locked(home: Home, held: Flock<File>) -> Result<Self> {
        let current = generation(&home)?.map_or(0, |generation| generation.current);
        if current == 0 {
            return Err(nothing());
        }
        let stored = tables::stored(&home, current)?;
        // The inode of a namespace that is gone is given to new ones.
        if stored.netns_cookie.is_some() && stored.netns_cookie != sys::netns_cookie() {
            return Err(nothing());
        }
        Ok(Self {
            changes: Rc::new(Changes::new(home.clone())),
            home,
            generation: current,
            stored,
            lock: Rc::new(held),
        })
    }

    /// Whether there is a table of this name.
    pub fn has(&self, name: &str) -> bool {
        self.stored.tables.contains_key(name)
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// There is no such table.
    pub fn open(&self, name: &str) -> Result<OpenTable> {
        let Some(known) = self.stored.tables.get(name) else {
            let names = self.stored.tables.keys().map(String::as_str);
            let hint = match nearest(name, names) {
                Some(nearest) => format!("; did you mean {nearest:?}?"),
                None => ": tables are declared in the policy".to_owned(),
            };
            bail!("the policy in force has no table {name:?}{hint}");
        };
        Ok(OpenTable {
            name: name.to_owned(),
            definition: known.definition()?,
            map: tables::open(&self.home, self.generation, name)?,
            changes: self.changes.clone(),
            _lock: self.lock.clone(),
        })
    }
}

fn nothing() -> anyhow::Error {
    anyhow!("no policy is in force in this network namespace: apply one first")
}

/// Opens a table in force.
///
/// # Errors
///
/// There is no such table, or no policy, or no privilege.
pub fn open_table(name: &str, lock: Lock) -> Result<OpenTable> {
    Tables::lock(lock)?.open(name)
}

/// Opens all tables in force, to read them.
///
/// # Errors
///
/// There is no policy, or no privilege.
pub fn open_tables() -> Result<Vec<OpenTable>> {
    let tables = Tables::lock(Lock::Shared)?;
    (tables.stored.tables.keys())
        .map(|name| tables.open(name))
        .collect()
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
    /// table's, in nanoseconds. Subflows of those that were otherwise before meet the change with
    /// their next packet: `run` sends one where none comes.
    ///
    /// # Errors
    ///
    /// The table is full, or has no timeout; the kernel's.
    pub fn put(&self, entries: &[Entry], timeout: Option<u64>) -> Result<Put> {
        let mut changed = Vec::new();
        if self.changes.concern(self.definition.key)? {
            for (key, value) in entries {
                if self.get(key)?.is_none_or(|(before, _)| before != *value) {
                    changed.push(key.as_slice());
                }
            }
        }
        let put = self.write(entries, timeout)?;
        self.changes.note(self.definition.key, changed)?;
        Ok(put)
    }

    fn write(&self, entries: &[Entry], timeout: Option<u64>) -> Result<Put> {
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

    /// The value of an entry, and when it expires: nanoseconds of `CLOCK_BOOTTIME`, `u64::MAX` where
    /// entries do not. `None`: there is none, it has expired, or keys look otherwise.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u64)>> {
        let stored = match self.definition.key {
            _ if key.len() != self.definition.key_size() => None,
            // The kernel would answer with a shorter prefix that holds it.
            TableKey::Prefix => {
                let mut entries = tables::read(&self.map)?.into_iter();
                entries
                    .find(|(there, _)| there == key)
                    .map(|(_, stored)| stored)
            }
            _ => self.map.lookup(key, MapFlags::ANY)?,
        };
        let time = sys::boot_time()?;
        Ok(stored.and_then(|stored| {
            let expires = self.definition.expiry_of(&stored);
            let value = self.definition.value_of(&stored).to_vec();
            (expires > time).then_some((value, expires))
        }))
    }

    /// Makes an entry what it was `before` (value and expiry) somebody has `written` it; an entry
    /// that others have written since stays as it is.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn give_back(
        &self,
        key: &[u8],
        written: &[u8],
        before: Option<(&[u8], u64)>,
    ) -> Result<()> {
        if self.get(key)?.is_none_or(|(value, _)| value != written) {
            return Ok(());
        }
        let time = sys::boot_time()?;
        let Some((value, expires)) = before.filter(|(_, expires)| *expires > time) else {
            return self.delete(key).map(drop);
        };
        let timeout = self.definition.timeout.map(|_| expires - time);
        self.put(&[(key.to_vec(), value.to_vec())], timeout)
            .map(drop)
    }

    /// Removes an entry. `false`: there was none. Its subflows meet the change as with
    /// [`OpenTable::put`].
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        let removed = self.remove(key)?;
        if removed {
            self.changes.note(self.definition.key, [key])?;
        }
        Ok(removed)
    }

    fn remove(&self, key: &[u8]) -> Result<bool> {
        match self.map.delete(key) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).with_context(|| format!("table {}", self.name)),
        }
    }

    /// Removes all entries; how many. Their subflows meet the change as with [`OpenTable::put`].
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn flush(&self) -> Result<usize> {
        let entries = tables::read(&self.map)?;
        for (key, _) in &entries {
            self.remove(key)?;
        }
        let keys = entries.iter().map(|(key, _)| key.as_slice());
        self.changes.note(self.definition.key, keys)?;
        Ok(entries.len())
    }
}
