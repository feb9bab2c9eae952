//! Announcements that were suppressed (`include/emptcp/suppressed.h`), and wait for a packet once a
//! policy brings them back.

use anyhow::Context as _;
use anyhow::Result;

use super::pending::PENDING;
use super::pending::Waiting;
use super::state;
use super::stored::Stored;
use super::tables;
use super::track::TrackMaps;
use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::StashList;
use crate::abi::StashOwner;
use crate::abi::TrackState;
use crate::abi::TrackSubflow;
use crate::abi::from_bytes;
use crate::module::Registry;
use crate::pin::Home;
use crate::sys;
use crate::track::ConnKey;
use crate::track::Ends;
use crate::track::Track;
use crate::track::connection_of;

/// Map of announcements that were suppressed.
const SUPPRESSED: &str = "stash_lists";

/// Who has announced what was suppressed waits for a packet, which shall meet the chains of the policy
/// that has just come in force: where a step of it brings that back.
pub(super) fn applied(home: &Home, now: &Stored, registry: &Registry) -> Result<()> {
    let restores = |name: &str| {
        let index = registry.modules().iter().position(|m| m.name == name);
        let maps = index.map(|index| registry.object(index).own_maps());
        let kept = maps.into_iter().flatten();
        let names: Vec<&str> = kept.map(|map| map.name.as_str()).collect();
        names.contains(&PENDING) && names.contains(&SUPPRESSED)
    };
    let mut steps = now.classes.iter().flat_map(|class| &class.steps);
    if !steps.any(|step| restores(&step.module)) {
        return Ok(());
    }
    let owners = suppressed(home)?;
    if owners.is_empty() {
        return Ok(());
    }
    let (Some(waiting), Some(maps)) = (Waiting::open(home)?, TrackMaps::open(home)?) else {
        return Ok(());
    };
    let track = maps.read()?;
    let at = sys::boot_time()?;
    for (ends, direction) in owners.iter().flat_map(|owner| sends(owner, &track)) {
        waiting.note(&ends, direction, at)?;
    }
    Ok(())
}

/// Whose announcements were suppressed, and not brought back.
fn suppressed(home: &Home) -> Result<Vec<StashOwner>> {
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
fn sends(owner: &StashOwner, track: &Track) -> Vec<(Ends, usize)> {
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
