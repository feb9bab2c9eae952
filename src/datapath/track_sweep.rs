//! Forgets what no packet makes the tracker forget.

use std::collections::HashSet;
use std::net::SocketAddr;

use anyhow::Result;
use libbpf_rs::ErrorKind;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use serde::Serialize;

use super::inet_diag::mptcp_sockets;
use super::table_edit::Lock;
use super::track::TrackMaps;
use super::track::drop_subflows;
use super::track::maps_in_force;
use crate::abi::ConnFlags;
use crate::abi::SubflowKey;
use crate::abi::TrackFlags;
use crate::abi::TrackKey;
use crate::abi::TrackSubflow;
use crate::abi::bytes_of;
use crate::sys;
use crate::track::ConnKey;
use crate::track::Ends;
use crate::track::Timeouts;
use crate::track::Track;
use crate::track::connection_of;
use crate::track::has;
use crate::track::tell;
use crate::track::unused_connections;

/// What a sweep has forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Subflows.
    pub subflows: usize,
    /// Handshakes that were never over.
    pub half_open: usize,
    /// Connections without subflows.
    pub connections: usize,
}

/// Forgets subflows and handshakes that have been idle for too long, and connections that no
/// subflow belongs to. `established`: how long an established subflow may be idle, in nanoseconds,
/// if not as the kernel's connection tracking has it.
///
/// # Errors
///
/// No policy, or one without the tracker; no privilege; the kernel's.
pub fn sweep_track(established: Option<u64>) -> Result<Swept> {
    let mut timeouts = Timeouts::default();
    timeouts.established = established.unwrap_or(timeouts.established);
    let (maps, _lock) = maps_in_force(Lock::Shared)?;
    let track = maps.read()?;
    let now = sys::boot_time()?;
    let ghosts = ghosts(&track);
    let mut swept = Swept::default();
    for (ends, sub) in &track.subflows {
        let over = |sub: &TrackSubflow| {
            timeouts.is_over(sub, now) || (ghosts.contains(ends) && is_unseen(sub))
        };
        // Looked at once more: a packet may have come since.
        if over(sub)
            && let Some(sub) = TrackMaps::subflow(&maps.subflows, ends)?
            && over(&sub)
            && delete(&maps.subflows, bytes_of(&SubflowKey::from(ends)))?
        {
            swept.subflows += 1;
            if let Some(key) = connection_of(&sub) {
                maps.unlist(key, Some(ends))?;
                maps.change(key, |conn| {
                    tell(conn, &sub);
                    drop_subflows(conn, 1, now);
                })?;
            }
        }
    }
    for (ends, sub) in &track.half_open {
        if timeouts.is_stuck(sub, now)
            && let Some(sub) = TrackMaps::subflow(&maps.half_open, ends)?
            && timeouts.is_stuck(&sub, now)
            && delete(&maps.half_open, bytes_of(&SubflowKey::from(ends)))?
        {
            swept.half_open += 1;
        }
    }
    let (gone, lost) = unused_connections(&track, &timeouts, now);
    for key in lost {
        // Its subflow went without a trace: from now on it waits for another one, or the next sweep.
        maps.change(key, |conn| drop_subflows(conn, conn.live, now))?;
    }
    for key in gone {
        swept.connections += usize::from(forget(&maps, key)?);
    }
    Ok(swept)
}

/// Subflows that were taken over, and of which neither a packet came by nor the kernel has a
/// socket any more: their way is another one, or they ended with the apply.
fn ghosts(track: &Track) -> HashSet<Ends> {
    let candidates = track.subflows.iter().filter(|(_, sub)| is_unseen(sub));
    let mut candidates: HashSet<Ends> = candidates.map(|(ends, _)| *ends).collect();
    if candidates.is_empty() {
        return candidates;
    }
    let Ok(sockets) = mptcp_sockets() else {
        return HashSet::new();
    };
    let pairs = sockets.iter().map(|s| (s.local, s.remote));
    let alive: HashSet<(SocketAddr, SocketAddr)> = pairs.collect();
    candidates.retain(|ends| {
        let [lower, higher] = ends.ends;
        !alive.contains(&(lower, higher)) && !alive.contains(&(higher, lower))
    });
    candidates
}

/// Whether it was taken over, and no packet of it came by since.
fn is_unseen(sub: &TrackSubflow) -> bool {
    has(sub, TrackFlags::EMPTCP_TRACK_TAKEN_OVER) && sub.way.iter().all(|way| way.last == 0)
}

/// Removes a connection with its other token and its keys. `false`: there is a new subflow.
fn forget(maps: &TrackMaps, key: ConnKey) -> Result<bool> {
    let Some(conn) = maps.connection(key)?.filter(|conn| conn.live == 0) else {
        return Ok(false);
    };
    let server = TrackKey::from(key);
    if u32::from(conn.flags) & ConnFlags::EMPTCP_CONN_HAS_CLIENT_TOKEN.0 != 0 {
        let client = TrackKey {
            token: conn.client_token,
            zone: key.zone,
        };
        let map = &maps.client_tokens;
        // Another connection may have got it.
        let alias = map.lookup(bytes_of(&client), MapFlags::ANY)?;
        if alias.as_deref() == Some(&key.token.to_ne_bytes()) {
            delete(map, bytes_of(&client))?;
        }
    }
    delete(&maps.secrets, bytes_of(&server))?;
    maps.unlist(key, None)?;
    delete(&maps.connections, bytes_of(&server))
}

/// `false`: it is gone already.
fn delete(map: &MapHandle, key: &[u8]) -> Result<bool> {
    match map.delete(key) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}
