//! What the tracker has of the subflow and the connection of an event.

use anyhow::Result;

use super::track::TrackMaps;
use crate::event::Event;
use crate::event::Seen;
use crate::pin::Home;
use crate::track::ConnKey;
use crate::track::Ends;
use crate::track::connection_of;

/// Looks things up in the tracker's maps.
#[derive(Debug)]
pub(crate) struct TrackLook(Option<TrackMaps>);

impl TrackLook {
    /// The maps that are there.
    ///
    /// # Errors
    ///
    /// No privilege; maps of another version.
    pub(crate) fn open() -> Result<Self> {
        TrackMaps::open(&Home::current(false)?).map(Self)
    }

    /// What is there now. What began behind the event is of another subflow or connection with the
    /// same ports or token: nothing is known then.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn look(&self, event: &Event) -> Result<Seen> {
        let Some(maps) = &self.0 else {
            return Ok(Seen::default());
        };
        let (ends, from) = Ends::of(event.src, event.dst, event.zone);
        let mut subflow = TrackMaps::subflow(&maps.subflows, &ends)?;
        if subflow.is_none() {
            subflow = TrackMaps::subflow(&maps.half_open, &ends)?;
        }
        let subflow = subflow.filter(|sub| sub.created <= event.boot_time);
        let by_token = event.token.map(|token| ConnKey {
            zone: event.zone,
            token,
        });
        let connection = match by_token.or_else(|| subflow.as_ref().and_then(connection_of)) {
            Some(key) => maps.whole_connection(key)?,
            None => None,
        };
        Ok(Seen {
            subflow: subflow.map(|sub| (sub, from)),
            connection: connection.filter(|conn| conn.created <= event.boot_time),
        })
    }
}
