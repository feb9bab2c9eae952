//! SYNs of further subflows that are held (`include/emptcp/held_join.h`): how many wait, how many
//! clients have given up, and what became of these.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Context as _;
use anyhow::Result;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde::Serialize;

use super::netlink::addresses;
use super::state;
use super::tables;
use super::track::TrackMaps;
use crate::abi::ConnFlags;
use crate::abi::HeldJoin;
use crate::abi::HeldState;
use crate::abi::TrackKey;
use crate::abi::bytes_of;
use crate::abi::from_bytes;
use crate::abi::held_state_name;
use crate::event::HeldChange;
use crate::pin::Home;
use crate::sys;
use crate::track::ConnKey;
use crate::track::Ends;

/// The map of what is known of them.
pub(super) const HELD_JOINS: &str = "held_joins";

/// SYNs that are held and were not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldJoins {
    /// The client still waits for an answer.
    pub waiting: usize,
    /// It has given up: the connection has no such subflow.
    pub expired: usize,
    /// It had given up, and `emptcp run` has asked for the subflow again.
    pub asked: usize,
    /// Of those that expired: why `emptcp run` has not asked, and how many.
    pub left: BTreeMap<&'static str, usize>,
}

/// All that is known: key in the map, connection, and the SYN.
fn entries(map: &MapHandle) -> Result<Vec<(Vec<u8>, TrackKey, HeldJoin)>> {
    let entries = tables::read(map).context("cannot read SYNs that are held")?;
    let known = |(key, value): (Vec<u8>, Vec<u8>)| {
        let (conn, join) = (from_bytes(&key)?, from_bytes(&value)?);
        Some((key, conn, join))
    };
    Ok(entries.into_iter().filter_map(known).collect())
}

/// What is known of them; those that are forgotten do not count.
pub(super) fn held_joins(home: &Home) -> Result<HeldJoins> {
    let mut held = HeldJoins::default();
    let Some(map) = state::kept(home, HELD_JOINS)? else {
        return Ok(held);
    };
    let maps = TrackMaps::open(home)?;
    let now = sys::boot_time()?;
    for (_, _, join) in entries(&map)? {
        match join.state {
            HeldState::EMPTCP_HELD_WAITING if now <= join.until => held.waiting += 1,
            // A retry may have met no chain that holds it.
            HeldState::EMPTCP_HELD_WAITING if has_passed(&join, maps.as_ref())? => {}
            HeldState::EMPTCP_HELD_WAITING | HeldState::EMPTCP_HELD_EXPIRED => held.expired += 1,
            HeldState::EMPTCP_HELD_ASKED => held.asked += 1,
            HeldState::EMPTCP_HELD_RELEASED => {}
            state => {
                held.expired += 1;
                *held.left.entry(held_state_name(state)).or_default() += 1;
            }
        }
    }
    Ok(held)
}

/// Connections that have one whose client still waits.
pub(super) fn connections(home: &Home) -> Result<BTreeSet<ConnKey>> {
    let mut found = BTreeSet::new();
    let Some(map) = state::kept(home, HELD_JOINS)? else {
        return Ok(found);
    };
    let now = sys::boot_time()?;
    for (_, conn, join) in entries(&map)? {
        if join.state == HeldState::EMPTCP_HELD_WAITING && now <= join.until {
            found.insert(ConnKey::from(conn));
        }
    }
    Ok(found)
}

/// Whether its subflow is there all the same.
fn has_passed(join: &HeldJoin, maps: Option<&TrackMaps>) -> Result<bool> {
    let (ends, _) = Ends::of_packet(&join.subflow);
    match maps {
        Some(maps) => Ok(TrackMaps::subflow(&maps.subflows, &ends)?.is_some()),
        None => Ok(false),
    }
}

/// The map in force, to be changed.
#[derive(Debug)]
pub(crate) struct Held {
    home: Home,
    map: MapHandle,
}

/// A join that expired though the policy wants it, of a connection that lives.
#[derive(Clone, Debug)]
pub(crate) struct Expired {
    key: Vec<u8>,
    join: HeldJoin,
    /// Token of the client, where the tracker knows it: it opens further subflows.
    pub(crate) token: Option<u32>,
    /// As its SYN had them: client and server.
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Address id, and whether it was to be backup.
    pub(crate) addr_id: u8,
    pub(crate) backup: bool,
    /// It was looked at before, and somebody used the address.
    pub(crate) was_in_use: bool,
}

impl Held {
    /// `None`: no policy is in force, or nothing in it holds SYNs.
    ///
    /// # Errors
    ///
    /// No privilege; the kernel's; maps of another version.
    pub(crate) fn in_force() -> Result<Option<Self>> {
        let home = Home::current(false)?;
        let map = state::kept_of::<[u32; 3], HeldJoin>(&home, HELD_JOINS)?;
        Ok(map.map(|map| Self { home, map }))
    }

    /// Those that expired, and were not asked for before. `again`: also those of which somebody used
    /// the address.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn expired(&self, again: bool) -> Result<Vec<Expired>> {
        let mut found = Vec::new();
        for (key, conn, join) in entries(&self.map)? {
            let was_in_use = join.state == HeldState::EMPTCP_HELD_IN_USE;
            let is_new = join.state == HeldState::EMPTCP_HELD_EXPIRED && join.asked == 0;
            if is_new || (again && was_in_use) {
                let [from, to] = Ends::from(&join.subflow).ends;
                found.push(Expired {
                    token: self.client_token(conn)?,
                    from,
                    to,
                    addr_id: join.addr_id,
                    backup: join.backup != 0,
                    was_in_use,
                    key,
                    join,
                });
            }
        }
        Ok(found)
    }

    fn client_token(&self, conn: TrackKey) -> Result<Option<u32>> {
        let Some(maps) = TrackMaps::open(&self.home)? else {
            return Ok(None);
        };
        let conn = maps.connection(conn.into())?.filter(|conn| {
            let is = |flag: ConnFlags| u32::from(conn.flags) & flag.0 != 0;
            let ends = conn.live == 0 || is(ConnFlags::EMPTCP_CONN_ENDS);
            is(ConnFlags::EMPTCP_CONN_HAS_CLIENT_TOKEN) && !ends
        });
        Ok(conn.map(|conn| conn.client_token))
    }

    /// Notes what became of it, unless another SYN has taken its place.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn note(&self, expired: &Expired, state: HeldState) -> Result<()> {
        let now = self.map.lookup(&expired.key, MapFlags::ANY)?;
        let Some(mut now) = now.and_then(|value| from_bytes::<HeldJoin>(&value)) else {
            return Ok(());
        };
        if (now.first, now.seq) == (expired.join.first, expired.join.seq) {
            now.state = state;
            now.asked = u8::from(state == HeldState::EMPTCP_HELD_ASKED);
            self.map
                .update(&expired.key, bytes_of(&now), MapFlags::EXIST)?;
        }
        Ok(())
    }
}

/// Looks at those that expired again and again.
#[derive(Debug, Default)]
pub(crate) struct HeldChanges {
    /// Of those: slot, when the first SYN came, its number, and what became of it.
    before: Vec<(Vec<u8>, u64, u32, HeldState)>,
}

impl HeldChanges {
    /// From now on.
    ///
    /// # Errors
    ///
    /// As for [`Held::in_force`].
    pub(crate) fn new() -> Result<Self> {
        let mut changes = Self::default();
        changes.look()?;
        Ok(changes)
    }

    /// What has become otherwise since the last look.
    ///
    /// # Errors
    ///
    /// As for [`Held::in_force`].
    pub(crate) fn look(&mut self) -> Result<Vec<HeldChange>> {
        let entries = match Held::in_force()? {
            Some(held) => entries(&held.map)?,
            None => Vec::new(),
        };
        let before = std::mem::take(&mut self.before);
        let mut found = Vec::new();
        for (key, conn, join) in entries {
            if matches!(
                join.state,
                HeldState::EMPTCP_HELD_WAITING | HeldState::EMPTCP_HELD_RELEASED
            ) {
                continue;
            }
            let now = (key, join.first, join.seq, join.state);
            if !before.contains(&now) {
                let [from, to] = Ends::from(&join.subflow).ends;
                found.push(HeldChange {
                    token: conn.token,
                    from,
                    to,
                    state: held_state_name(join.state),
                });
            }
            self.before.push(now);
        }
        Ok(found)
    }
}

impl Expired {
    /// The interface that had its SYN, if the address is its own; 0: routes decide.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn interface(&self) -> Result<u32> {
        let all = addresses()?;
        let has = all.get(&self.from.ip());
        let is_own = has.is_some_and(|has| has.contains(&self.join.interface));
        Ok(if is_own { self.join.interface } else { 0 })
    }
}
