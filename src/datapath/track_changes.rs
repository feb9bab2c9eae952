//! What has changed of the subflows that the tracker knows, from one look to the next: most of
//! ten thousand have not, and are neither decoded nor shown.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use anyhow::Result;
use serde::Serialize;

use super::inet_diag::mptcp_sockets;
use super::ring::epoch;
use super::tables;
use super::track::TrackMaps;
use crate::abi::SubflowKey;
use crate::abi::TrackSubflow;
use crate::abi::from_bytes;
use crate::interface::Interfaces;
use crate::pin::Home;
use crate::sys;
use crate::track::Ends;
use crate::track::Socket;
use crate::track::SubflowView;
use crate::track::subflow_view;

/// A subflow, with the key that it has in tables: as its SYN went.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Metric {
    subflow: String,
    #[serde(flatten)]
    view: SubflowView,
}

/// Sockets by their own end and the other one.
type Sockets<'s> = HashMap<(SocketAddr, SocketAddr), &'s Socket>;

/// A subflow as it was at the last look.
#[derive(Debug)]
struct Known {
    value: Vec<u8>,
    /// Of its lower and its higher end, where they are here.
    sockets: [Option<Socket>; 2],
    /// The look at which it was seen last, and the one at which it was otherwise than before.
    seen: u64,
    changed: u64,
}

/// Looks at the subflows again and again.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    known: HashMap<Vec<u8>, Known>,
    round: u64,
    /// The time of the last look, on the clock of the tracker, and in nanoseconds since 1970.
    now: u64,
    time: u64,
}

impl Metrics {
    /// Looks. Whether the policy in force tracks, and the keys of subflows that have gone. `kernel`:
    /// also at what the kernel knows of sockets.
    ///
    /// # Errors
    ///
    /// No privilege; the kernel's.
    pub(crate) fn look(&mut self, kernel: bool) -> Result<(bool, Vec<String>)> {
        self.round += 1;
        self.now = sys::boot_time()?;
        self.time = epoch()?.wrapping_add(self.now);
        // Their pins: others, once a policy was deleted.
        let maps = TrackMaps::open(&Home::current(false)?)?;
        if let Some(maps) = &maps {
            let sockets = if kernel { mptcp_sockets()? } else { Vec::new() };
            let sockets: Sockets<'_> = sockets.iter().map(|s| ((s.local, s.remote), s)).collect();
            let seen = &mut |key: &[u8], value: &[u8]| self.seen(key, value, &sockets);
            tables::each(&maps.subflows, seen).context("cannot read the subflows")?;
        }
        let mut gone = Vec::new();
        let round = self.round;
        self.known.retain(|key, known| {
            if known.seen != round {
                gone.extend(metric(key, known, &Interfaces::default(), 0).map(|m| m.subflow));
            }
            known.seen == round
        });
        Ok((maps.is_some(), gone))
    }

    fn seen(&mut self, key: &[u8], value: &[u8], sockets: &Sockets<'_>) {
        let mut of_kernel = [None, None];
        if !sockets.is_empty()
            && let Some(raw) = from_bytes::<SubflowKey>(key)
        {
            let [lower, higher] = Ends::from(&raw).ends;
            of_kernel = [(lower, higher), (higher, lower)].map(|ends| sockets.get(&ends).copied());
        }
        let before = self.known.get_mut(key);
        if let Some(before) = before
            && before.value == value
            && before.sockets.each_ref().map(Option::as_ref) == of_kernel
        {
            before.seen = self.round;
            return;
        }
        let known = Known {
            value: value.to_vec(),
            sockets: of_kernel.map(|socket| socket.cloned()),
            seen: self.round,
            changed: self.round,
        };
        self.known.insert(key.to_vec(), known);
    }

    /// When the last look was, in nanoseconds since 1970.
    pub(crate) fn time(&self) -> u64 {
        self.time
    }

    /// Looks so far: what to give [`Metrics::since`] later.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Subflows that were otherwise at a look behind `round`; all of them behind 0.
    pub(crate) fn since(
        &self,
        round: u64,
        interfaces: &Interfaces,
    ) -> impl Iterator<Item = Metric> {
        let changed = self.known.iter().filter(move |(_, k)| k.changed > round);
        changed.filter_map(move |(key, known)| metric(key, known, interfaces, self.now))
    }
}

fn metric(key: &[u8], known: &Known, interfaces: &Interfaces, now: u64) -> Option<Metric> {
    let ends = Ends::from(&from_bytes::<SubflowKey>(key)?);
    let sub: TrackSubflow = from_bytes(&known.value)?;
    let sockets = known.sockets.each_ref().map(Option::as_ref);
    Some(subflow_view(&ends, &sub, interfaces, sockets, now).into())
}

impl From<SubflowView> for Metric {
    fn from(view: SubflowView) -> Self {
        let end = |end: &crate::track::EndView| SocketAddr::new(end.address, end.port);
        Self {
            subflow: format!("{}-{}", end(&view.from), end(&view.to)),
            view,
        }
    }
}
