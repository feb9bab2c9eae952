//! Announcements that were suppressed (`include/emptcp/suppressed.h`).

use anyhow::Context as _;
use anyhow::Result;

use super::state;
use super::tables;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::StashList;
use crate::abi::StashOwner;
use crate::abi::TrackState;
use crate::abi::TrackSubflow;
use crate::abi::from_bytes;
use crate::pin::Home;
use crate::track::ConnKey;
use crate::track::Ends;
use crate::track::Track;
use crate::track::connection_of;

/// Map of announcements that were suppressed.
pub(super) const SUPPRESSED: &str = "stash_lists";

/// Whose announcements were suppressed, and not brought back.
pub(super) fn suppressed(home: &Home) -> Result<Vec<StashOwner>> {
    let Some(map) = state::kept(home, SUPPRESSED)? else {
        return Ok(Vec::new());
    };
    let entries = tables::read(&map).context("cannot read what was suppressed")?;
    let owners = entries.iter().filter_map(|(key, value)| {
        let list: StashList = from_bytes(value)?;
        (list.ids != 0).then(|| from_bytes(key)).flatten()
    });
    Ok(owners.collect())
}

/// The subflows, and directions of them, on which an owner sends.
pub(super) fn sends(owner: &StashOwner, track: &Track) -> Vec<(Ends, usize)> {
    let is_open = |sub: &TrackSubflow| {
        TrackState(sub.state.into()) == TrackState::EMPTCP_TRACK_ESTABLISHED && sub.fallback == 0
    };
    if owner.has_token == 0 {
        let (ends, direction) = Ends::of_packet(&owner.subflow);
        let known = track.subflows.get(&ends).filter(|sub| is_open(sub));
        return known
            .map(|_| (ends, usize::from(direction)))
            .into_iter()
            .collect();
    }
    let key = ConnKey {
        zone: owner.subflow.zone,
        token: owner.token,
    };
    let mine = (track.subflows.iter()).filter(|(_, sub)| {
        connection_of(sub) == Some(key) && is_open(sub) && sub.client != DIRECTION_UNKNOWN
    });
    mine.map(|(ends, sub)| (*ends, usize::from(sub.client & 1 ^ owner.by_server)))
        .collect()
}
