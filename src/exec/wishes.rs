//! Who has put what into tables, so that it can be taken back: one wish of each owner for an
//! entry. Of several the least size or rate is in force, `true` before `false`, and of other
//! values the latest one. What was there before counts as a wish, and is there again in the end.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::module::Type;

/// Who wishes: the program, or a client of the socket.
pub(crate) type Owner = u64;

/// An entry: table and key, in the form of [`crate::params::encode_key`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) table: String,
    pub(crate) key: Vec<u8>,
}

/// The value that an entry had before, and when it expires (nanoseconds of `CLOCK_BOOTTIME`).
pub(crate) type Before = Option<(Vec<u8>, u64)>;

/// An entry that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) before: Before,
    /// The value that is in force.
    pub(crate) written: Vec<u8>,
}

#[derive(Debug)]
struct Wish {
    owner: Owner,
    value: Vec<u8>,
    /// When it expires.
    until: u64,
}

#[derive(Debug)]
struct Entry {
    held: Held,
    /// In the order in which they came.
    wishes: Vec<Wish>,
}

/// All wishes.
#[derive(Debug, Default)]
pub(crate) struct Wishes(BTreeMap<Place, Entry>);

impl Wishes {
    /// Whether somebody has put this into a table.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.0.contains_key(place)
    }

    /// Whether this owner has.
    pub(crate) fn is_of(&self, place: &Place, owner: Owner) -> bool {
        let entry = self.0.get(place);
        entry.is_some_and(|entry| entry.wishes.iter().any(|wish| wish.owner == owner))
    }

    /// A wish, instead of an older one of this owner; what is to be written. `before`: what is
    /// there, where nobody has wished anything yet.
    pub(crate) fn add(
        &mut self,
        owner: Owner,
        (place, value, until): (&Place, &[u8], u64),
        ty: Option<&Type>,
        before: Before,
    ) -> &Held {
        let entry = self.0.entry(place.clone()).or_insert_with(|| Entry {
            held: Held {
                before,
                written: Vec::new(),
            },
            wishes: Vec::new(),
        });
        entry.wishes.retain(|wish| wish.owner != owner);
        entry.wishes.push(Wish {
            owner,
            value: value.to_vec(),
            until,
        });
        entry.held.written = in_force(entry, ty);
        &entry.held
    }

    /// Takes a wish back. What was written so far, and what is to be written now; `None` for
    /// that: nobody wishes anything any more. `None` altogether: the owner had no such wish.
    pub(crate) fn remove(
        &mut self,
        owner: Owner,
        place: &Place,
        ty: Option<&Type>,
    ) -> Option<(Held, Option<Held>)> {
        let entry = self.0.get_mut(place)?;
        let count = entry.wishes.len();
        entry.wishes.retain(|wish| wish.owner != owner);
        if entry.wishes.len() == count {
            return None;
        }
        let old = entry.held.clone();
        if entry.wishes.is_empty() {
            self.0.remove(place);
            return Some((old, None));
        }
        entry.held.written = in_force(entry, ty);
        Some((old, Some(entry.held.clone())))
    }

    /// Entries for which an owner has a wish.
    pub(crate) fn of(&self, owner: Owner) -> Vec<Place> {
        let entries = self.0.iter();
        let own = entries.filter(|(_, entry)| entry.wishes.iter().any(|w| w.owner == owner));
        own.map(|(place, _)| place.clone()).collect()
    }

    /// All entries that were written.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Place, &Held)> {
        self.0.iter().map(|(place, entry)| (place, &entry.held))
    }

    /// Forgets entries all wishes for which have expired; which ones.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<Place> {
        let gone = |entry: &Entry| entry.wishes.iter().all(|wish| wish.until <= now);
        let entries = self.0.iter().filter(|(_, entry)| gone(entry));
        let places: Vec<Place> = entries.map(|(place, _)| place.clone()).collect();
        for place in &places {
            self.0.remove(place);
        }
        places
    }
}

/// Of all wishes the value that counts.
fn in_force(entry: &Entry, ty: Option<&Type>) -> Vec<u8> {
    let wishes = entry.wishes.iter().map(|wish| &wish.value);
    let before = entry.held.before.as_ref().map(|(value, _)| value);
    let mut all = before.into_iter().chain(wishes);
    let counts = match ty {
        Some(Type::Bytes) => all.min_by_key(|value| number(value)),
        // A rate of 0 is no limit.
        Some(Type::Rate) => all.min_by_key(|value| number(value).wrapping_sub(1)),
        Some(Type::Bool) => all.max_by_key(|value| value.first().copied()),
        _ => all.next_back(),
    };
    counts.cloned().unwrap_or_default()
}

fn number(value: &[u8]) -> u64 {
    value
        .first_chunk()
        .map_or(u64::MAX, |b| u64::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = u64::MAX;

    fn place() -> Place {
        Place {
            table: "t".to_owned(),
            key: vec![1],
        }
    }

    fn bytes(value: u64) -> Vec<u8> {
        value.to_ne_bytes().to_vec()
    }

    fn add(wishes: &mut Wishes, owner: Owner, value: u64, ty: &Type, before: Option<u64>) -> u64 {
        let before = before.map(|value| (bytes(value), NEVER));
        let value = bytes(value);
        let held = wishes.add(owner, (&place(), &value, NEVER), Some(ty), before);
        number(&held.written)
    }

    fn remove(wishes: &mut Wishes, owner: Owner, ty: &Type) -> Option<Option<u64>> {
        let (_, new) = wishes.remove(owner, &place(), Some(ty))?;
        Some(new.map(|held| number(&held.written)))
    }

    #[test]
    fn the_least_size_and_rate() {
        let mut wishes = Wishes::default();
        let ty = &Type::Bytes;
        assert_eq!(add(&mut wishes, 1, 300, ty, Some(500)), 300);
        assert_eq!(add(&mut wishes, 2, 200, ty, None), 200);
        assert_eq!(add(&mut wishes, 2, 400, ty, None), 300);
        assert_eq!(add(&mut wishes, 1, 900, ty, None), 400);
        assert_eq!(remove(&mut wishes, 3, ty), None);
        assert_eq!(remove(&mut wishes, 2, ty), Some(Some(500)));
        assert_eq!(remove(&mut wishes, 1, ty), Some(None));
        assert!(!wishes.has(&place()));
        let ty = &Type::Rate;
        assert_eq!(add(&mut wishes, 1, 0, ty, None), 0);
        assert_eq!(add(&mut wishes, 2, 7, ty, None), 7);
    }

    #[test]
    fn backup_while_one_wants_it() {
        let mut wishes = Wishes::default();
        let ty = &Type::Bool;
        assert_eq!(add(&mut wishes, 1, 1, ty, None), 1);
        assert_eq!(add(&mut wishes, 2, 0, ty, None), 1);
        assert_eq!(remove(&mut wishes, 1, ty), Some(Some(0)));
    }

    #[test]
    fn else_the_latest() {
        let mut wishes = Wishes::default();
        let ty = &Type::Uint(8);
        assert_eq!(add(&mut wishes, 1, 5, ty, Some(9)), 5);
        assert_eq!(add(&mut wishes, 2, 8, ty, None), 8);
        assert_eq!(add(&mut wishes, 1, 6, ty, None), 6);
        assert_eq!(remove(&mut wishes, 1, ty), Some(Some(8)));
        let (held, new) = wishes.remove(2, &place(), Some(ty)).unwrap();
        assert_eq!(
            (held.before, held.written),
            (Some((bytes(9), NEVER)), bytes(8))
        );
        assert_eq!(new, None);
    }

    #[test]
    fn of_an_owner_and_expired() {
        let mut wishes = Wishes::default();
        add(&mut wishes, 1, 5, &Type::Bytes, None);
        assert_eq!(wishes.of(1), [place()]);
        assert_eq!(wishes.of(2), []);
        assert!(wishes.is_of(&place(), 1) && !wishes.is_of(&place(), 2));
        assert_eq!(wishes.expire(100), []);
        wishes.add(1, (&place(), &bytes(1), 100), None, None);
        assert_eq!(wishes.expire(99), []);
        assert_eq!(wishes.expire(100), [place()]);
        assert_eq!(wishes.all().count(), 0);
    }
}
