//! The server of all traffic commands.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::payload::Payload;
use super::protocol::{
    HEADER, Header, Operation, Verdict, receive_bulk, receive_plain, send_bulk, send_plain,
};
use super::{DEFAULT_PORT, SocketOptions, info, prepare};

/// Listens and answers `bulk` and `request`.
#[derive(Clone, Debug, clap::Args)]
pub struct Serve {
    /// Port to listen on
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// End after so many connections; fails if one of them did
    #[arg(long, value_name = "N")]
    pub connections: Option<u64>,
    /// Print one JSON object per connection
    #[arg(long)]
    pub json: bool,
    /// Sockets
    #[command(flatten)]
    pub socket: SocketOptions,
}

/// A connection the server saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServedConnection {
    /// The client.
    pub peer: SocketAddr,
    /// Transfers on the connection.
    pub transfers: u64,
    /// Payload bytes sent.
    pub sent: u64,
    /// Payload bytes received.
    pub received: u64,
    /// Seconds from accept to end.
    pub seconds: f64,
    /// State of the connection at the end of its last transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<info::ConnectionInfo>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Serve {
    /// Serves until the wanted number of connections has ended, or for ever.
    pub fn run(&self) -> Result<()> {
        self.socket.enter_namespace()?;
        let listener = self.socket.listen(self.port)?;
        eprintln!("emptcp-lab: serving on port {}", self.port);
        let failed = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        let mut accepted = 0;
        while self.connections.is_none_or(|wanted| accepted < wanted) {
            let (socket, _) = match listener.accept() {
                Ok(connection) => connection,
                // The client gave up before its turn.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => continue,
                Err(error) => return Err(error).context("cannot accept a connection"),
            };
            accepted += 1;
            let stream = TcpStream::from(socket);
            let (json, wanted) = (self.json, !self.socket.tcp);
            let (failed, ended) = (Arc::clone(&failed), Arc::clone(&ended));
            let thread = std::thread::spawn(move || {
                let served = serve_connection(stream, wanted);
                let failure = served
                    .as_ref()
                    .map_or(true, |served| served.error.is_some());
                failed.fetch_or(failure, Ordering::Relaxed);
                ended.fetch_add(1, Ordering::Relaxed);
                match served {
                    Ok(served) => print(&served, json),
                    Err(error) => eprintln!("emptcp-lab: {error:#}"),
                }
            });
            if self.connections.is_some() {
                threads.push(thread);
            }
        }
        for thread in threads {
            if thread.join().is_err() {
                bail!("a connection's thread panicked");
            }
        }
        if failed.load(Ordering::Relaxed) {
            bail!("a connection failed");
        }
        Ok(())
    }
}

fn print(served: &ServedConnection, json: bool) {
    let mut out = std::io::stdout().lock();
    let line = if json {
        serde_json::to_string(served).unwrap_or_default()
    } else {
        let subflows = served.connection.as_ref().map_or(0, |c| c.subflows);
        let how = match &served.connection {
            Some(connection) if connection.mptcp => format!("MPTCP, {subflows} subflows"),
            _ => "TCP".to_owned(),
        };
        let result = served.error.as_deref().unwrap_or("all verified");
        format!(
            "{}: {} transfers, {} bytes sent, {} received, {how}: {result}",
            served.peer, served.transfers, served.sent, served.received
        )
    };
    // Nobody may read this any more; the exit code tells all the same.
    let _ = writeln!(out, "{line}");
}

fn serve_connection(mut stream: TcpStream, wanted: bool) -> Result<ServedConnection> {
    prepare(&stream)?;
    // A client may pause between requests as long as it likes.
    stream.set_read_timeout(None)?;
    let peer = stream.peer_addr().context("the client is gone")?;
    let begin = Instant::now();
    let mut served = ServedConnection {
        peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        transfers: 0,
        sent: 0,
        received: 0,
        seconds: 0.0,
        connection: None,
        error: None,
    };
    loop {
        match transfer(&mut stream, &mut served) {
            Ok(true) => {
                served.transfers += 1;
                served.connection = info::connection(&stream, wanted).ok();
            }
            Ok(false) => break,
            Err(error) => {
                served.error = Some(format!("{error:#}"));
                break;
            }
        }
    }
    served.seconds = begin.elapsed().as_secs_f64();
    Ok(served)
}

/// Serves one transfer; returns false when there is none any more.
fn transfer(stream: &mut TcpStream, served: &mut ServedConnection) -> Result<bool> {
    let Some(header) = Header::receive(stream)? else {
        return Ok(false);
    };
    let mut payload = Payload::new(header.seed, header.position);
    match header.operation {
        Operation::Download { bytes, time } => {
            let sent = send_bulk(stream, &mut payload, bytes, time)?;
            served.sent += sent;
            Verdict::receive(stream)
                .context("the client sent no verdict")?
                .check(sent)?;
        }
        Operation::Upload => {
            let verdict = receive_bulk(stream, &mut payload, |_| ())?;
            served.received += verdict.bytes;
            verdict.send(stream)?;
            if let Some(position) = verdict.wrong_at {
                // Let the verdict reach the client before the connection is reset.
                std::thread::sleep(Duration::from_millis(200));
                bail!("PAYLOAD MISMATCH: the byte at {position} arrived changed");
            }
        }
        Operation::Exchange { request, response } => {
            let Some(rest) = request.checked_sub(HEADER as u64) else {
                bail!("a request of {request} bytes: expected at least {HEADER}");
            };
            receive_plain(stream, &mut payload, rest)?;
            served.received += request;
            send_plain(stream, &mut payload, response)?;
            served.sent += response;
        }
    }
    Ok(true)
}
