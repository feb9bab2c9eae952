//! Connections as they are shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::ConnKey;
use super::Ends;
use super::Track;
use super::connection_of;
use super::has;
use super::milliseconds;
use super::subflow::cause;
use super::token_text;
use crate::abi::ConnFlags;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::TrackConn;
use crate::abi::TrackFlags;
use crate::abi::TrackKind;
use crate::abi::TrackSubflow;

/// A connection. What is not known is `null` in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionView {
    /// Token of the server: of who accepted the first subflow.
    pub token: Option<String>,
    /// Token of the client.
    pub client_token: Option<String>,
    /// Version of Multipath TCP.
    pub version: u8,
    /// Zone of the address space that it belongs to.
    pub zone: u32,
    /// Address and port of the client on the first of the subflows that are left.
    pub client: Option<SocketAddr>,
    /// Those of the server.
    pub server: Option<SocketAddr>,
    /// `open`, `closing` (DATA_FIN or MP_FASTCLOSE was seen) or `closed` (no subflow is left).
    pub state: &'static str,
    /// Subflows that it has.
    pub subflows: u32,
    /// Subflows that it ever had.
    pub subflows_ever: Option<u32>,
    /// Payload of all subflows from the client, in bytes, without what was sent again.
    pub bytes_up: Option<u64>,
    /// The same from the server.
    pub bytes_down: Option<u64>,
    /// Why it went on as plain TCP.
    pub fallback: Option<String>,
    /// It is older than the policy; bytes count from then.
    pub taken_over: bool,
    /// Milliseconds since its first packet, or since it was taken over.
    pub age_ms: u64,
}

/// The subflows of a connection by their number.
type Subflows<'a> = Vec<(&'a Ends, &'a TrackSubflow)>;

/// Connections by zone and token; behind them those of which no token is known. `now`: on the
/// clock of the tracker.
pub(crate) fn connection_views(track: &Track, now: u64) -> Vec<ConnectionView> {
    let mut of: BTreeMap<ConnKey, Subflows<'_>> = BTreeMap::new();
    let mut alone = Vec::new();
    for (ends, sub) in &track.subflows {
        match connection_of(sub) {
            Some(key) => of.entry(key).or_default().push((ends, sub)),
            // It has a connection for sure, even if that fell back before there was a token.
            None if TrackKind(sub.kind.into()) == TrackKind::EMPTCP_TRACK_INITIAL => {
                alone.push(without_token(ends, sub, now));
            }
            None => {}
        }
    }
    let mut views: Vec<_> = track
        .connections
        .iter()
        .map(|(key, conn)| {
            let mut subflows = of.remove(key).unwrap_or_default();
            subflows.sort_by_key(|(ends, sub)| (sub.index, **ends));
            view(*key, conn, &subflows, now)
        })
        .collect();
    views.extend(alone);
    views
}

fn view(key: ConnKey, conn: &TrackConn, subflows: &Subflows<'_>, now: u64) -> ConnectionView {
    let is = |flag: ConnFlags| u32::from(conn.flags) & flag.0 != 0;
    let ends = subflows.first().and_then(|(ends, sub)| client(ends, sub));
    ConnectionView {
        token: Some(token_text(key.token)),
        client_token: is(ConnFlags::EMPTCP_CONN_HAS_CLIENT_TOKEN)
            .then(|| token_text(conn.client_token)),
        version: conn.version,
        zone: key.zone,
        client: ends.map(|[client, _]| client),
        server: ends.map(|[_, server]| server),
        state: match is(ConnFlags::EMPTCP_CONN_ENDS) {
            _ if conn.live == 0 => "closed",
            true => "closing",
            false => "open",
        },
        subflows: conn.live,
        subflows_ever: Some(conn.ever),
        bytes_up: Some(conn.bytes[0]),
        bytes_down: Some(conn.bytes[1]),
        fallback: subflows
            .iter()
            .find_map(|(_, sub)| cause(sub))
            .map(str::to_owned),
        taken_over: subflows
            .iter()
            .any(|(_, sub)| has(sub, TrackFlags::EMPTCP_TRACK_TAKEN_OVER)),
        age_ms: milliseconds(conn.created, now),
    }
}

/// A connection whose first subflow is all that is known of it.
fn without_token(ends: &Ends, sub: &TrackSubflow, now: u64) -> ConnectionView {
    let known = client(ends, sub);
    let taken_over = has(sub, TrackFlags::EMPTCP_TRACK_TAKEN_OVER);
    let bytes = |of_client: bool| {
        let way = &sub.way[usize::from((sub.client & 1 == 1) == of_client)];
        let seen = known.is_some() && (way.last != 0 || taken_over);
        seen.then(|| way.bytes.saturating_sub(way.retransmitted))
    };
    ConnectionView {
        token: None,
        client_token: None,
        version: sub.version,
        zone: ends.zone,
        client: known.map(|[client, _]| client),
        server: known.map(|[_, server]| server),
        state: "open",
        subflows: 1,
        subflows_ever: None,
        bytes_up: bytes(true),
        bytes_down: bytes(false),
        fallback: cause(sub).map(str::to_owned),
        taken_over,
        age_ms: milliseconds(sub.created, now),
    }
}

/// The ends of a subflow: client, server.
fn client(ends: &Ends, sub: &TrackSubflow) -> Option<[SocketAddr; 2]> {
    let [lower, higher] = ends.ends;
    match sub.client {
        DIRECTION_UNKNOWN => None,
        client if client & 1 == 0 => Some([lower, higher]),
        _ => Some([higher, lower]),
    }
}
