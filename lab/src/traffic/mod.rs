//! Traffic over real MPTCP (or plain TCP) sockets, verified byte by byte.

pub mod bulk;
pub mod info;
pub mod payload;
pub mod protocol;
pub mod request;
pub mod serve;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::units::Bytes;

/// The port that all commands use unless told otherwise.
pub const DEFAULT_PORT: u16 = 5001;
/// A peer that sends nothing for this long has failed.
const IDLE: Duration = Duration::from_secs(60);

/// How sockets are made.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SocketOptions {
    /// Network namespace; a host's name suffices inside `emptcp-lab run`
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// Plain TCP instead of MPTCP
    #[arg(long)]
    pub tcp: bool,
    /// Congestion control of this socket, for example cubic
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Receive buffer (SO_RCVBUF), for example 256KiB
    #[arg(long, value_name = "BYTES")]
    pub rcvbuf: Option<Bytes>,
    /// Send buffer (SO_SNDBUF), for example 256KiB
    #[arg(long, value_name = "BYTES")]
    pub sndbuf: Option<Bytes>,
    /// Local address
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
}

impl SocketOptions {
    /// Moves the calling thread into the wanted namespace.
    pub fn enter_namespace(&self) -> Result<()> {
        match &self.netns {
            Some(name) => crate::netns::enter(&crate::netns::resolve(name)),
            None => Ok(()),
        }
    }

    fn socket(&self, domain: Domain) -> Result<Socket> {
        let protocol = if self.tcp {
            Protocol::TCP
        } else {
            Protocol::MPTCP
        };
        let socket = Socket::new(domain, Type::STREAM, Some(protocol)).with_context(|| {
            if self.tcp {
                "cannot make a TCP socket"
            } else {
                "cannot make an MPTCP socket (is net.mptcp.enabled 1?)"
            }
        })?;
        if let Some(name) = &self.congestion {
            socket
                .set_tcp_congestion(name.as_bytes())
                .with_context(|| format!("cannot use the congestion control \"{name}\""))?;
        }
        if let Some(size) = self.rcvbuf {
            socket
                .set_recv_buffer_size(size.0 as usize)
                .context("cannot set SO_RCVBUF")?;
        }
        if let Some(size) = self.sndbuf {
            socket
                .set_send_buffer_size(size.0 as usize)
                .context("cannot set SO_SNDBUF")?;
        }
        Ok(socket)
    }

    /// Connects to a server; waits up to `patience` for it to listen. Returns also when the
    /// attempt that succeeded began.
    pub fn connect(&self, server: SocketAddr, patience: Duration) -> Result<(TcpStream, Instant)> {
        let end = Instant::now() + patience;
        loop {
            let socket = self.socket(Domain::for_address(server))?;
            if server.is_ipv6() {
                // Otherwise the kernel also adds IPv4 subflows to an IPv6 connection.
                socket.set_only_v6(true)?;
            }
            if let Some(address) = self.bind {
                socket
                    .bind(&SockAddr::from(SocketAddr::new(address, 0)))
                    .with_context(|| format!("cannot bind to {address}"))?;
            }
            let begin = Instant::now();
            match socket.connect_timeout(&SockAddr::from(server), Duration::from_secs(10)) {
                Ok(()) => {
                    let stream = TcpStream::from(socket);
                    prepare(&stream)?;
                    return Ok((stream, begin));
                }
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < end =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot connect to {server}"));
                }
            }
        }
    }

    /// Listens; on every address of both families unless `bind` says otherwise.
    pub fn listen(&self, port: u16) -> Result<Socket> {
        let any = IpAddr::from([0u16; 8]);
        let address = SocketAddr::new(self.bind.unwrap_or(any), port);
        let socket = self.socket(Domain::for_address(address))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(self.bind.is_some())?;
        }
        socket
            .bind(&SockAddr::from(address))
            .with_context(|| format!("cannot bind to {address}"))?;
        socket
            .listen(1024)
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(socket)
    }
}

/// Settings of every connection: no delay for small messages, no endless waiting.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))
}
