//! Requests and responses.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::bulk::describe;
use super::info::{self, ConnectionInfo, SubflowInfo};
use super::payload::Payload;
use super::protocol::{HEADER, Header, Operation, receive_plain, send_plain};
use super::{DEFAULT_PORT, SocketOptions};
use crate::units::{Bytes, Time};

/// Sends requests and waits for their responses.
#[derive(Clone, Debug, clap::Args)]
pub struct Request {
    /// Address of the server
    pub server: IpAddr,
    /// Port of the server
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Exchanges per client
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub count: usize,
    /// Size of a request, at least 48
    #[arg(long, default_value = "100", value_name = "BYTES")]
    pub request: Bytes,
    /// Size of a response; several, separated by commas, take turns
    #[arg(
        long,
        default_value = "100KB",
        value_name = "BYTES",
        value_delimiter = ','
    )]
    pub response: Vec<Bytes>,
    /// Pause between a response and the next request
    #[arg(long, default_value = "0s", value_name = "TIME")]
    pub pause: Time,
    /// One connection for all exchanges of a client
    #[arg(long)]
    pub keep_alive: bool,
    /// Clients at the same time
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub parallel: usize,
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

/// One exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// Which of the parallel clients.
    pub client: usize,
    /// Bytes of the request.
    pub request: u64,
    /// Bytes of the response.
    pub response: u64,
    /// Seconds to connect; absent on a connection kept alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<f64>,
    /// Seconds from the request's first byte to the response's last, connecting included.
    pub seconds: f64,
}

/// The outcome of all exchanges; it exists only when every payload was verified.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestResult {
    /// All exchanges, client by client, in order.
    pub exchanges: Vec<Exchange>,
    /// Median of their seconds.
    pub median_seconds: f64,
    /// 90th percentile of their seconds.
    pub p90_seconds: f64,
    /// True: every byte was compared with the stream.
    pub verified: bool,
    /// State of each connection at its end.
    pub connections: Vec<ConnectionInfo>,
    /// Subflows of each connection at its end.
    pub subflows: Vec<Vec<SubflowInfo>>,
}

#[derive(Default)]
struct ClientResult {
    exchanges: Vec<Exchange>,
    connections: Vec<ConnectionInfo>,
    subflows: Vec<Vec<SubflowInfo>>,
}

impl Request {
    /// Runs the command: exchanges, prints, fails on a mismatch.
    pub fn run(&self) -> Result<()> {
        self.socket.enter_namespace()?;
        let result = self.exchange()?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &result)?;
            writeln!(out)?;
            return Ok(());
        }
        for exchange in &result.exchanges {
            writeln!(
                out,
                "{} > {} bytes: {:.1} ms",
                exchange.request,
                exchange.response,
                exchange.seconds * 1e3
            )?;
        }
        let connection = result.connections.last().map(describe).unwrap_or_default();
        writeln!(
            out,
            "{} exchanges: median {:.1} ms, 90 % {:.1} ms, verified, {connection}",
            result.exchanges.len(),
            result.median_seconds * 1e3,
            result.p90_seconds * 1e3,
        )?;
        Ok(())
    }

    /// Makes all exchanges from the calling thread's namespace.
    pub fn exchange(&self) -> Result<RequestResult> {
        if self.request.0 < HEADER as u64 {
            bail!(
                "a request of {}: expected at least {HEADER} bytes",
                self.request
            );
        }
        if self.count == 0 || self.parallel == 0 || self.response.is_empty() {
            bail!("nothing to do: expected at least one exchange");
        }
        let mut clients = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.parallel)
                .map(|client| scope.spawn(move || self.client(client)))
                .collect();
            for thread in threads {
                let result = thread.join().map_err(|_| anyhow!("a client panicked"));
                clients.push(result.and_then(|result| result));
            }
        });
        let mut all = ClientResult::default();
        for client in clients {
            let client = client?;
            all.exchanges.extend(client.exchanges);
            all.connections.extend(client.connections);
            all.subflows.extend(client.subflows);
        }
        let mut sorted: Vec<f64> = all
            .exchanges
            .iter()
            .map(|exchange| exchange.seconds)
            .collect();
        sorted.sort_by(f64::total_cmp);
        Ok(RequestResult {
            median_seconds: quantile(&sorted, 0.5),
            p90_seconds: quantile(&sorted, 0.9),
            exchanges: all.exchanges,
            verified: true,
            connections: all.connections,
            subflows: all.subflows,
        })
    }

    fn client(&self, client: usize) -> Result<ClientResult> {
        let server = SocketAddr::new(self.server, self.port);
        let mut result = ClientResult::default();
        let mut kept: Option<TcpStream> = None;
        // Every exchange has its own part of the stream.
        let mut position = (client as u64) << 40;
        for (number, response) in self.response.iter().cycle().take(self.count).enumerate() {
            if number > 0 {
                std::thread::sleep(self.pause.0);
            }
            let (mut stream, begin, connect_seconds) = match kept.take() {
                Some(stream) => (stream, Instant::now(), None),
                None => {
                    let patience = if number == 0 {
                        self.patience.0
                    } else {
                        Duration::ZERO
                    };
                    let (stream, begin) = self.socket.connect(server, patience)?;
                    (stream, begin, Some(begin.elapsed().as_secs_f64()))
                }
            };
            let (request, response) = (self.request.0, response.0);
            let operation = Operation::Exchange { request, response };
            let header = Header {
                operation,
                seed: self.seed,
                position,
            };
            let mut payload = Payload::new(self.seed, position);
            stream.write_all(&header.encode()).context("cannot send")?;
            send_plain(&mut stream, &mut payload, request - HEADER as u64)
                .context("cannot send")?;
            receive_plain(&mut stream, &mut payload, response)
                .with_context(|| format!("exchange {}", number + 1))?;
            let seconds = begin.elapsed().as_secs_f64();
            result.exchanges.push(Exchange {
                client,
                request,
                response,
                connect_seconds,
                seconds,
            });
            position += request + response;
            if self.keep_alive && number + 1 < self.count {
                kept = Some(stream);
            } else {
                result
                    .connections
                    .push(info::connection(&stream, !self.socket.tcp)?);
                result.subflows.push(info::subflows(&stream)?);
            }
        }
        Ok(result)
    }
}

/// The nearest-rank quantile of a sorted row.
fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let row: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!((quantile(&row, 0.5), quantile(&row, 0.9)), (5.0, 9.0));
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
