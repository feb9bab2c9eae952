//! What programs are told that they have not asked for line by line: events, and subflows.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::notify::Notifier;
use super::peer::Peer;
use crate::cli::reader::Names;
use crate::cli::reader::PAUSE;
use crate::datapath::Metrics;
use crate::datapath::Monitor;
use crate::datapath::interfaces;
use crate::event::lost;
use crate::event::object;
use crate::interface::Interfaces;
use crate::track::push_subflow;

/// How soon events are tried again where there are none to be had.
const RETRY: Duration = Duration::from_secs(1);
/// How often the names of interfaces are learnt anew.
const LEARN: Duration = Duration::from_secs(1);
/// Subflows in one line.
const PART: usize = 256;
/// Keys of subflows that have gone which are kept for a program that does not read.
const GONE: usize = 65_536;

/// Tells programs what they want to know.
pub(super) struct Teller {
    interval: Duration,
    /// When subflows are looked at.
    due: Instant,
    metrics: Metrics,
    changed: Changed,
    interfaces: (Interfaces, Instant),
    events: Option<Events>,
    notifier: Notifier,
    /// When events are read, or tried again.
    events_due: Instant,
    /// What went wrong last, so that it is said once.
    error: Option<String>,
}

/// The reader of events.
struct Events {
    monitor: Monitor,
    names: Names,
    lost: u64,
}

/// What a line with subflows begins with. Several lines may make one round.
#[derive(Serialize)]
struct Head {
    event: &'static str,
    /// Number of the look.
    round: u64,
    /// Nanoseconds since 1970.
    time: u64,
    /// Whether the policy in force tracks.
    tracked: bool,
    /// What was known before is to be forgotten: all subflows follow.
    reset: bool,
    /// Looks before this one of which nothing was told.
    skipped: u64,
    /// Lines of this round that follow.
    more: usize,
}

/// Subflows that have changed since a look, as lines have them. Most programs are told the same.
#[derive(Debug, Default)]
struct Changed {
    /// The look; `None`: of another round.
    since: Option<u64>,
    text: Vec<u8>,
    /// Where each line's part of the text ends: there is at least one.
    ends: Vec<usize>,
}

impl Changed {
    /// Another round begins. Memory is kept for as much as there was.
    fn begin(&mut self) {
        self.since = None;
        self.text.shrink_to(2 * self.text.len());
    }

    fn fill(&mut self, since: u64, metrics: &Metrics, interfaces: &Interfaces) {
        if self.since == Some(since) {
            return;
        }
        self.since = Some(since);
        self.text.clear();
        self.ends.clear();
        let mut count = 0;
        for subflow in metrics.since(since, interfaces) {
            if count == PART {
                self.ends.push(self.text.len());
                count = 0;
            } else if count > 0 {
                self.text.push(b',');
            }
            push_subflow(&mut self.text, &subflow);
            count += 1;
        }
        self.ends.push(self.text.len());
    }

    /// What the lines have.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        let parts = begins.zip(&self.ends);
        parts.map(|(begin, end)| self.text.get(*begin..*end).unwrap_or_default())
    }
}

impl Teller {
    pub(super) fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            due: now,
            metrics: Metrics::default(),
            changed: Changed::default(),
            interfaces: (Interfaces::default(), now),
            events: None,
            notifier: Notifier::new(now),
            events_due: now,
            error: None,
        }
    }

    /// When it is to be called.
    pub(super) fn due(&self, peers: &[Peer]) -> Option<Instant> {
        let metrics = peers.iter().any(|p| p.wants.metrics).then_some(self.due);
        let events = wants_events(peers).then_some(self.events_due);
        let notices = self.notifier.due(peers);
        metrics.into_iter().chain(events).chain(notices).min()
    }

    pub(super) fn tell(&mut self, peers: &mut [Peer], now: Instant) {
        if !wants_events(peers) {
            // Others may read them.
            self.events = None;
        } else if now >= self.events_due
            && let Err(error) = self.events(peers, now)
        {
            self.events = None;
            self.events_due = now + RETRY;
            self.tell_error("events", &error, peers, |peer| peer.wants.of_packets());
        }
        if let Err(error) = self.notifier.tell(peers, now) {
            self.tell_error("events", &error, peers, |peer| {
                !peer.wants.events.is_empty()
            });
        }
        if peers.iter().any(|peer| peer.wants.metrics) && now >= self.due {
            // What took too long is left out, not made up for.
            let next = self.due + self.interval;
            self.due = Some(next)
                .filter(|next| *next > now)
                .unwrap_or(now + self.interval);
            if let Err(error) = self.subflows(peers, now) {
                self.tell_error("metrics", &error, peers, |peer| peer.wants.metrics);
            }
        }
    }

    fn tell_error(
        &mut self,
        what: &str,
        error: &anyhow::Error,
        peers: &mut [Peer],
        to: impl Fn(&Peer) -> bool,
    ) {
        let error = format!("{what}: {error:#}");
        if self.error.as_ref() == Some(&error) {
            return;
        }
        for peer in peers.iter_mut().filter(|peer| to(peer)) {
            peer.tell_error(&error);
        }
        self.error = Some(error);
    }

    fn events(&mut self, peers: &mut [Peer], now: Instant) -> Result<()> {
        self.events_due = now + PAUSE;
        if self.events.is_none() {
            self.events = Some(Events {
                monitor: Monitor::open()?,
                names: Names::learn()?,
                lost: 0,
            });
            self.error = None;
        }
        let Some(Events {
            monitor,
            names,
            lost: before,
        }) = &mut self.events
        else {
            return Ok(());
        };
        let goes_on = monitor.read(&mut |event, source| {
            let mut line = None;
            for peer in &mut *peers {
                if !peer.wants.events.contains(&event.r#type()) {
                    continue;
                }
                if line.is_none() {
                    let name = names.name_of(event.ifindex)?;
                    line = Some(format!("{}\n", object(event, &name, source)));
                }
                peer.push(line.as_deref().unwrap_or_default().as_bytes());
            }
            Ok(true)
        })?;
        let total = monitor.lost()?;
        if total > *before {
            let line = format!("{}\n", lost(monitor.now()?, total - *before, total));
            *before = total;
            for peer in peers.iter_mut().filter(|p| p.wants.of_packets()) {
                peer.push(line.as_bytes());
            }
        }
        if !goes_on {
            anyhow::bail!("the policy that was read is gone, or tells of no events any more");
        }
        Ok(())
    }

    fn subflows(&mut self, peers: &mut [Peer], now: Instant) -> Result<()> {
        if self.metrics.round() == 0 || now >= self.interfaces.1 {
            self.interfaces = (interfaces()?, now + LEARN);
        }
        if peers.iter().all(|p| !p.wants.metrics || !p.has_read()) {
            // Nobody would be told: later, more has changed.
            let wanting = peers.iter_mut().filter(|p| p.wants.metrics);
            wanting.for_each(|peer| peer.skipped += 1);
            return Ok(());
        }
        let kernel = peers.iter().any(|p| p.wants.metrics && p.wants.kernel);
        let (tracked, gone) = self.metrics.look(kernel)?;
        let round = self.metrics.round();
        self.changed.begin();
        for peer in peers.iter_mut().filter(|peer| peer.wants.metrics) {
            peer.gone.extend_from_slice(&gone);
            if !peer.has_read() {
                peer.skipped += 1;
                if peer.gone.len() > GONE {
                    peer.told = 0;
                    peer.gone.clear();
                }
                continue;
            }
            let since = if peer.wants.changed_only {
                peer.told
            } else {
                0
            };
            self.changed.fill(since, &self.metrics, &self.interfaces.0);
            let parts = self.changed.ends.len();
            for (part, subflows) in self.changed.parts().enumerate() {
                let head = serde_json::to_vec(&Head {
                    event: "metrics",
                    round,
                    time: self.metrics.time(),
                    tracked,
                    reset: since == 0 && part == 0,
                    skipped: peer.skipped,
                    more: parts - 1 - part,
                })?;
                let gone = match part {
                    0 => serde_json::to_vec(&peer.gone)?,
                    _ => b"[]".to_vec(),
                };
                let head = head.strip_suffix(b"}").unwrap_or_default();
                peer.push_round(&[
                    head,
                    b",\"subflows\":[",
                    subflows,
                    b"],\"gone\":",
                    &gone,
                    b"}\n",
                ]);
            }
            peer.told = round;
            peer.skipped = 0;
            peer.gone.clear();
        }
        Ok(())
    }
}

fn wants_events(peers: &[Peer]) -> bool {
    peers.iter().any(|peer| peer.wants.of_packets())
}
