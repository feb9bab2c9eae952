//! When the tracker's entries are forgotten that no packet removes.

use std::collections::HashMap;

use super::ConnKey;
use super::Track;
use super::connection_of;
use super::last_seen;
use crate::abi::TrackSubflow;
use crate::abi::WayFlags;

/// How long entries stay without a packet, in nanoseconds; the defaults are those of the kernel's
/// connection tracking (Documentation/networking/nf_conntrack-sysctl.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Established subflows: `nf_conntrack_tcp_timeout_established`.
    pub(crate) established: u64,
    /// Subflows of which one end at least has sent FIN: `nf_conntrack_tcp_timeout_fin_wait`.
    pub(crate) closing: u64,
    /// Handshakes: `nf_conntrack_tcp_timeout_syn_sent`.
    pub(crate) half_open: u64,
    /// Connections without subflows: there may be another MP_JOIN.
    pub(crate) connection: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            established: 5 * 24 * 3600 * SECOND,
            closing: 120 * SECOND,
            half_open: 120 * SECOND,
            connection: 60 * SECOND,
        }
    }
}

impl Timeouts {
    /// Whether an established subflow has been idle for too long.
    pub(crate) fn is_over(&self, sub: &TrackSubflow, now: u64) -> bool {
        let fin = WayFlags::EMPTCP_WAY_FIN.0;
        let closing = sub.way.iter().any(|way| u32::from(way.flags) & fin != 0);
        // Of either, the shorter: who sets the one to a second means all.
        let limit = match closing {
            true => self.closing.min(self.established),
            false => self.established,
        };
        now.saturating_sub(last_seen(sub)) > limit
    }

    /// Whether a handshake has been idle for too long.
    pub(crate) fn is_stuck(&self, sub: &TrackSubflow, now: u64) -> bool {
        now.saturating_sub(last_seen(sub)) > self.half_open
    }
}

/// Connections that no subflow belongs to for long enough, by what was read of all: gone for good,
/// and those that the tracker believes to have some yet.
pub(crate) fn unused_connections(
    track: &Track,
    timeouts: &Timeouts,
    now: u64,
) -> (Vec<ConnKey>, Vec<ConnKey>) {
    let mut used: HashMap<ConnKey, u32> = HashMap::new();
    for sub in track.subflows.values().chain(track.half_open.values()) {
        if let Some(key) = connection_of(sub) {
            *used.entry(key).or_default() += 1;
        }
    }
    let over = |time: u64| now.saturating_sub(time) > timeouts.connection;
    let (mut gone, mut lost) = (Vec::new(), Vec::new());
    for (key, conn) in &track.connections {
        if used.contains_key(key) {
            continue;
        }
        if conn.live == 0 && over(conn.closed.max(conn.created)) {
            gone.push(*key);
        } else if conn.live != 0 && over(conn.created) {
            lost.push(*key);
        }
    }
    (gone, lost)
}
