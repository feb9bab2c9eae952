//! Connections that are older than the policy, from what their own host's kernel knows of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::SocketAddr;

use super::ConnKey;
use super::Ends;
use super::Socket;
use super::SocketFlags;
use super::Track;
use crate::abi::ConnFlags;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::TrackConn;
use crate::abi::TrackFlags;
use crate::abi::TrackKind;
use crate::abi::TrackState;
use crate::abi::TrackSubflow;
use crate::abi::TrackWay;
use crate::abi::WSCALE_UNKNOWN;
use crate::abi::WayFlags;

/// The kernel speaks no other version of Multipath TCP.
const VERSION: u8 = 1;

/// What the tracker is to learn: a connection, and its subflows in the order of their numbers.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// None: the token of its server is not known.
    pub(crate) connection: Option<(ConnKey, TrackConn)>,
    pub(crate) subflows: Vec<(Ends, TrackSubflow)>,
}

/// The zone in which the packets of a socket of this host meet the tracker. `zones`: those in which it
/// tracks, by interface; `has`: interfaces that have the socket's address. `None`: it may be one or
/// another.
pub(crate) fn zone_of(zones: &BTreeMap<u32, BTreeSet<u32>>, has: &BTreeSet<u32>) -> Option<u32> {
    let all: BTreeSet<u32> = zones.values().flatten().copied().collect();
    let here = zones.iter().filter(|(index, _)| has.contains(index));
    let here: BTreeSet<u32> = here.flat_map(|(_, zones)| zones).copied().collect();
    let only = |zones: &BTreeSet<u32>| zones.first().copied().filter(|_| zones.len() == 1);
    // Of several, sockets of this host are no tenant's.
    let own = if here.is_empty() { &all } else { &here };
    only(&all)
        .or_else(|| only(&here))
        .or_else(|| own.contains(&0).then_some(0))
}

/// The connections of these sockets, all of one zone, with subflows that the tracker does not know.
/// `now`: on its clock.
pub(crate) fn found(zone: u32, sockets: &[Socket], known: &Track, now: u64) -> Vec<Found> {
    let by_ends: HashMap<(SocketAddr, SocketAddr), &Socket> =
        sockets.iter().map(|s| ((s.local, s.remote), s)).collect();
    let mut groups: BTreeMap<u32, Vec<&Socket>> = BTreeMap::new();
    for socket in sockets.iter().filter(|s| s.established) {
        if let Some(token) = socket.token_local
            && socket.flags.has(SocketFlags::CAPABLE | SocketFlags::JOIN)
        {
            groups.entry(token).or_default().push(socket);
        }
    }
    let mut all: Vec<Found> = Vec::new();
    // Both ends may be here: one of them is enough.
    let mut taken = HashSet::new();
    for (token, mut group) in groups {
        group.sort_by_key(|s| (is_joined(s), s.id_local, s.id_remote, s.local, s.remote));
        let roles = Roles::of(zone, token, &group, &by_ends);
        let mut found = Found {
            connection: None,
            subflows: Vec::new(),
        };
        for socket in &group {
            let (ends, local) = Ends::of(socket.local, socket.remote, zone);
            let knows = known.subflows.contains_key(&ends) || known.half_open.contains_key(&ends);
            if knows || !taken.insert(ends) {
                continue;
            }
            let sub = subflow(socket, local, &roles, now);
            found.subflows.push((ends, sub));
        }
        if found.subflows.is_empty() {
            continue;
        }
        // Behind those that the tracker knows; the first one of all has 0.
        let first_is_joined =
            |sub: &TrackSubflow| u32::from(sub.kind) == TrackKind::EMPTCP_TRACK_JOINED.0;
        let before = match roles.known(known) {
            0 => u32::from(first_is_joined(&found.subflows[0].1)),
            known => known,
        };
        for ((_, sub), index) in found.subflows.iter_mut().zip(before..) {
            sub.index = u8::try_from(index).unwrap_or(u8::MAX);
        }
        let count = found.subflows.len() as u32;
        found.connection = roles.key().map(|key| {
            let mut conn = TrackConn {
                created: now,
                live: count,
                ever: before + count,
                version: VERSION,
                ..TrackConn::default()
            };
            if let Some(token) = roles.client {
                conn.client_token = token;
                conn.flags = ConnFlags::EMPTCP_CONN_HAS_CLIENT_TOKEN.0 as u8;
            }
            (key, conn)
        });
        all.push(found);
    }
    all
}

fn is_joined(socket: &Socket) -> bool {
    socket.flags.has(SocketFlags::JOIN)
}

/// Who is who, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Roles {
    zone: u32,
    /// Whether this end is the client.
    here: Option<bool>,
    /// Tokens.
    client: Option<u32>,
    server: Option<u32>,
}

impl Roles {
    /// Of the subflows that share this end's token; the first one tells, if it is still there.
    fn of(
        zone: u32,
        token: u32,
        group: &[&Socket],
        by_ends: &HashMap<(SocketAddr, SocketAddr), &Socket>,
    ) -> Self {
        let initial = group.iter().find(|s| !is_joined(s));
        let here = initial.map(|s| s.flags.has(SocketFlags::ASKED_CAPABLE));
        let other = group.iter().find_map(|s| {
            let peer = by_ends.get(&(s.remote, s.local));
            s.token_remote.or_else(|| peer?.token_local)
        });
        let (client, server) = match here {
            Some(true) => (Some(token), other),
            Some(false) => (other, Some(token)),
            None => (None, None),
        };
        Self {
            zone,
            here,
            client,
            server,
        }
    }

    fn key(&self) -> Option<ConnKey> {
        let zone = self.zone;
        self.server.map(|token| ConnKey { zone, token })
    }

    /// Subflows that the tracker has counted of the connection.
    fn known(&self, known: &Track) -> u32 {
        let conn = self.key().and_then(|key| known.connections.get(&key));
        conn.map_or(0, |conn| conn.ever)
    }
}

/// `local`: the direction of what this end sends.
fn subflow(socket: &Socket, local: u8, roles: &Roles, now: u64) -> TrackSubflow {
    let opener = if socket.opened_here() {
        local
    } else {
        1 - local
    };
    let client = match roles.here {
        Some(true) => local,
        Some(false) => 1 - local,
        None => DIRECTION_UNKNOWN,
    };
    let joined = is_joined(socket);
    let kind = match joined {
        true => TrackKind::EMPTCP_TRACK_JOINED,
        false => TrackKind::EMPTCP_TRACK_INITIAL,
    };
    let mut sub = TrackSubflow {
        created: now,
        state: TrackState::EMPTCP_TRACK_ESTABLISHED.0 as u8,
        kind: kind.0 as u8,
        version: VERSION,
        flags: TrackFlags::EMPTCP_TRACK_TAKEN_OVER.0 as u8,
        opener,
        client,
        ..TrackSubflow::default()
    };
    if let Some(key) = roles.key() {
        sub.conn = key.into();
        sub.flags |= TrackFlags::EMPTCP_TRACK_TIED.0 as u8;
    }
    // The SYN of an MP_JOIN has the token of who receives it.
    let receiver = if opener == client {
        roles.server
    } else {
        roles.client
    };
    if let (true, Some(token)) = (joined, receiver) {
        sub.token = token;
        sub.flags |= TrackFlags::EMPTCP_TRACK_HAS_TOKEN.0 as u8;
    }
    let [here, there] = [local, 1 - local].map(usize::from);
    let scales = socket.wscales.unwrap_or([WSCALE_UNKNOWN; 2]);
    sub.way[here] = way(socket.id_local, scales[0]);
    sub.way[there] = way(socket.id_remote, scales[1]);
    for (direction, flag) in [
        (here, SocketFlags::BACKUP_LOCAL),
        (there, SocketFlags::BACKUP_REMOTE),
    ] {
        if socket.flags.has(flag) {
            sub.way[direction].flags |= WayFlags::EMPTCP_WAY_ASKS_BACKUP.0 as u8;
        }
    }
    sub
}

/// Of a direction whose packets were not seen yet. A DSS went before, or the kernel would have
/// fallen back: a packet without one is in the midst of a mapping.
fn way(addr_id: u8, wscale: u8) -> TrackWay {
    let flags = WayFlags::EMPTCP_WAY_HAS_ID.0 | WayFlags::EMPTCP_WAY_DSS.0;
    TrackWay {
        addr_id,
        wscale,
        flags: flags as u8,
        ..TrackWay::default()
    }
}
