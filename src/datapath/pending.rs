//! Directions of subflows in which something waits for a packet (`include/emptcp/pending.h`).

use std::cell::OnceCell;
use std::collections::BTreeSet;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;

use super::held;
use super::held::HELD_JOINS;
use super::state;
use super::stored::Stored;
use super::suppressed::SUPPRESSED;
use super::suppressed::sends;
use super::suppressed::suppressed;
use super::tables;
use super::track::TrackMaps;
use crate::abi::Pending;
use crate::abi::SubflowKey;
use crate::abi::bytes_of;
use crate::abi::from_bytes;
use crate::module::Registry;
use crate::module::TableKey;
use crate::pin::Home;
use crate::sys;
use crate::track::ConnKey;
use crate::track::Ends;
use crate::track::Track;
use crate::track::connection_of;

/// Map of what waits.
pub(super) const PENDING: &str = "pending";

/// The map in force.
#[derive(Debug)]
pub(crate) struct Waiting(MapHandle);

/// A direction of a subflow that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) ends: Ends,
    pub(crate) direction: usize,
    /// Since when, on the clock of the tracker.
    pub(crate) at: u64,
    /// A table or the policy was changed: the next packet of any kind is enough.
    pub(crate) changed: bool,
}

impl Waiting {
    /// `None`: no policy is in force, or nothing in it waits.
    ///
    /// # Errors
    ///
    /// No privilege; the kernel's.
    pub(crate) fn in_force() -> Result<Option<Self>> {
        Self::open(&Home::current(false)?)
    }

    pub(super) fn open(home: &Home) -> Result<Option<Self>> {
        let Some(map) = state::kept(home, PENDING)? else {
            return Ok(None);
        };
        let sizes = [map.key_size(), map.value_size()].map(|size| size as usize);
        let known = sizes == [size_of::<SubflowKey>(), size_of::<Pending>()];
        Ok(known.then_some(Self(map)))
    }

    /// All that wait.
    pub(crate) fn all(&self) -> Result<Vec<Wait>> {
        let entries = tables::read(&self.0).context("cannot read what waits")?;
        let entries = entries.iter().filter_map(|(key, value)| {
            let (key, value): (SubflowKey, Pending) = (from_bytes(key)?, from_bytes(value)?);
            let (ends, direction) = Ends::of_packet(&key);
            Some(Wait {
                ends,
                direction: direction.into(),
                at: value.at,
                changed: value.changed != 0,
            })
        });
        Ok(entries.collect())
    }

    /// It waits no more.
    pub(crate) fn over(&self, wait: &Wait) -> Result<()> {
        match self
            .0
            .delete(bytes_of(&wait.ends.packet_key(wait.direction)))
        {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Notes that a packet of the direction may be treated otherwise since `at`, a time of the
    /// tracker's clock; what an actor has noted stays.
    pub(super) fn note(&self, ends: &Ends, direction: usize, at: u64) -> Result<()> {
        let value = Pending {
            at,
            changed: 1,
            ..Pending::default()
        };
        let key = ends.packet_key(direction);
        match self
            .0
            .update(bytes_of(&key), bytes_of(&value), MapFlags::NO_EXIST)
        {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// What a policy that has just come in force may treat otherwise waits for a packet that meets its
/// chains: announcements that were suppressed, where a step of it brings them back, and SYNs that
/// are held, where one sends them.
pub(super) fn applied(home: &Home, now: &Stored, registry: &Registry) -> Result<()> {
    // Of an actor that is waited for: it has both maps.
    let has = |wanted: &str| {
        let mut steps = now.classes.iter().flat_map(|class| &class.steps);
        steps.any(|step| {
            let index = (registry.modules().iter()).position(|m| m.name == step.module);
            let maps = index.map(|index| registry.object(index).own_maps());
            let names: Vec<&str> = (maps.into_iter().flatten())
                .map(|map| map.name.as_str())
                .collect();
            names.contains(&PENDING) && names.contains(&wanted)
        })
    };
    let owners = match has(SUPPRESSED) {
        true => suppressed(home)?,
        false => Vec::new(),
    };
    let connections = match has(HELD_JOINS) {
        true => held::connections(home)?,
        false => BTreeSet::new(),
    };
    if owners.is_empty() && connections.is_empty() {
        return Ok(());
    }
    let (Some(waiting), Some(maps)) = (Waiting::open(home)?, TrackMaps::open(home)?) else {
        return Ok(());
    };
    let track = maps.read()?;
    let at = sys::boot_time()?;
    for (ends, direction) in owners.iter().flat_map(|owner| sends(owner, &track)) {
        waiting.note(&ends, direction, at)?;
    }
    // Whichever of the two hooks has the step.
    let held = (track.subflows.iter())
        .filter(|(_, sub)| connection_of(sub).is_some_and(|key| connections.contains(&key)));
    for (ends, _) in held {
        waiting.note(ends, 0, at)?;
        waiting.note(ends, 1, at)?;
    }
    Ok(())
}

/// How many directions of subflows wait for a packet.
pub(super) fn count(home: &Home) -> Result<usize> {
    match Waiting::open(home)? {
        Some(waiting) => Ok(waiting.all()?.len()),
        None => Ok(0),
    }
}

/// What tables and tracker of a policy in force have to do with each other. Opened when it is needed,
/// and read once.
#[derive(Debug)]
pub(super) struct Changes {
    home: Home,
    maps: OnceCell<Option<(Waiting, TrackMaps)>>,
    track: OnceCell<Track>,
}

impl Changes {
    pub(super) fn new(home: Home) -> Self {
        Self {
            home,
            maps: OnceCell::new(),
            track: OnceCell::new(),
        }
    }

    /// `None`: no actor of the policy can wait, or nothing is tracked.
    fn maps(&self) -> Result<Option<&(Waiting, TrackMaps)>> {
        if self.maps.get().is_none() {
            let maps = match Waiting::open(&self.home)? {
                Some(waiting) => TrackMaps::open(&self.home)?.map(|maps| (waiting, maps)),
                None => None,
            };
            self.maps.get_or_init(|| maps);
        }
        Ok(self.maps.get().and_then(Option::as_ref))
    }

    fn track(&self, maps: &TrackMaps) -> Result<&Track> {
        match self.track.get() {
            Some(track) => Ok(track),
            None => {
                let track = maps.read()?;
                Ok(self.track.get_or_init(|| track))
            }
        }
    }

    /// Whether somebody can wait for a change of entries with such keys: other keys than of subflows
    /// and connections are of too many.
    pub(super) fn concern(&self, kind: TableKey) -> Result<bool> {
        let known = matches!(kind, TableKey::Subflow | TableKey::Token);
        Ok(known && self.maps()?.is_some())
    }

    /// Subflows of these keys of a table wait for a packet, which shall meet the new entries: where
    /// the tracker knows them.
    pub(super) fn note<'k>(
        &self,
        kind: TableKey,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<()> {
        if !self.concern(kind)? {
            return Ok(());
        }
        let Some((waiting, maps)) = self.maps()? else {
            return Ok(());
        };
        let mut known = Vec::new();
        for key in keys {
            match kind {
                // A connection's subflows are found among all; one subflow is looked up.
                TableKey::Token => known.extend(of_token(key, self.track(maps)?)),
                _ => known.extend(of_subflow(key, maps)?),
            }
        }
        let at = sys::boot_time()?;
        for ends in known {
            for direction in [0, 1] {
                waiting.note(&ends, direction, at)?;
            }
        }
        Ok(())
    }
}

/// The subflow of a key, if the tracker knows it.
fn of_subflow(key: &[u8], maps: &TrackMaps) -> Result<Option<Ends>> {
    let Some(key) = from_bytes::<SubflowKey>(key) else {
        return Ok(None);
    };
    let (ends, _) = Ends::of_packet(&key);
    Ok(TrackMaps::subflow(&maps.subflows, &ends)?.map(|_| ends))
}

/// The subflows of the connection of a token, of whichever end.
fn of_token(key: &[u8], track: &Track) -> Vec<Ends> {
    let token = key.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let has = |key: &ConnKey| {
        let client = track.connections.get(key).map(|conn| conn.client_token);
        token.is_some_and(|token| key.token == token || client == Some(token))
    };
    let mine = track.subflows.iter();
    mine.filter(|(_, sub)| connection_of(sub).is_some_and(|key| has(&key)))
        .map(|(ends, _)| *ends)
        .collect()
}
