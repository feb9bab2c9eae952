//! The maps of the tracker: read while packets change them, and filled with connections that are
//! older than the policy.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use nix::fcntl::Flock;

use super::inet_diag::mptcp_sockets;
use super::netlink::addresses;
use super::prio_wishes::PrioWishes;
use super::state::kept_of;
use super::stored::Stored;
use super::stored::in_force;
use super::table_edit::Lock;
use super::tables;
use crate::abi::ConnFlags;
use crate::abi::SubflowKey;
use crate::abi::TrackConn;
use crate::abi::TrackKey;
use crate::abi::TrackList;
use crate::abi::TrackPlace;
use crate::abi::TrackSubflow;
use crate::abi::bytes_of;
use crate::abi::from_bytes;
use crate::interface::Interfaces;
use crate::module::Registry;
use crate::pin::Home;
use crate::sys;
use crate::track;
use crate::track::ConnKey;
use crate::track::ConnectionView;
use crate::track::Ends;
use crate::track::Found;
use crate::track::Socket;
use crate::track::SubflowView;
use crate::track::Track;
use crate::track::connection_of;

/// The tracker's maps of a policy in force.
#[derive(Debug)]
pub(super) struct TrackMaps {
    pub(super) subflows: MapHandle,
    pub(super) half_open: MapHandle,
    pub(super) connections: MapHandle,
    /// By token of the client: that of the server.
    pub(super) client_tokens: MapHandle,
    /// What it holds is not read, here or anywhere.
    pub(super) secrets: MapHandle,
    /// The subflows of each connection, for modules. Not there where a version of emptcp that had
    /// none applied the policy.
    listed: Option<MapHandle>,
}

impl TrackMaps {
    /// `None`: the policy has no tracker, and had none before.
    ///
    /// # Errors
    ///
    /// The kernel's, or that another version of emptcp made the maps.
    pub(super) fn open(home: &Home) -> Result<Option<Self>> {
        fn open<K, V>(home: &Home, name: &str) -> Result<MapHandle> {
            kept_of::<K, V>(home, name)?.with_context(|| format!("there is no map {name}"))
        }
        let Some(subflows) = kept_of::<SubflowKey, TrackSubflow>(home, "subflows")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            subflows,
            half_open: open::<SubflowKey, TrackSubflow>(home, "half_open")?,
            connections: open::<TrackKey, TrackConn>(home, "connections")?,
            client_tokens: open::<TrackKey, u32>(home, "client_tokens")?,
            secrets: open::<TrackKey, [u64; 2]>(home, "secrets")?,
            listed: kept_of::<TrackPlace, SubflowKey>(home, "conn_subflows")?,
        }))
    }

    /// All but the secrets; of connections all that they have carried. A bucket of a map is read at once, and each once: no entry comes twice
    /// because others go meanwhile.
    pub(super) fn read(&self) -> Result<Track> {
        let subflows = |map| -> Result<BTreeMap<Ends, TrackSubflow>> {
            let entries = tables::read(map).context("cannot read the subflows")?;
            let entries = entries.iter().filter_map(|(key, value)| {
                let key: SubflowKey = from_bytes(key)?;
                Some((Ends::from(&key), from_bytes(value)?))
            });
            Ok(entries.collect())
        };
        // Who becomes established between two readings is in both, not in none.
        let half_open = subflows(&self.half_open)?;
        let established = subflows(&self.subflows)?;
        let connections = tables::read(&self.connections).context("cannot read the connections")?;
        let connections = connections.iter().filter_map(|(key, value)| {
            let key: TrackKey = from_bytes(key)?;
            Some((key.into(), from_bytes(value)?))
        });
        let mut connections: BTreeMap<ConnKey, TrackConn> = connections.collect();
        for sub in established.values() {
            if let Some(conn) = connection_of(sub).and_then(|key| connections.get_mut(&key)) {
                track::tell(conn, sub);
            }
        }
        Ok(Track {
            subflows: established,
            half_open,
            connections,
        })
    }

    /// A subflow as it is now.
    pub(super) fn subflow(map: &MapHandle, ends: &Ends) -> Result<Option<TrackSubflow>> {
        let value = map.lookup(bytes_of(&SubflowKey::from(ends)), MapFlags::ANY)?;
        Ok(value.and_then(|value| from_bytes(&value)))
    }

    /// A connection as it is now, without what its subflows have not told.
    pub(super) fn connection(&self, key: ConnKey) -> Result<Option<TrackConn>> {
        let value = self
            .connections
            .lookup(bytes_of(&TrackKey::from(key)), MapFlags::ANY)?;
        Ok(value.and_then(|value| from_bytes(&value)))
    }

    /// A connection as it is now, with all that it has carried.
    pub(super) fn whole_connection(&self, key: ConnKey) -> Result<Option<TrackConn>> {
        let Some(mut conn) = self.connection(key)? else {
            return Ok(None);
        };
        for (map, place) in self.places(key) {
            let Some(own) = map.lookup(bytes_of(&place), MapFlags::ANY)? else {
                continue;
            };
            let sub = self.subflows.lookup(&own, MapFlags::ANY)?;
            let sub: Option<TrackSubflow> = sub.and_then(|value| from_bytes(&value));
            if let Some(sub) = sub.filter(|sub| connection_of(sub) == Some(key)) {
                track::tell(&mut conn, &sub);
            }
        }
        Ok(Some(conn))
    }

    /// Changes a connection that is there. What packets add to it in the microsecond between is
    /// not counted: there is no other way from here.
    pub(super) fn change(&self, key: ConnKey, change: impl FnOnce(&mut TrackConn)) -> Result<()> {
        let Some(mut conn) = self.connection(key)? else {
            return Ok(());
        };
        change(&mut conn);
        let key = TrackKey::from(key);
        let result = self
            .connections
            .update(bytes_of(&key), bytes_of(&conn), MapFlags::EXIST);
        match result {
            // It went meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            result => Ok(result?),
        }
    }

    /// The places that a connection has for its subflows, with the map.
    fn places(&self, key: ConnKey) -> impl Iterator<Item = (&MapHandle, TrackPlace)> {
        let maps = self.listed.iter();
        maps.flat_map(move |map| {
            (0..TrackList::EMPTCP_TRACK_LIST_MAX.0).map(move |place| {
                let conn = TrackKey::from(key);
                (map, TrackPlace { conn, place })
            })
        })
    }

    /// Lists a subflow among those of its connection, where there is a place that is free.
    fn list(&self, key: ConnKey, ends: &Ends) -> Result<()> {
        let own = SubflowKey::from(ends);
        for (map, place) in self.places(key) {
            let other = map.lookup(bytes_of(&place), MapFlags::ANY)?;
            if other.as_deref() == Some(bytes_of(&own)) {
                return Ok(());
            }
        }
        for (map, place) in self.places(key) {
            match map.update(bytes_of(&place), bytes_of(&own), MapFlags::NO_EXIST) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == ErrorKind::TooBig => return Ok(()),
                result => return Ok(result?),
            }
        }
        Ok(())
    }

    /// Takes subflows off the list of a connection: this one, or all.
    pub(super) fn unlist(&self, key: ConnKey, ends: Option<&Ends>) -> Result<()> {
        let own = ends.map(SubflowKey::from);
        for (map, place) in self.places(key) {
            let other = map.lookup(bytes_of(&place), MapFlags::ANY)?;
            let is_own = match &own {
                None => other.is_some(),
                Some(own) => other.as_deref() == Some(bytes_of(own)),
            };
            if !is_own {
                continue;
            }
            match map.delete(bytes_of(&place)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Enters what the tracker does not know; what it has learnt meanwhile stays. Returns how many
    /// subflows there was no room for.
    fn enter(&self, all: &[Found]) -> Result<usize> {
        let mut no_room = 0;
        for found in all {
            no_room += match &found.connection {
                Some((key, conn)) if !self.enter_connection(*key, conn)? => found.subflows.len(),
                _ => self.enter_subflows(found)?,
            };
        }
        Ok(no_room)
    }

    /// `false`: there is no room.
    fn enter_connection(&self, key: ConnKey, conn: &TrackConn) -> Result<bool> {
        let server = TrackKey::from(key);
        let map = &self.connections;
        match map.update(bytes_of(&server), bytes_of(conn), MapFlags::NO_EXIST) {
            Ok(()) => {}
            // The tracker has learnt of it; or it was in the path once before.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => self.change(key, |now| {
                now.live += conn.live;
                now.ever += conn.live;
                now.closed = 0;
            })?,
            Err(e) if e.kind() == ErrorKind::TooBig => return Ok(false),
            Err(e) => return Err(e).context("cannot enter a connection"),
        }
        if u32::from(conn.flags) & ConnFlags::EMPTCP_CONN_HAS_CLIENT_TOKEN.0 == 0 {
            return Ok(true);
        }
        let client = TrackKey {
            token: conn.client_token,
            zone: key.zone,
        };
        let token = key.token.to_ne_bytes();
        let map = &self.client_tokens;
        match map.update(bytes_of(&client), &token, MapFlags::NO_EXIST) {
            Err(e) if !matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::TooBig) => {
                Err(e).context("cannot enter a token")
            }
            _ => Ok(true),
        }
    }

    /// Returns how many there was no room for.
    fn enter_subflows(&self, found: &Found) -> Result<usize> {
        let (mut known, mut no_room) = (0, 0);
        for (ends, sub) in &found.subflows {
            let key = SubflowKey::from(ends);
            let map = &self.subflows;
            match map.update(bytes_of(&key), bytes_of(sub), MapFlags::NO_EXIST) {
                Ok(()) => {
                    if let Some(key) = connection_of(sub) {
                        self.list(key, ends).context("cannot list a subflow")?;
                    }
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => known += 1,
                Err(e) if e.kind() == ErrorKind::TooBig => no_room += 1,
                Err(e) => return Err(e).context("cannot enter a subflow"),
            }
        }
        let missing = known + no_room;
        if let Some((key, _)) = &found.connection
            && missing != 0
        {
            let now = sys::boot_time()?;
            self.change(*key, |conn| drop_subflows(conn, missing as u32, now))?;
        }
        Ok(no_room)
    }
}

/// Takes subflows from those that a connection has.
pub(super) fn drop_subflows(conn: &mut TrackConn, count: u32, now: u64) {
    conn.live = conn.live.saturating_sub(count);
    if conn.live == 0 {
        conn.closed = now;
    }
}

/// The maps in force, and a lock that keeps them there.
pub(super) fn maps_in_force(lock: Lock) -> Result<(TrackMaps, Flock<File>)> {
    let nothing = || anyhow!("no policy is in force in this network namespace: apply one first");
    let home = Home::current(false)?;
    let lock = match lock {
        Lock::Shared => home.lock_shared()?,
        Lock::Exclusive => home.lock_present()?,
    };
    let lock = lock.ok_or_else(nothing)?;
    in_force(&home)?.ok_or_else(nothing)?;
    let maps = TrackMaps::open(&home)?.ok_or_else(|| {
        anyhow!(
            "the policy in force tracks no connections: name interfaces in its \"track\", such as \
             \"track\": [\"eth*\"]"
        )
    })?;
    Ok((maps, lock))
}

/// Whether the policy in force tracks connections; false where there is no policy.
///
/// # Errors
///
/// No privilege; the kernel's.
pub fn is_tracked() -> Result<bool> {
    let home = Home::current(false)?;
    let Some(_lock) = home.lock_shared()? else {
        return Ok(false);
    };
    Ok(in_force(&home)?.is_some() && TrackMaps::open(&home)?.is_some())
}

/// The connections that the tracker knows, by zone and token.
///
/// # Errors
///
/// No policy, or one without the tracker; no privilege; the kernel's.
pub fn connections() -> Result<Vec<ConnectionView>> {
    let (maps, _lock) = maps_in_force(Lock::Shared)?;
    Ok(track::connection_views(&maps.read()?, sys::boot_time()?))
}

/// The subflows that the tracker knows, by connection and number. `half_open`: also those whose
/// handshake is not over; `kernel`: joined with what the kernel knows of sockets here.
///
/// # Errors
///
/// As for [`connections`].
pub fn subflows(
    half_open: bool,
    kernel: bool,
    interfaces: &Interfaces,
) -> Result<Vec<SubflowView>> {
    let (maps, _lock) = maps_in_force(Lock::Shared)?;
    let sockets = if kernel { mptcp_sockets()? } else { Vec::new() };
    let (track, now) = (maps.read()?, sys::boot_time()?);
    let mut views = track::subflow_views(&track, half_open, interfaces, &sockets, now);
    let wishes = PrioWishes::open()?;
    for view in &mut views {
        let [from, to] = [&view.from, &view.to].map(|end| SocketAddr::new(end.address, end.port));
        let (ends, first) = Ends::of(from, to, view.zone);
        let sub = track.subflows.get(&ends);
        let wanted_by = |direction: usize| match (&wishes, sub) {
            (Some(wishes), Some(sub)) => match wishes.get(&ends, sub, direction)? {
                Some(wish) => wishes.owners(&wish),
                None => Ok(Vec::new()),
            },
            _ => Ok(Vec::new()),
        };
        view.from.backup_wanted_by = Some(wanted_by(usize::from(first))?);
        view.to.backup_wanted_by = Some(wanted_by(1 - usize::from(first))?);
    }
    Ok(views)
}

/// Whether steps of a policy in force track.
pub(super) fn tracks(stored: &Stored, registry: &Registry) -> bool {
    let is_tracker = |name: &str| {
        let mut modules = registry.modules().iter();
        modules.any(|m| m.flags.tracks && m.name == name)
    };
    let mut steps = stored.classes.iter().flat_map(|class| &class.steps);
    steps.any(|step| is_tracker(&step.module))
}

/// Takes the connections of this network namespace over that began before the tracker. `zones`: those
/// in which it tracks, by interface. Returns how many subflows there was no room for.
pub(super) fn take_over(home: &Home, zones: &BTreeMap<u32, BTreeSet<u32>>) -> Result<usize> {
    let Some(maps) = TrackMaps::open(home)? else {
        return Ok(0);
    };
    let interfaces = addresses()?;
    let mut sockets: BTreeMap<u32, Vec<Socket>> = BTreeMap::new();
    for socket in mptcp_sockets()? {
        let has = interfaces.get(&socket.local.ip().to_canonical());
        if let Some(zone) = track::zone_of(zones, has.unwrap_or(&BTreeSet::new())) {
            sockets.entry(zone).or_default().push(socket);
        }
    }
    let (known, now) = (maps.read()?, sys::boot_time()?);
    if maps.listed.iter().all(|map| map.keys().next().is_none()) {
        // Of a version that listed none.
        for (ends, sub) in &known.subflows {
            if let Some(key) = connection_of(sub) {
                maps.list(key, ends).context("cannot list a subflow")?;
            }
        }
    }
    let mut no_room = 0;
    for (zone, sockets) in &sockets {
        no_room += maps.enter(&track::found(*zone, sockets, &known, now))?;
    }
    Ok(no_room)
}
