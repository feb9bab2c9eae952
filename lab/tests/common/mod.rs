//! Probes that the tests share.
#![allow(dead_code)] // Every test file uses its own part.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use emptcp_lab::{Config, Lab};
use socket2::{Domain, Protocol, Socket, Type};

/// How often a measurement is repeated when the machine disturbed it.
pub(crate) const ATTEMPTS: u32 = 4;
/// Ethernet, IPv4 and UDP headers, in bytes.
pub(crate) const HEADERS_V4: u64 = 14 + 20 + 8;

/// Tests named `root_lab_…` make network namespaces.
pub(crate) fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root, for network namespaces and TAP devices: \
         run as root or leave it out with `cargo test -- --skip root_`"
    );
}

/// A lab of `lab/examples`.
pub(crate) fn example(name: &str) -> Config {
    Config::load(&example_path(name)).unwrap()
}

/// The file of a lab of `lab/examples`.
pub(crate) fn example_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

/// Two hosts `a` and `b` with `links` links; link n has 10.0.n.1 at `a` and 10.0.n.2 at `b`.
pub(crate) fn pair(links: usize, shape: &str) -> Config {
    let links: Vec<String> = (1..=links)
        .map(|n| {
            format!(
                r#"{{ "name": "l{n}", {shape},
                      "a": {{ "host": "a", "dev": "a{n}", "addresses": ["10.0.{n}.1/24", "fd00:{n}::1/64"] }},
                      "b": {{ "host": "b", "dev": "b{n}", "addresses": ["10.0.{n}.2/24", "fd00:{n}::2/64"] }} }}"#
            )
        })
        .collect();
    let text = format!(
        r#"{{ "version": 1, "hosts": {{ "a": {{}}, "b": {{}} }}, "links": [{}] }}"#,
        links.join(",")
    );
    Config::parse(&text, "pair").unwrap()
}

/// A UDP socket of a host with room for many packets.
pub(crate) fn udp(lab: &Lab, host: &str, address: &str) -> Result<UdpSocket> {
    let address: SocketAddr = address.parse()?;
    let socket = lab.within(host, || -> Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        socket.bind(&address.into())?;
        Ok(socket)
    })??;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_send_buffer_size(4 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket.into())
}

/// Round-trip times in milliseconds, sorted, of `count` echoes from `from` to `to`.
pub(crate) fn round_trips(
    lab: &Lab,
    (from, from_address): (&str, &str),
    (to, to_address): (&str, &str),
    count: u64,
) -> Result<Vec<f64>> {
    let server = udp(lab, to, to_address)?;
    let client = udp(lab, from, from_address)?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    let target = server.local_addr()?;
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], peer);
                }
            }
        });
        let times = (0..count)
            .map(|number| {
                let begin = Instant::now();
                client.send_to(&number.to_be_bytes(), target)?;
                let mut buffer = [0; 8];
                loop {
                    client.recv(&mut buffer).context("no echo")?;
                    if buffer == number.to_be_bytes() {
                        break;
                    }
                }
                let time = begin.elapsed().as_secs_f64() * 1e3;
                std::thread::sleep(Duration::from_millis(10));
                Ok(time)
            })
            .collect::<Result<Vec<f64>>>();
        end.store(true, Ordering::Relaxed);
        let mut times = times?;
        times.sort_by(f64::total_cmp);
        Ok(times)
    })
}

/// Sends packets of `payload` bytes at `bits` per second of Ethernet frames until `end`.
pub(crate) fn blast(
    socket: &UdpSocket,
    target: SocketAddr,
    payload: usize,
    bits: f64,
    end: &AtomicBool,
) {
    let packet = vec![0; payload];
    let gap = (payload as u64 + HEADERS_V4) as f64 * 8.0 / bits;
    let begin = Instant::now();
    let mut sent = 0u64;
    while !end.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() / gap) as u64;
        // After a stall at most 100 packets are made up for.
        sent = sent.max(due.saturating_sub(100));
        while sent < due {
            let _ = socket.send_to(&packet, target);
            sent += 1;
        }
        std::thread::sleep(Duration::from_secs_f64(gap.max(300e-6)));
    }
}

/// Rates of what arrives in eight windows of 250 ms, in bits per second of Ethernet frames. Their
/// [`median`] does not care for a receiver that was held up once.
pub(crate) fn arrival_rates(socket: &UdpSocket, skip: Duration) -> [f64; 8] {
    const WINDOW: Duration = Duration::from_millis(250);
    let mut buffer = [0; 9000];
    let begin = Instant::now() + skip;
    let mut bytes = [0u64; 8];
    loop {
        let received = socket.recv(&mut buffer);
        let Some(time) = Instant::now().checked_duration_since(begin) else {
            continue;
        };
        let window = (time.as_nanos() / WINDOW.as_nanos()) as usize;
        let Some(bytes) = bytes.get_mut(window) else {
            break;
        };
        if let Ok(length) = received {
            *bytes += length as u64 + HEADERS_V4;
        }
    }
    bytes.map(|bytes| bytes as f64 * 8.0 / WINDOW.as_secs_f64())
}

/// The median of eight windows.
pub(crate) fn median(mut windows: [f64; 8]) -> f64 {
    windows.sort_by(f64::total_cmp);
    (windows[3] + windows[4]) / 2.0
}

/// Overloads paths (sender, its address, receiver, its address) at `bits` per second each, at the
/// same time, and returns the [`arrival_rates`] of each.
pub(crate) fn saturate(
    lab: &Lab,
    paths: &[(&str, &str, &str, &str)],
    bits: f64,
) -> Result<Vec<[f64; 8]>> {
    let end = AtomicBool::new(false);
    let sockets = paths
        .iter()
        .map(|(from, from_address, to, to_address)| {
            Ok((udp(lab, from, from_address)?, udp(lab, to, to_address)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let skip = Duration::from_millis(300);
    std::thread::scope(|scope| {
        let receivers: Vec<_> = sockets
            .iter()
            .map(|(from, to)| {
                let target = to.local_addr()?;
                let end = &end;
                scope.spawn(move || blast(from, target, 1472, bits, end));
                Ok(scope.spawn(move || arrival_rates(to, skip)))
            })
            .collect::<Result<_>>()?;
        let rates = receivers
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        end.store(true, Ordering::Relaxed);
        Ok(rates)
    })
}

/// Sends `count` numbered packets from `a` to `b` of a [`pair`] and returns the numbers that did
/// not arrive.
pub(crate) fn missing(lab: &Lab, count: u32) -> Result<BTreeSet<u32>> {
    let from = udp(lab, "a", "10.0.1.1:0")?;
    let to = udp(lab, "b", "10.0.1.2:7000")?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut missing: BTreeSet<u32> = (0..count).collect();
            let mut buffer = [0; 100];
            let mut last = Instant::now();
            while last.elapsed() < Duration::from_millis(500) {
                if let Ok(4) = to.recv(&mut buffer) {
                    missing.remove(&u32::from_be_bytes(buffer[..4].try_into().unwrap()));
                    last = Instant::now();
                }
            }
            missing
        });
        for number in 0..count {
            from.send_to(&number.to_be_bytes(), "10.0.1.2:7000")?;
            if number % 4 == 3 {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(receiver.join().unwrap())
    })
}

/// The value below which a share of a sorted row lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Names in /run/netns and locks that begin with a prefix.
pub(crate) fn leftovers(prefix: &str) -> Vec<String> {
    ["/run/netns", "/run/emptcp-lab"]
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(prefix))
        .collect()
}
