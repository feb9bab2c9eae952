//! What has changed of the subflows that the tracker knows, from one look to the next: most of
//! ten thousand have not, and are neither decoded nor shown.

use std::collections::HashMap;
use std::mem::offset_of;

use anyhow::Context as _;
use anyhow::Result;

use super::inet_diag::mptcp_sockets;
use super::ring::epoch;
use super::tables;
use super::track::TrackMaps;
use crate::abi::SubflowKey;
use crate::abi::TrackSubflow;
use crate::abi::bytes_of;
use crate::abi::from_bytes;
use crate::interface::Interfaces;
use crate::pin::Home;
use crate::sys;
use crate::track::Ends;
use crate::track::Socket;
use crate::track::SubflowView;
use crate::track::subflow_key;
use crate::track::subflow_view;

/// Bytes of a key of the tracker.
type Key = [u8; size_of::<SubflowKey>()];

/// Sockets of the lower and the higher end, by keys without a zone: who has such addresses and ports
/// here is looked up once for each subflow, in the bytes of the map.
type Sockets<'s> = HashMap<Key, [Option<&'s Socket>; 2]>;

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
    known: HashMap<Key, Known>,
    round: u64,
    /// How many of them were there at the last look.
    count: usize,
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
        self.count = 0;
        self.now = sys::boot_time()?;
        self.time = epoch()?.wrapping_add(self.now);
        // Their pins: others, once a policy was deleted.
        let maps = TrackMaps::open(&Home::current(false)?)?;
        if let Some(maps) = &maps {
            let sockets = if kernel { mptcp_sockets()? } else { Vec::new() };
            let sockets = by_key(&sockets);
            let seen = &mut |key: &[u8], value: &[u8]| self.seen(key, value, &sockets);
            tables::each(&maps.subflows, seen).context("cannot read the subflows")?;
        }
        let mut gone = Vec::new();
        if self.count != self.known.len() {
            let round = self.round;
            self.known.retain(|key, known| {
                if known.seen != round {
                    let view = view(key, known, &Interfaces::default(), 0);
                    gone.extend(view.as_ref().map(subflow_key));
                }
                known.seen == round
            });
        }
        Ok((maps.is_some(), gone))
    }

    fn seen(&mut self, key: &[u8], value: &[u8], sockets: &Sockets<'_>) {
        let Ok(key) = Key::try_from(key) else {
            return;
        };
        let mut of_kernel = [None, None];
        if !sockets.is_empty() {
            let mut ends = key;
            ends[offset_of!(SubflowKey, zone)..].fill(0);
            of_kernel = sockets.get(&ends).copied().unwrap_or_default();
        }
        let round = self.round;
        let Some(before) = self.known.get_mut(&key) else {
            let known = Known {
                value: value.to_vec(),
                sockets: of_kernel.map(|socket| socket.cloned()),
                seen: round,
                changed: round,
            };
            self.known.insert(key, known);
            self.count += 1;
            return;
        };
        self.count += usize::from(before.seen != round);
        before.seen = round;
        if before.value != value {
            before.value.clear();
            before.value.extend_from_slice(value);
            before.changed = round;
        }
        if before.sockets.each_ref().map(Option::as_ref) != of_kernel {
            before.sockets = of_kernel.map(|socket| socket.cloned());
            before.changed = round;
        }
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
    ) -> impl Iterator<Item = SubflowView> {
        let changed = self.known.iter().filter(move |(_, k)| k.changed > round);
        changed.filter_map(move |(key, known)| view(key, known, interfaces, self.now))
    }
}

fn by_key(sockets: &[Socket]) -> Sockets<'_> {
    let mut found = Sockets::new();
    for socket in sockets {
        let (ends, own) = Ends::of(socket.local, socket.remote, 0);
        if let Ok(key) = bytes_of(&SubflowKey::from(&ends)).try_into() {
            let both: &mut [_; 2] = found.entry(key).or_default();
            both[usize::from(own)] = Some(socket);
        }
    }
    found
}

fn view(key: &[u8], known: &Known, interfaces: &Interfaces, now: u64) -> Option<SubflowView> {
    let ends = Ends::from(&from_bytes::<SubflowKey>(key)?);
    let sub: TrackSubflow = from_bytes(&known.value)?;
    let sockets = known.sockets.each_ref().map(Option::as_ref);
    Some(subflow_view(&ends, &sub, interfaces, sockets, now))
}
