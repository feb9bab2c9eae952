//! Bulk transfers.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::info::{self, ConnectionInfo, Monitor, Observations, Way};
use super::payload::Payload;
use super::protocol::{Header, Operation, Verdict, receive_bulk, send_bulk};
use super::{DEFAULT_PORT, SocketOptions};
use crate::units::{Bytes, Time};

/// Transfers bytes over one connection, downwards unless told otherwise.
#[derive(Clone, Debug, clap::Args)]
pub struct Bulk {
    /// Address of the server
    pub server: IpAddr,
    /// Port of the server
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Client sends
    #[arg(long)]
    pub upload: bool,
    /// How much, for example 7MB
    #[arg(long, required_unless_present = "time")]
    pub bytes: Option<Bytes>,
    /// How long, for example 10s
    #[arg(long)]
    pub time: Option<Time>,
    /// Show what each subflow carries, this often (for example 500ms)
    #[arg(long)]
    pub interval: Option<Time>,
    /// Seed of the payload
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long to wait for the server to listen
    #[arg(long, default_value = "5s", value_name = "TIME")]
    pub patience: Time,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Sockets
    #[command(flatten)]
    pub socket: SocketOptions,
}

/// The outcome of a bulk transfer; it exists only when the payload was verified.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BulkResult {
    /// Payload bytes.
    pub bytes: u64,
    /// Seconds from the request to the last byte (download) or the receiver's verdict (upload).
    pub seconds: f64,
    /// Seconds to connect.
    pub connect_seconds: f64,
    /// Payload bits per second.
    pub goodput: f64,
    /// True: every byte was compared with the stream.
    pub verified: bool,
    /// State of the connection at the end.
    pub connection: ConnectionInfo,
    /// Subflows, over the whole time and by interval.
    #[serde(flatten)]
    pub observations: Observations,
}

impl Bulk {
    /// A download of `bytes` from `server` inside a namespace, with defaults for the rest.
    pub fn download(netns: &str, server: IpAddr, bytes: u64) -> Self {
        Self {
            server,
            port: DEFAULT_PORT,
            upload: false,
            bytes: Some(Bytes(bytes)),
            time: None,
            interval: None,
            seed: 1,
            patience: Time(Duration::from_secs(5)),
            json: true,
            socket: SocketOptions {
                netns: Some(netns.to_owned()),
                ..SocketOptions::default()
            },
        }
    }

    /// Runs the command: transfers, prints, fails on a mismatch.
    pub fn run(&self) -> Result<()> {
        self.socket.enter_namespace()?;
        let result = self.transfer()?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &result)?;
            writeln!(out)?;
        } else {
            for share in &result.observations.subflows {
                writeln!(out, "total         {share}")?;
            }
            writeln!(
                out,
                "{} bytes in {:.3} s: {:.2} Mbit/s, verified, {}",
                result.bytes,
                result.seconds,
                result.goodput / 1e6,
                describe(&result.connection)
            )?;
        }
        Ok(())
    }

    /// Transfers from the calling thread's namespace.
    pub fn transfer(&self) -> Result<BulkResult> {
        let server = SocketAddr::new(self.server, self.port);
        let (mut stream, begin) = self.socket.connect(server, self.patience.0)?;
        let connect_seconds = begin.elapsed().as_secs_f64();
        let way = if self.upload { Way::Out } else { Way::In };
        let json = self.json;
        let monitor = Monitor::start(&stream, way, self.interval.map(|t| t.0), move |interval| {
            if !json {
                for share in &interval.subflows {
                    println!("{:5.1}-{:<5.1} s {share}", interval.from, interval.to);
                }
            }
        })?;

        let limit = self.bytes.map_or(u64::MAX, |bytes| bytes.0);
        let time = self.time.unwrap_or_default().0;
        let mut payload = Payload::new(self.seed, 0);
        let operation = if self.upload {
            Operation::Upload
        } else {
            Operation::Download { bytes: limit, time }
        };
        let header = Header {
            operation,
            seed: self.seed,
            position: 0,
        };
        let begin = Instant::now();
        stream.write_all(&header.encode())?;
        let (bytes, seconds, connection, observations);
        if self.upload {
            bytes = send_bulk(&mut stream, &mut payload, limit, time).context("cannot send")?;
            let verdict = Verdict::receive(&mut stream).context("the server sent no verdict")?;
            seconds = begin.elapsed().as_secs_f64();
            connection = info::connection(&stream, !self.socket.tcp)?;
            observations = monitor.finish()?;
            verdict.check(bytes)?;
        } else {
            let verdict = receive_bulk(&mut stream, &mut payload, |_| ())?;
            seconds = begin.elapsed().as_secs_f64();
            connection = info::connection(&stream, !self.socket.tcp)?;
            observations = monitor.finish()?;
            // A mismatch is worth more than a failure to tell the server of it.
            let told = verdict.send(&mut stream);
            verdict.check(verdict.bytes)?;
            told?;
            bytes = verdict.bytes;
        }
        Ok(BulkResult {
            bytes,
            seconds,
            connect_seconds,
            goodput: bytes as f64 * 8.0 / seconds,
            verified: true,
            connection,
            observations,
        })
    }
}

/// The kind of a connection in words.
pub(super) fn describe(connection: &ConnectionInfo) -> String {
    match connection {
        ConnectionInfo {
            mptcp: true,
            subflows: 1,
            ..
        } => "MPTCP, 1 subflow".to_owned(),
        ConnectionInfo {
            mptcp: true,
            subflows,
            ..
        } => format!("MPTCP, {subflows} subflows"),
        ConnectionInfo { fallback: true, .. } => "FELL BACK to plain TCP".to_owned(),
        _ => "plain TCP".to_owned(),
    }
}
