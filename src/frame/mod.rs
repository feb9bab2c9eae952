//! Frames that are made from nothing: a pure ACK of one direction of a subflow, as the tracker last
//! saw it, with one option. Pure: `datapath` sends them.
//!
//! Such a frame says nothing about data that the receiver does not know already. Its sequence
//! number is the highest that its sender has used, its acknowledgement, window and timestamp are
//! repeated: a timestamp of our own would be in front of those that the sender still sends, which
//! the receiver would then drop (RFC 7323, 5).
//!
//! While the sender goes on sending, that number and timestamp are old before the frame is there.
//! Then it goes a little ahead, in the window of the receiver. It may have a later timestamp there:
//! the receiver keeps none of a packet that lies behind what it has acknowledged (RFC 7323, 4.3).

mod build;
mod option;
mod place;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use anyhow::Result;
use anyhow::bail;

pub(crate) use self::build::Ack;
pub(crate) use self::option::Opt;
pub(crate) use self::place::Place;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::TrackState;
use crate::abi::TrackSubflow;
use crate::abi::TrackWay;
use crate::abi::WSCALE_UNKNOWN;
use crate::abi::WayFlags;
use crate::interface::Interfaces;
use crate::track::Ends;

/// A direction that had a packet since then is moving, in nanoseconds.
const MOVING: u64 = 50_000_000;
/// How far a frame goes ahead of it at most, in bytes.
const AHEAD: u32 = 1 << 20;
/// And in ticks of the timestamps, mostly milliseconds.
const TICKS: u32 = 10;

/// A pure ACK, and where it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) ack: Ack,
    pub(crate) place: Place,
}

/// Who gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum To {
    /// The client of the connection.
    Client,
    /// Its server.
    Server,
    /// Both, a frame each.
    Both,
}

impl To {
    /// The directions in which frames go.
    ///
    /// # Errors
    ///
    /// It is not known which end is the client.
    pub(crate) fn directions(self, ends: &Ends, sub: &TrackSubflow) -> Result<Vec<usize>> {
        let up = match (self, sub.client) {
            (To::Both, _) => return Ok(vec![0, 1]),
            (_, DIRECTION_UNKNOWN) => bail!(
                "which end of {} is the client is not known: name both",
                name(ends)
            ),
            (_, client) => usize::from(client & 1),
        };
        Ok(vec![if self == To::Server { up } else { 1 - up }])
    }
}

/// A subflow as tables have it, from its lower end.
pub(crate) fn name(ends: &Ends) -> String {
    format!("{}-{}", ends.ends[0], ends.ends[1])
}

/// `client` or `server`: what the end is that sends in a direction.
pub(crate) fn role(sub: &TrackSubflow, direction: usize) -> Option<&'static str> {
    match sub.client {
        DIRECTION_UNKNOWN => None,
        client if usize::from(client & 1) == direction => Some("client"),
        _ => Some("server"),
    }
}

/// The frame for a direction of a subflow: 0 from its lower end, 1 from its higher one. `now`: on the
/// clock of the tracker.
///
/// # Errors
///
/// What is not known, or that the frame would harm the connection.
pub(crate) fn frame(
    ends: &Ends,
    sub: &TrackSubflow,
    direction: usize,
    interfaces: &Interfaces,
    now: u64,
) -> Result<Frame> {
    made(ends, sub, direction, interfaces, now, false)
}

/// The same for a data ACK: it may be the first one of its direction.
///
/// # Errors
///
/// As for [`frame`].
pub(crate) fn frame_of_data_ack(
    ends: &Ends,
    sub: &TrackSubflow,
    direction: usize,
    interfaces: &Interfaces,
    now: u64,
) -> Result<Frame> {
    made(ends, sub, direction, interfaces, now, true)
}

fn made(
    ends: &Ends,
    sub: &TrackSubflow,
    direction: usize,
    interfaces: &Interfaces,
    now: u64,
    has_dss: bool,
) -> Result<Frame> {
    let (from, to) = ends.sender_and_receiver(direction);
    let (way, back) = (&sub.way[direction], &sub.way[1 - direction]);
    let seen_dss = |way: &TrackWay| u32::from(way.flags) & WayFlags::EMPTCP_WAY_DSS.0 != 0;
    match TrackState(sub.state.into()) {
        TrackState::EMPTCP_TRACK_ESTABLISHED => {}
        TrackState::EMPTCP_TRACK_CLOSING => bail!("{from} → {to} is closing"),
        _ => bail!("the handshake of {from} → {to} is not over"),
    }
    if sub.fallback != 0 {
        bail!("{from} → {to} is plain TCP");
    }
    if way.last == 0 || way.sequence.known == 0 {
        bail!("no packet from {from} to {to} has been seen: its sequence numbers are not known");
    }
    // Before its first DSS the receiver would take the frame for a fallback (RFC 8684, 3.7), unless the
    // frame has one. A DSS from there: the third ACK has arrived, without which it would be a RST.
    let is_known = seen_dss(way) || has_dss && seen_dss(back);
    if !is_known {
        bail!("no DSS from {from} to {to} has been seen: the subflow may not be established yet");
    }
    let place = Place::of(way, interfaces)?;
    Ok(Frame {
        ack: ack(from, to, way, back, now),
        place,
    })
}

fn ack(from: SocketAddr, to: SocketAddr, way: &TrackWay, back: &TrackWay, now: u64) -> Ack {
    // Both ends must have asked for timestamps (RFC 7323, 3.2).
    let has_timestamps = way.rtt.known != 0 && (back.rtt.known != 0 || back.last == 0);
    let echoed = match back.rtt.known {
        0 => way.ts_ecr,
        _ => back.rtt.latest,
    };
    let ahead = match now.saturating_sub(way.last) < MOVING {
        true => ahead(way, back),
        false => 0,
    };
    let latest = match ahead {
        0 => way.rtt.latest,
        _ => way.rtt.latest.wrapping_add(TICKS),
    };
    Ack {
        l2: way.l2[..usize::from(way.l2_len).min(way.l2.len())].to_vec(),
        from,
        to,
        seq: way.sequence.end.wrapping_add(ahead),
        ack: way.ack,
        window: way.window,
        ttl: way.ttl,
        // A pure ACK is not ECN-capable (RFC 3168, 6.1.4).
        tos: way.tos & !3,
        timestamps: has_timestamps.then_some((latest, echoed)),
    }
}

/// How far a frame goes ahead of what is sent, in bytes: half of what is left of the window of the
/// receiver. 0 where its own window is closed: the receiver would not learn from later packets, whose
/// numbers are lower, that it opens (RFC 9293, 3.10.7.4, SND.WL1).
fn ahead(way: &TrackWay, back: &TrackWay) -> u32 {
    if way.window == 0 || back.last == 0 {
        return 0;
    }
    let scale = match back.wscale {
        WSCALE_UNKNOWN => 0,
        scale => scale.min(14),
    };
    let window = u32::from(back.window) << scale;
    let under_way = way.sequence.end.wrapping_sub(back.ack);
    (window.saturating_sub(under_way) / 2).min(AHEAD)
}
