//! What the tracker remembers of subflows and connections (`include/emptcp/track.h`): how it is
//! shown, taken over from the kernel, and forgotten. Pure: `datapath` reads and writes the maps.

mod connection;
mod ends;
mod expiry;
mod line;
mod socket;
mod subflow;
mod take_over;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::connection::ConnectionView;
pub(crate) use self::connection::connection_views;
pub(crate) use self::ends::Ends;
pub(crate) use self::expiry::Timeouts;
pub(crate) use self::expiry::unused_connections;
pub(crate) use self::line::push_subflow;
pub(crate) use self::line::subflow_key;
pub(crate) use self::socket::Socket;
pub(crate) use self::socket::SocketFlags;
pub use self::subflow::EndView;
pub use self::subflow::FallbackView;
pub use self::subflow::KernelView;
pub use self::subflow::SubflowView;
pub(crate) use self::subflow::subflow_view;
pub(crate) use self::subflow::subflow_views;
pub(crate) use self::take_over::Found;
pub(crate) use self::take_over::found;
pub(crate) use self::take_over::zone_of;
use crate::abi::TrackConn;
use crate::abi::TrackFlags;
use crate::abi::TrackKey;
use crate::abi::TrackSubflow;

/// Key of a connection: its zone, and the token of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnKey {
    pub(crate) zone: u32,
    pub(crate) token: u32,
}

impl From<TrackKey> for ConnKey {
    fn from(key: TrackKey) -> Self {
        let TrackKey { token, zone } = key;
        Self { zone, token }
    }
}

impl From<ConnKey> for TrackKey {
    fn from(key: ConnKey) -> Self {
        let ConnKey { zone, token } = key;
        Self { token, zone }
    }
}

/// What the tracker remembers, at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    /// Those whose handshake is proven.
    pub(crate) subflows: BTreeMap<Ends, TrackSubflow>,
    /// The others.
    pub(crate) half_open: BTreeMap<Ends, TrackSubflow>,
    pub(crate) connections: BTreeMap<ConnKey, TrackConn>,
}

/// Whether a subflow has a flag.
pub(crate) fn has(sub: &TrackSubflow, flag: TrackFlags) -> bool {
    u32::from(sub.flags) & flag.0 != 0
}

/// The connection of a subflow, where it is known.
pub(crate) fn connection_of(sub: &TrackSubflow) -> Option<ConnKey> {
    has(sub, TrackFlags::EMPTCP_TRACK_TIED).then(|| sub.conn.into())
}

/// Adds to its connection what a subflow has carried and has not told yet.
pub(crate) fn tell(conn: &mut TrackConn, sub: &TrackSubflow) {
    for (direction, way) in sub.way.iter().enumerate() {
        let from_client = direction == usize::from(sub.client);
        conn.bytes[usize::from(!from_client)] += u64::from(way.untold);
    }
}

/// When the last packet of a subflow was, on the clock of the tracker; else its first one.
pub(crate) fn last_seen(sub: &TrackSubflow) -> u64 {
    let last = sub.way.iter().map(|way| way.last).max();
    last.unwrap_or_default().max(sub.created)
}

/// A token as people write it.
pub(crate) fn token_text(token: u32) -> String {
    format!("0x{token:08x}")
}

/// Milliseconds from a time to another; none where the clocks of two CPUs differ.
fn milliseconds(from: u64, to: u64) -> u64 {
    to.saturating_sub(from) / 1_000_000
}
