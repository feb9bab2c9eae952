//! What the kernel says of a connection and its subflows.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::sys;

/// The state of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Whether it is MPTCP (otherwise plain TCP, wanted or fallen back to).
    pub mptcp: bool,
    /// Whether MPTCP was wanted and the connection fell back to plain TCP.
    pub fallback: bool,
    /// Local token of the connection, as `ss` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    /// Subflows that live; 1 for plain TCP.
    pub subflows: usize,
    /// Bytes sent again at the level of the connection (on another subflow).
    pub bytes_retransmitted: u64,
}

/// A subflow and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubflowInfo {
    /// Number of the subflow within the connection; 0 for plain TCP.
    pub id: u32,
    /// Own address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Bytes sent and acknowledged.
    pub bytes_acked: u64,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmissions: u32,
}

/// Reads the state of a connection. `wanted` says whether MPTCP was asked for.
pub fn connection(stream: &TcpStream, wanted: bool) -> Result<ConnectionInfo> {
    /// MPTCP_INFO_FLAG_FALLBACK of linux/mptcp.h.
    const FALLBACK: u32 = 1;
    Ok(match sys::mptcp_info(stream.as_fd()) {
        Ok(info) if info.flags & FALLBACK == 0 => ConnectionInfo {
            mptcp: true,
            fallback: false,
            token: Some(info.token),
            subflows: subflows(stream)?.len(),
            bytes_retransmitted: info.bytes_retrans,
        },
        // EOPNOTSUPP or ENOPROTOOPT: no MPTCP on this connection (any more).
        _ => ConnectionInfo {
            mptcp: false,
            fallback: wanted,
            token: None,
            subflows: 1,
            bytes_retransmitted: 0,
        },
    })
}

/// Reads the subflows of a connection; plain TCP counts as one.
pub fn subflows(stream: &TcpStream) -> Result<Vec<SubflowInfo>> {
    let row = |id, local, remote, tcp: &sys::TcpInfo| SubflowInfo {
        id,
        local,
        remote,
        bytes_received: tcp.bytes_received,
        bytes_acked: tcp.bytes_acked,
        rtt_us: tcp.rtt,
        retransmissions: tcp.total_retrans,
    };
    if let Ok(subflows) = sys::mptcp_full_info(stream.as_fd()) {
        return Ok(subflows
            .iter()
            .map(|s| row(s.id, s.local, s.remote, &s.tcp))
            .collect());
    }
    let tcp = sys::tcp_info(stream.as_fd())?;
    Ok(vec![row(
        0,
        plain(stream.local_addr()?),
        plain(stream.peer_addr()?),
        &tcp,
    )])
}

/// IPv4-mapped addresses as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Which way the payload goes, seen from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Counted by `bytes_received`.
    In,
    /// Counted by `bytes_acked`.
    Out,
}

/// What a subflow carried in a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// The subflow, with its counters at the end of the time.
    #[serde(flatten)]
    pub subflow: SubflowInfo,
    /// Bytes carried in the time.
    pub bytes: u64,
    /// The same as bits per second.
    pub bits_per_second: f64,
}

/// What the subflows carried in one interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// Begin, in seconds since the transfer began.
    pub from: f64,
    /// End, in seconds.
    pub to: f64,
    /// Every subflow that lived at its end.
    pub subflows: Vec<Share>,
}

/// Everything [`Monitor`] saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Observations {
    /// Interval by interval.
    pub intervals: Vec<Interval>,
    /// Every subflow that was ever seen, over the whole time.
    pub subflows: Vec<Share>,
}

/// Watches a connection from a thread of its own.
pub struct Monitor {
    stop: Sender<()>,
    thread: JoinHandle<Observations>,
}

/// Counters by subflow.
type Known = BTreeMap<(u32, SocketAddr, SocketAddr), SubflowInfo>;

impl Monitor {
    /// Begins to watch. With an `interval`, `show` hears of each one as it ends.
    pub fn start(
        stream: &TcpStream,
        way: Way,
        interval: Option<Duration>,
        mut show: impl FnMut(&Interval) + Send + 'static,
    ) -> Result<Self> {
        /// Without intervals: often enough not to miss a subflow that lives shortly.
        const QUIETLY: Duration = Duration::from_millis(200);
        let stream = stream.try_clone()?;
        let begin = Instant::now();
        let first = counters(&stream);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut observations = Observations::default();
            let (mut last, mut last_time) = (first.clone(), 0.0);
            let mut all = first.clone();
            let period = interval.unwrap_or(QUIETLY);
            let mut next = begin + period;
            loop {
                let wait = next.saturating_duration_since(Instant::now());
                let end = !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout));
                next += period;
                let now = begin.elapsed().as_secs_f64();
                let current = counters(&stream);
                all.extend(current.iter().map(|(key, value)| (*key, value.clone())));
                // The rest at the end is shown unless it is too short to say anything.
                if let Some(interval) = interval
                    && (!end || now - last_time > 0.2 * interval.as_secs_f64())
                {
                    let row = Interval {
                        from: last_time,
                        to: now,
                        subflows: shares(way, &last, &current, now - last_time),
                    };
                    show(&row);
                    observations.intervals.push(row);
                    (last, last_time) = (current, now);
                }
                if end {
                    observations.subflows = shares(way, &first, &all, now);
                    return observations;
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends watching.
    pub fn finish(self) -> Result<Observations> {
        // Fails only when the thread has ended, which join reports.
        let _ = self.stop.send(());
        self.thread
            .join()
            .map_err(|_| anyhow!("the monitor panicked"))
    }
}

fn counters(stream: &TcpStream) -> Known {
    subflows(stream)
        .unwrap_or_default()
        .into_iter()
        .map(|subflow| ((subflow.id, subflow.local, subflow.remote), subflow))
        .collect()
}

fn shares(way: Way, before: &Known, after: &Known, seconds: f64) -> Vec<Share> {
    let bytes = |subflow: &SubflowInfo| match way {
        Way::In => subflow.bytes_received,
        Way::Out => subflow.bytes_acked,
    };
    after
        .iter()
        .map(|(key, subflow)| {
            let carried = bytes(subflow).saturating_sub(before.get(key).map_or(0, bytes));
            let bits_per_second = if seconds > 0.0 {
                carried as f64 * 8.0 / seconds
            } else {
                0.0
            };
            Share {
                subflow: subflow.clone(),
                bytes: carried,
                bits_per_second,
            }
        })
        .collect()
}

impl std::fmt::Display for Share {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "subflow {} > {}  {:.1} Mbit/s",
            self.subflow.local,
            self.subflow.remote,
            self.bits_per_second / 1e6
        )
    }
}
