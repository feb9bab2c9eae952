//! Subflows as they are shown.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::SocketAddr;

use serde::Serialize;

use super::Ends;
use super::Socket;
use super::Track;
use super::connection_of;
use super::has;
use super::last_seen;
use super::milliseconds;
use super::token_text;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::TrackFlags;
use crate::abi::TrackKind;
use crate::abi::TrackState;
use crate::abi::TrackSubflow;
use crate::abi::TrackWay;
use crate::abi::WSCALE_UNKNOWN;
use crate::abi::WayFlags;
use crate::abi::fallback_names;
use crate::abi::hook_of;
use crate::interface::Interfaces;

/// A subflow. What is not known is `null` in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct SubflowView {
    /// Token of its connection: that of the server.
    pub token: Option<String>,
    /// Zone of the address space that it belongs to.
    pub zone: u32,
    /// Number in its connection, in the order of the handshakes; the first is 0.
    pub index: Option<u8>,
    /// `initial` or `joined`.
    pub kind: Option<&'static str>,
    /// `syn`, `synack`, `established` or `closing`.
    pub state: &'static str,
    /// Version of Multipath TCP.
    pub version: u8,
    /// Whether `from` is known to be the end that sent the SYN.
    pub opener_known: bool,
    /// The end that sent the SYN, and what it sends.
    pub from: EndView,
    /// The other end, and what it sends.
    pub to: EndView,
    /// Which of them is the client of the connection: `from` or `to`.
    pub client: Option<&'static str>,
    /// Why it went on as plain TCP.
    pub fallback: Option<FallbackView>,
    /// It is older than the policy, and was taken over from the kernel; its bytes count from then.
    pub taken_over: bool,
    /// Milliseconds since its first packet, or since it was taken over.
    pub age_ms: u64,
    /// Milliseconds since its last packet.
    pub idle_ms: Option<u64>,
}

/// One end of a subflow, and what it sends.
#[derive(Clone, Debug, Serialize)]
pub struct EndView {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Address id.
    pub address_id: Option<u8>,
    /// Window scale.
    pub wscale: Option<u8>,
    /// It asked the other end to treat the subflow as backup.
    pub asks_backup: Option<bool>,
    /// Who wants that it does, of this policy: owners of chains by their number, others by their
    /// name. Not looked at for programs.
    pub backup_wanted_by: Option<Vec<String>>,
    /// Where its packets are counted.
    pub interface: Option<String>,
    /// Hook at which they are.
    pub hook: Option<&'static str>,
    /// Payload, in bytes, with what was sent again.
    pub bytes: Option<u64>,
    /// Of that what was sent again.
    pub retransmitted_bytes: Option<u64>,
    /// Packets on the wire.
    pub packets: Option<u64>,
    /// Smoothed round-trip time from where packets are counted to the other end and back, in
    /// microseconds.
    pub srtt_us: Option<u32>,
    /// The least of these.
    pub min_rtt_us: Option<u32>,
    /// Milliseconds since its last packet.
    pub idle_ms: Option<u64>,
    /// What the kernel knows, where the socket of this end is in this network namespace.
    pub kernel: Option<KernelView>,
}

/// What the kernel knows of a socket.
#[derive(Clone, Debug, Serialize)]
pub struct KernelView {
    /// Token of this end, as `ss -Mti` prints it.
    pub token: Option<String>,
    /// Token of the other end.
    pub token_remote: Option<String>,
    /// Congestion window, in segments.
    pub cwnd: Option<u32>,
    /// Smoothed round-trip time, in microseconds.
    pub srtt_us: Option<u32>,
    /// Its mean deviation, in microseconds.
    pub rttvar_us: Option<u32>,
    /// Segments that were sent again.
    pub retransmits: Option<u32>,
    /// Size of a segment, in bytes of payload.
    pub mss: Option<u32>,
    /// Segments that are on their way and not acknowledged.
    pub in_flight: Option<u32>,
    /// Bytes that wait in the socket to be sent for the first time.
    pub unsent_bytes: Option<u32>,
}

/// A fallback to plain TCP.
#[derive(Clone, Debug, Serialize)]
pub struct FallbackView {
    /// Name of the cause.
    pub cause: String,
    /// Who sent the packet that showed it: `from` or `to`.
    pub sent_by: Option<&'static str>,
    /// Sequence number of that packet.
    pub sequence: u32,
    /// Milliseconds since.
    pub age_ms: u64,
}

impl From<&Socket> for KernelView {
    fn from(socket: &Socket) -> Self {
        Self {
            token: socket.token_local.map(token_text),
            token_remote: socket.token_remote.map(token_text),
            cwnd: socket.cwnd,
            srtt_us: socket.srtt,
            rttvar_us: socket.rttvar,
            retransmits: socket.retransmits,
            mss: socket.mss,
            in_flight: socket.in_flight,
            unsent_bytes: socket.unsent,
        }
    }
}

impl SubflowView {
    /// Whether its packets, in one direction at least, are counted at the interface.
    pub fn is_at(&self, interface: &str) -> bool {
        let ends = [&self.from, &self.to];
        ends.iter()
            .any(|end| end.interface.as_deref() == Some(interface))
    }
}

/// Subflows by connection, then by their number; those of no known connection are last.
/// `half_open`: also those whose handshake is not over. `now`: on the clock of the tracker.
pub(crate) fn subflow_views(
    track: &Track,
    half_open: bool,
    interfaces: &Interfaces,
    sockets: &[Socket],
    now: u64,
) -> Vec<SubflowView> {
    let by_ends: HashMap<(SocketAddr, SocketAddr), &Socket> =
        sockets.iter().map(|s| ((s.local, s.remote), s)).collect();
    let mut all: Vec<(&Ends, &TrackSubflow)> = track.subflows.iter().collect();
    if half_open {
        // It may have become established between the two readings.
        let new = track.half_open.iter();
        all.extend(new.filter(|(ends, _)| !track.subflows.contains_key(ends)));
    }
    all.sort_by_key(|(ends, sub)| {
        let connection = connection_of(sub);
        (connection.is_none(), connection, sub.index, **ends)
    });
    all.iter()
        .map(|(ends, sub)| {
            let [lower, higher] = ends.ends;
            let sockets = [(lower, higher), (higher, lower)].map(|ends| by_ends.get(&ends));
            subflow_view(ends, sub, interfaces, sockets.map(|s| s.copied()), now)
        })
        .collect()
}

/// One subflow. `sockets`: that of its lower and that of its higher end, where they are here.
pub(crate) fn subflow_view(
    ends: &Ends,
    sub: &TrackSubflow,
    interfaces: &Interfaces,
    sockets: [Option<&Socket>; 2],
    now: u64,
) -> SubflowView {
    let connection = connection_of(sub);
    let opener_known = sub.opener != DIRECTION_UNKNOWN;
    let from = usize::from(opener_known && sub.opener & 1 == 1);
    let name = |direction: u8| match direction {
        DIRECTION_UNKNOWN => None,
        direction if usize::from(direction & 1) == from => Some("from"),
        _ => Some("to"),
    };
    let taken_over = has(sub, TrackFlags::EMPTCP_TRACK_TAKEN_OVER);
    let end = |direction: usize| {
        end(
            ends.ends[direction],
            &sub.way[direction],
            taken_over,
            interfaces,
            sockets[direction],
            now,
        )
    };
    let kind = match TrackKind(sub.kind.into()) {
        TrackKind::EMPTCP_TRACK_INITIAL => Some("initial"),
        TrackKind::EMPTCP_TRACK_JOINED => Some("joined"),
        _ => None,
    };
    let idle = sub.way.iter().any(|way| way.last != 0);
    SubflowView {
        token: connection.map(|key| token_text(key.token)),
        zone: ends.zone,
        index: (connection.is_some() || kind == Some("initial")).then_some(sub.index),
        kind,
        state: match TrackState(sub.state.into()) {
            TrackState::EMPTCP_TRACK_SYN => "syn",
            TrackState::EMPTCP_TRACK_SYNACK => "synack",
            TrackState::EMPTCP_TRACK_ESTABLISHED => "established",
            _ => "closing",
        },
        version: sub.version,
        opener_known,
        from: end(from),
        to: end(1 - from),
        client: name(sub.client),
        fallback: cause(sub).map(|cause| FallbackView {
            cause: cause.to_owned(),
            sent_by: name(sub.fallback_way),
            sequence: sub.fallback_seq,
            age_ms: milliseconds(sub.fallback_at, now),
        }),
        taken_over,
        age_ms: milliseconds(sub.created, now),
        idle_ms: idle.then(|| milliseconds(last_seen(sub), now)),
    }
}

/// Name of the cause of a subflow's fallback.
pub(super) fn cause(sub: &TrackSubflow) -> Option<&'static str> {
    let names = fallback_names();
    (sub.fallback != 0).then(|| names.get(usize::from(sub.fallback)).map_or("other", |n| n))
}

fn end(
    end: SocketAddr,
    way: &TrackWay,
    taken_over: bool,
    interfaces: &Interfaces,
    socket: Option<&Socket>,
    now: u64,
) -> EndView {
    let is = |flag: WayFlags| u32::from(way.flags) & flag.0 != 0;
    let known = |number: u32| (number != 0).then_some(number);
    // Nothing of it came by here: that is not the same as that it sent nothing.
    let seen = way.last != 0;
    let counted = |number: u64| (seen || taken_over).then_some(number);
    let asks = is(WayFlags::EMPTCP_WAY_ASKS_BACKUP);
    EndView {
        address: end.ip(),
        port: end.port(),
        address_id: is(WayFlags::EMPTCP_WAY_HAS_ID).then_some(way.addr_id),
        wscale: (way.wscale != WSCALE_UNKNOWN).then_some(way.wscale),
        asks_backup: (seen || taken_over || asks).then_some(asks),
        backup_wanted_by: None,
        interface: known(way.ifindex).map(|index| {
            let interface = interfaces.by_index(index);
            interface.map_or_else(|| format!("if{index}"), |i| i.name.clone())
        }),
        hook: way
            .hook
            .checked_sub(1)
            .and_then(hook_of)
            .map(|hook| hook.name()),
        bytes: counted(way.bytes),
        retransmitted_bytes: counted(way.retransmitted),
        packets: counted(way.packets),
        srtt_us: known(way.rtt.srtt >> 3),
        min_rtt_us: known(way.rtt.min_rtt),
        idle_ms: seen.then(|| milliseconds(way.last, now)),
        kernel: socket.map(KernelView::from),
    }
}
