//! SYNs of further subflows that are held (`include/emptcp/held_join.h`): how many wait, and how many
//! clients have given up.

use anyhow::Context as _;
use anyhow::Result;
use serde::Serialize;

use super::state;
use super::tables;
use super::track::TrackMaps;
use crate::abi::HeldJoin;
use crate::abi::HeldState;
use crate::abi::from_bytes;
use crate::pin::Home;
use crate::sys;
use crate::track::Ends;

/// SYNs that are held and were not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldJoins {
    /// The client still waits for an answer.
    pub waiting: usize,
    /// It has given up: the connection has no such subflow, and nothing asks for it again.
    pub expired: usize,
}

/// What is known of them; those that are forgotten do not count.
pub(super) fn held_joins(home: &Home) -> Result<HeldJoins> {
    let mut held = HeldJoins::default();
    let Some(map) = state::kept(home, "held_joins")? else {
        return Ok(held);
    };
    let maps = TrackMaps::open(home)?;
    let now = sys::boot_time()?;
    for (_, value) in tables::read(&map).context("cannot read SYNs that are held")? {
        let Some(join) = from_bytes::<HeldJoin>(&value) else {
            continue;
        };
        match join.state {
            HeldState::EMPTCP_HELD_WAITING if now <= join.until => held.waiting += 1,
            // A retry may have met no chain that holds it.
            HeldState::EMPTCP_HELD_WAITING if has_passed(&join, maps.as_ref())? => {}
            HeldState::EMPTCP_HELD_WAITING | HeldState::EMPTCP_HELD_EXPIRED => held.expired += 1,
            _ => {}
        }
    }
    Ok(held)
}

/// Whether its subflow is there all the same.
fn has_passed(join: &HeldJoin, maps: Option<&TrackMaps>) -> Result<bool> {
    let (ends, _) = Ends::of_packet(&join.subflow);
    match maps {
        Some(maps) => Ok(TrackMaps::subflow(&maps.subflows, &ends)?.is_some()),
        None => Ok(false),
    }
}
