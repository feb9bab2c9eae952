// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! Beside mptcpd, which adds the endpoints (plugin `addr_adv`, the default of distributions), by which the
//! kernel's path manager opens or announces further subflows: policies hold that back until a connection
//! carries much, and make the slower path backup. Neither end loses a byte, and mptcpd lives on.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::pair::LIMIT;
use super::pair::connect;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::raw;
use super::reader::Reader;
use super::rig::Killed;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::wait_for;
use super::ss::is_backup;

const MPTCPD: &str = "/usr/libexec/mptcpd";
const PORT: u16 = 5001;
/// Bytes below which a connection gets no further subflow, as in the examples.
const THRESHOLD: usize = 220 << 10;
const BURST: usize = 200_000;
/// Pause between two bursts: both ends are idle.
const PAUSE: Duration = Duration::from_millis(200);
/// Long enough for a subflow to come, over the slower path.
const SOON: Duration = Duration::from_millis(300);

/// Whether it can be run here, with its plugin.
fn is_installed() -> bool {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let mut folders = folders.map(|folder| folder.unwrap().path());
    let plugin = folders.any(|folder| folder.join("mptcpd/addr_adv.so").exists());
    let installed = plugin && Path::new(MPTCPD).exists();
    if !installed {
        // Past the harness, which hides what a test that passes prints.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no mptcpd with its plugins (scripts/setup.sh test)"
        );
    }
    installed
}

/// Two paths, of round trips of 20 ms and 100 ms; nobody has endpoints.
fn lab() -> Lab {
    let link = |n: u8, delay: &str| {
        json!({ "name": format!("path{n}"), "rate": "20Mbit", "delay": delay, "queue": "128KiB",
            "a": { "host": "client", "dev": format!("c{n}"), "addresses": [format!("10.0.{n}.2/24")],
                "gateways": [format!("10.0.{n}.1")] },
            "b": { "host": "server", "dev": format!("s{n}"), "addresses": [format!("10.0.{n}.1/24")] } })
    };
    let limits = json!({ "limits": { "subflows": 4, "add_addr_accepted": 4 } });
    let text = json!({ "version": 1,
        "hosts": { "client": { "mptcp": limits }, "server": { "mptcp": limits } },
        "links": [link(1, "10ms"), link(2, "50ms")] });
    Lab::from_json(&text.to_string()).unwrap()
}

fn end_of<'a>(rig: &'a Rig, host: &str) -> &'a Netns {
    match host {
        "client" => &rig.near,
        _ => &rig.far,
    }
}

/// A policy at the client, and mptcpd at one end.
struct Stand {
    // Removed first: the namespaces are its own, the rig finds them gone.
    _lab: Lab,
    /// The client is `near`.
    rig: Rig,
    daemon: Killed,
    log: std::path::PathBuf,
}

/// Both ends of a connection, and what subflows come to.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    _listener: TcpListener,
}

impl Stand {
    /// mptcpd runs at this host, and gives its addresses this flag.
    fn new(host: &str, flag: &str) -> Self {
        let lab = lab();
        let rig = Rig::in_lab(&lab, "client", "server");
        let netns = end_of(&rig, host);
        let log = rig.folder.write("mptcpd.log", "");
        let file = File::create(&log).unwrap();
        let child = netns
            .command(MPTCPD)
            .args(["--log=stderr", "--path-manager=addr_adv"])
            .arg(format!("--addr-flags={flag}"))
            .arg("--notify-flags=existing,skip_link_local,skip_loopback")
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let stand = Self {
            daemon: Killed(child),
            log,
            _lab: lab,
            rig,
        };
        let address = if host == "client" {
            "10.0.2.2"
        } else {
            "10.0.2.1"
        };
        wait_for("an endpoint of mptcpd's", LIMIT, || {
            let all = end_of(&stand.rig, host).sh("ip mptcp endpoint");
            all.lines()
                .any(|line| line.starts_with(address) && line.contains(flag))
        });
        stand
    }

    fn apply(&self, policy: &Value) {
        let path = self.rig.folder.write("policy.json", policy.to_string());
        self.rig.run(&["apply", path.to_str().unwrap()]).ok();
    }

    fn connect(&self) -> Connection {
        let listener = listen(&self.rig.far, false, PORT);
        let to = SocketAddr::new("10.0.1.1".parse().unwrap(), PORT);
        let (client, server) = connect(&self.rig.near, to, &listener);
        Connection {
            client,
            server,
            _listener: listener,
        }
    }

    /// SYNs of further subflows that the server saw.
    fn joins(&self) -> u64 {
        counter(&self.rig.far, "MPTcpExtMPJoinSynRx")
    }

    /// No subflow comes of few bytes, one of many.
    fn gated(&self, connection: &Connection, gate: &str) {
        let bytes = fill(7, THRESHOLD);
        send(
            &connection.client,
            &connection.server,
            &bytes[..THRESHOLD / 4],
        );
        send(
            &connection.server,
            &connection.client,
            &bytes[..THRESHOLD / 4],
        );
        // It asked for one.
        wait_for(gate, LIMIT, || self.rig.matched(gate) > 0);
        std::thread::sleep(SOON);
        assert_eq!(self.joins(), 0, "a subflow below the threshold");
        send(&connection.client, &connection.server, &bytes);
        wait_for("the second subflow", LIMIT, || {
            send(&connection.server, &connection.client, &bytes[..1000]);
            counter(&self.rig.far, "MPTcpExtMPJoinAckRx") == 1
        });
        assert_eq!(self.joins(), 1);
    }

    /// mptcpd is alive, and goes when it is told to.
    fn end(mut self, host: &str, connection: &Connection) {
        assert!(!raw::mptcp_fell_back(&connection.client), "fell back");
        let log = std::fs::read_to_string(&self.log).unwrap();
        let child = &mut self.daemon.0;
        assert_eq!(child.try_wait().unwrap(), None, "{log}");
        // nsenter becomes the command: their process is the same.
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {log}");
        let bytes = fill(9, BURST);
        send(&connection.client, &connection.server, &bytes);
        send(&connection.server, &connection.client, &bytes);
        let netns = &end_of(&self.rig, host).name;
        let left = super::rig::sh(&format!("ip netns pids {netns}"));
        assert_eq!(left, "", "processes are left");
        let status = self.rig.status();
        assert_eq!(status["reasons"], json!({}), "{status}");
    }
}

/// Bytes that an end has sent from its address on the second link.
fn sent_on_second(netns: &Netns, address: &str) -> u64 {
    let all = netns.sh(&format!("ss -Htino state established src {address}"));
    let mut sent = all
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("bytes_sent:"));
    sent.next().map_or(0, |n| n.parse().unwrap())
}

/// Chains of an example, on these interfaces.
fn example(text: &str, interfaces: &[(&str, &str)]) -> Value {
    let text = interfaces
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    serde_json::from_str(&text).unwrap()
}

/// The client's mptcpd adds endpoints of type `subflow`: their SYNs are held, and the scheduler makes
/// what joined backup while bursts are better off without it.
#[test]
fn root_mptcpd_opens_subflows() {
    if !is_installed() {
        return;
    }
    let stand = Stand::new("client", "subflow");
    let near = &stand.rig.near;
    let names = [("eth*", "c1"), ("wlan*", "c2"), ("wwan*", "c3")];
    let gate = include_str!("../../examples/delay-endpoints.json").replace(", \"wwan*\"", "");
    let mut policy = example(&gate, &names);
    let scheduler = example(include_str!("../../examples/scheduler.json"), &names);
    for what in ["track", "selectors"] {
        policy[what] = scheduler[what].clone();
    }
    let chains = policy["chains"].as_array_mut().unwrap();
    chains.extend(scheduler["chains"].as_array().unwrap().iter().cloned());
    stand.apply(&policy);
    let run = Reader::start(&stand.rig, "run", &["run"]);

    let connection = stand.connect();
    stand.gated(&connection, "hold_join");
    let bytes = fill(1, BURST);
    let burst = || {
        std::thread::sleep(PAUSE);
        send(&connection.client, &connection.server, &bytes);
    };
    wait_for("the slower path is backup", LIMIT, || {
        burst();
        is_backup(near, "src 10.0.2.2")
    });
    assert!(counter(near, "MPTcpExtMPPrioRx") > 0);
    let before = sent_on_second(near, "10.0.2.2");
    for _ in 0..3 {
        burst();
    }
    let sent = sent_on_second(near, "10.0.2.2") - before;
    println!("{sent} bytes of bursts on the slower path");
    assert!(sent < BURST as u64 / 20, "{sent}");
    assert_eq!(stand.rig.matched("release_join"), 1);
    run.end();
    stand.end("client", &connection);
}

/// The server's mptcpd announces its addresses: the client learns of them late, and joins them as
/// backup.
#[test]
fn root_mptcpd_announces_addresses() {
    if !is_installed() {
        return;
    }
    let stand = Stand::new("server", "signal");
    let far = &stand.rig.far;
    let names = [("eth*", "c1"), ("wlan*", "c[2-9]"), ("wwan*", "c2")];
    let policy = example(include_str!("../../examples/path-manager.json"), &names);
    stand.apply(&policy);

    let connection = stand.connect();
    stand.gated(&connection, "rm_add_addr");
    // Not with a retry of the server's.
    assert_eq!(stand.rig.matched("restore_addr"), 1);
    assert_eq!(counter(far, "MPTcpExtMPJoinSynBackupRx"), 1);
    assert!(is_backup(far, "src 10.0.2.1"));
    let before = sent_on_second(far, "10.0.2.1");
    let bytes = fill(1, BURST);
    for _ in 0..3 {
        std::thread::sleep(PAUSE);
        send(&connection.server, &connection.client, &bytes);
    }
    let sent = sent_on_second(far, "10.0.2.1") - before;
    println!("{sent} bytes of bursts on the slower path");
    assert!(sent < BURST as u64 / 20, "{sent}");
    stand.end("server", &connection);
}
