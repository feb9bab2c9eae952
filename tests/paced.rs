//! Paced connections between two network namespaces, with fq: bytes on the wire by time. Runs
//! where the kernel has fq; that of a guest has.

#![allow(clippy::unwrap_used)]

mod kernel;
#[allow(dead_code, unreachable_pub)]
#[path = "netns/raw.rs"]
mod raw;

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde_json::Value;
use serde_json::json;

/// How far a rate may be from what was asked for.
const TOLERANCE: f64 = 0.02;
/// An emulated machine that waits for its host sends too little, never too much: so many tries to
/// reach a rate, of which none may be above it.
const TRIES: u32 = 3;
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(6);
const PORT: u16 = 5001;

/// A network namespace.
struct Netns(File);

impl Netns {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let netns = Self(made.join().unwrap());
        netns.sh("ip link set lo up").unwrap();
        netns
    }

    /// A name for ip(8).
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a function on a thread inside.
    fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                f()
            });
            thread.join().unwrap()
        })
    }

    /// Runs a line of shell inside.
    fn sh(&self, line: &str) -> Result<String, String> {
        let output = self.within(|| Command::new("sh").args(["-c", line]).output().unwrap());
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!(
                "{line}: {}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// Bytes that arrived at an interface.
    fn received(&self, interface: &str) -> u64 {
        let text = self.within(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let mut lines = text.lines().filter_map(|l| l.trim().split_once(':'));
        let (_, numbers) = lines.find(|(name, _)| *name == interface).unwrap();
        numbers.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// `near`, which sends and has the policy, and `far`; links p0 and p1 between them, addresses
/// 10.77.<link>.1 (far) and .2, fd77:<link>::1 and ::2.
struct Rig {
    near: Netns,
    far: Netns,
    folder: kernel::Folder,
}

impl Rig {
    /// None where the kernel has no fq.
    fn new() -> Option<Self> {
        let folder = kernel::Folder::new("paced");
        let rig = Self {
            near: Netns::new(),
            far: Netns::new(),
            folder,
        };
        for link in 0..2 {
            let near = &rig.near;
            near.sh(&format!(
                "ip link add p{link} type veth peer name p{link} netns {}",
                rig.far.path()
            ))
            .unwrap();
            for (netns, host) in [(&rig.far, 1), (near, 2)] {
                netns
                    .sh(&format!(
                        "ip addr add 10.77.{link}.{host}/24 dev p{link} && \
                         ip addr add fd77:{link}::{host}/64 dev p{link} nodad && \
                         ip link set p{link} up"
                    ))
                    .unwrap();
            }
            // Each segment is a packet behind fq, so that what arrives is what the wire carries.
            near.sh(&format!("ethtool -K p{link} tso off gso off"))
                .unwrap();
            if let Err(why) = near.sh(&format!("tc qdisc replace dev p{link} root fq")) {
                assert!(!kernel::in_guest(), "{why}");
                kernel::skipped(&format!("the kernel has no fq: {why}"));
                return None;
            }
        }
        fs::create_dir(rig.bpffs()).unwrap();
        let none = None::<&str>;
        nix::mount::mount(none, &rig.bpffs(), Some("bpf"), MsFlags::empty(), none).unwrap();
        Some(rig)
    }

    fn bpffs(&self) -> PathBuf {
        self.folder.0.join("bpf")
    }

    fn emptcp(&self, args: &[&str]) -> Output {
        let given = std::env::var_os("EMPTCP");
        let program = given.unwrap_or_else(|| env!("CARGO_BIN_EXE_emptcp").into());
        let mut command = Command::new(program);
        command.args(args).env("EMPTCP_BPFFS", self.bpffs());
        self.near.within(move || command.output().unwrap())
    }

    fn apply(&self, tables: &Value, select: &Value, params: &Value) {
        let chain = json!({ "name": "paced", "hook": "tc-egress", "interfaces": ["p*"],
            "select": select, "act": [{ "pace": params }] });
        let policy = json!({ "version": 1, "tables": tables, "chains": [chain] });
        let path = self.folder.0.join("policy.json");
        fs::write(&path, policy.to_string()).unwrap();
        let output = self.emptcp(&["apply", path.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    }

    fn status(&self) -> Value {
        let output = self.emptcp(&["--json", "status"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Rates of what arrives over the links, in bits per second, while data go to these addresses
    /// on a connection each.
    fn rates(&self, mptcp: bool, to: &[&str]) -> [f64; 2] {
        let listener = self.far.within(|| {
            let any = "::".parse().unwrap();
            match mptcp {
                true => TcpListener::from(raw::mptcp_listener(any, PORT)),
                false => TcpListener::bind((any, PORT)).unwrap(),
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for address in to {
            let address: IpAddr = address.parse().unwrap();
            let address = SocketAddr::new(address, PORT);
            let mut stream = self.near.within(|| match mptcp {
                true => TcpStream::from(raw::mptcp_connect(address)),
                false => TcpStream::connect(address).unwrap(),
            });
            let (mut peer, _) = listener.accept().unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let ended = stop.clone();
            threads.push(std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    // Timeouts are what pacing brings.
                    let _ = stream.write(&[0; 65536]);
                }
            }));
            threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 18];
                while peer.read(&mut buffer).is_ok_and(|n| n > 0) {}
            }));
        }
        std::thread::sleep(WARM_UP);
        let start = Instant::now();
        let mut points = Vec::new();
        while start.elapsed() < MEASURED {
            let bytes = ["p0", "p1"].map(|link| self.far.received(link) as f64);
            points.push((start.elapsed().as_secs_f64(), bytes));
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        [0, 1].map(|link| 8.0 * slope(points.iter().map(|(t, bytes)| (*t, bytes[link]))))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.bpffs(), MntFlags::MNT_DETACH);
    }
}

/// By least squares: packets arrive in bursts, so that the first and last point alone say less.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let n = points.clone().count() as f64;
    let mean_x = points.clone().map(|p| p.0).sum::<f64>() / n;
    let mean_y = points.clone().map(|p| p.1).sum::<f64>() / n;
    let products = points.clone().map(|(x, y)| (x - mean_x) * (y - mean_y));
    products.sum::<f64>() / points.map(|p| (p.0 - mean_x).powi(2)).sum::<f64>()
}

/// Measures until the rates are reached, TRIES times at the most; a rate that is exceeded fails at
/// once.
#[track_caller]
fn assert_rates<const N: usize>(what: &str, wanted: [f64; N], measure: impl Fn() -> [f64; N]) {
    assert_shares(what, wanted, 1.0 - TOLERANCE, measure);
}

/// The same, where `least` of a rate is enough.
#[track_caller]
fn assert_shares<const N: usize>(
    what: &str,
    wanted: [f64; N],
    least: f64,
    measure: impl Fn() -> [f64; N],
) {
    for attempt in 1..=TRIES {
        let found = measure();
        let mut reached = true;
        for (found, wanted) in found.into_iter().zip(wanted) {
            eprintln!(
                "paced: {what}: {:.3} of {:.3} Mbit/s",
                found / 1e6,
                wanted / 1e6
            );
            assert!(
                found <= wanted * (1.0 + TOLERANCE),
                "{what}: {found} bit/s, wanted {wanted}"
            );
            reached &= found >= wanted * least;
        }
        if reached {
            return;
        }
        assert!(
            attempt < TRIES,
            "{what}: {found:?} bit/s, wanted {wanted:?}"
        );
    }
}

#[test]
fn root_each_subflow_has_the_rate_of_its_table_entry() {
    let Some(rig) = Rig::new() else {
        return;
    };
    let tables = json!({ "rates": { "type": "addr", "value": "rate",
        "elements": { "10.77.0.1": "3Mbit", "10.77.1.1": "6Mbit" } } });
    rig.apply(
        &tables,
        &json!({ "dst": { "table": "rates" } }),
        &json!({ "rate": { "table": "rates" } }),
    );
    assert_rates("two connections", [3e6, 6e6], || {
        rig.rates(false, &["10.77.0.1", "10.77.1.1"])
    });

    let mptcp = fs::read_to_string("/proc/sys/net/mptcp/enabled");
    if mptcp.is_err() {
        kernel::skipped("the kernel has no Multipath TCP");
        return;
    }
    // Else the fast subflow waits for the slow one, and neither is full.
    for netns in [&rig.near, &rig.far] {
        for buffers in ["tcp_rmem", "tcp_wmem"] {
            let file = format!("/proc/sys/net/ipv4/{buffers}");
            let line = format!("echo 4096 8388608 16777216 >{file}");
            netns.sh(&line).unwrap();
        }
    }
    for (netns, line) in [
        (&rig.far, "ip mptcp endpoint add 10.77.1.1 dev p1 signal"),
        (&rig.far, "ip mptcp limits set subflow 2"),
        (
            &rig.near,
            "ip mptcp limits set add_addr_accepted 2 subflow 2",
        ),
    ] {
        netns.sh(line).unwrap();
    }
    // The scheduler of Multipath TCP does not keep every subflow full all the time: 82 to 100 % were
    // seen.
    assert_shares("subflows", [3e6, 6e6], 0.7, || {
        rig.rates(true, &["10.77.0.1"])
    });
}

#[test]
fn root_connections_to_one_address_share_a_rate() {
    let Some(rig) = Rig::new() else {
        return;
    };
    let params = json!({ "rate": "10Mbit", "per": "dst" });
    rig.apply(&json!({}), &json!({}), &params);
    assert_rates("two connections together", [10e6], || {
        [rig.rates(false, &["fd77:0::1", "fd77:0::1"])[0]]
    });

    // Another qdisc does not pace: told.
    assert_eq!(rig.status()["drift"], json!([]));
    rig.near.sh("tc qdisc replace dev p1 root pfifo").unwrap();
    let drift = rig.status()["drift"].to_string();
    assert!(drift.contains("p1 has pfifo instead of fq"), "{drift}");
    assert!(!drift.contains("p0"), "{drift}");
}
