// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! `emptcp monitor`: what happens to real connections of Multipath TCP, beside what the kernel
//! says of them; readers that do not read, and that are killed. The policy is at the client.

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use emptcp_test::hosts::Family;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use serde_json::json;

use super::links::links_are_up;
use super::mptcp::counter;
use super::mptcp::subflows;
use super::raw;
use super::raw::Frames;
use super::reader::Reader;
use super::reader::counts;
use super::rig::Killed;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::TempDir;
use super::rig::wait_for;
use super::traffic::frame;

pub(super) const PORT: u16 = 5001;
pub(super) const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn rig() -> Rig {
    let rig = Rig::new(2, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 net.mptcp.checksum_enabled=1 && \
             ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    // Or readers of all events are told that they come up.
    links_are_up(&rig);
    rig
}

/// Puts a policy in force that tracks at both links.
pub(super) fn track(rig: &Rig, chains: &Value) {
    let text = json!({ "version": 1, "track": ["p0", "p1"], "chains": chains });
    let path = rig.folder.write("track.json", text.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
}

/// A connection; `near` is the client.
pub(super) struct Connection {
    pub(super) near: TcpStream,
    far: TcpStream,
    /// While it is there, others can join.
    listener: TcpListener,
    port: u16,
}

impl Connection {
    fn open(rig: &Rig, v6: bool) -> Self {
        Self::open_at(rig, v6, PORT)
    }

    /// To this port of the server.
    pub(super) fn open_at(rig: &Rig, v6: bool, port: u16) -> Self {
        let (any, to) = match v6 {
            false => ("0.0.0.0", "10.77.0.1"),
            true => ("::", "fd77:0::1"),
        };
        let any = any.parse().unwrap();
        let listener = (rig.far).within(|| TcpListener::from(raw::mptcp_listener(any, port)));
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let near = (rig.near).within(|| TcpStream::from(raw::mptcp_connect(to)));
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        Self {
            near,
            far,
            listener,
            port,
        }
    }

    /// So many bytes there, and as many back.
    pub(super) fn exchange(&mut self, bytes: usize) {
        pass(&mut self.near, &mut self.far, bytes);
        pass(&mut self.far, &mut self.near, bytes);
    }

    /// The client closes first.
    pub(super) fn close(mut self) {
        self.near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(self.far.read(&mut [0]).unwrap(), 0);
        drop(self.far);
        assert_eq!(self.near.read(&mut [0]).unwrap(), 0);
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let mut got = vec![0; bytes];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![7; bytes]).unwrap());
        to.read_exact(&mut got).unwrap();
    });
    assert!(got.iter().all(|byte| *byte == 7));
}

/// The token that `ss` has for the connection of this end.
pub(super) fn token(netns: &Netns) -> String {
    let all = netns.sh("ss -HMni state established");
    let mut words = all.split_whitespace();
    let token = words.find_map(|w| w.strip_prefix("token:")).unwrap();
    format!("0x{:08x}", u32::from_str_radix(token, 16).unwrap())
}

/// Lines of JSON.
pub(super) fn events(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// Type and what became, of those with a token or, if it is `None`, all.
pub(super) fn story(events: &[Value]) -> Vec<String> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let say = |e: &Value| {
        let words = [word(&e["type"]), word(&e["event"]), word(&e["kind"])];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    events.iter().map(say).collect()
}

/// A capture by others, for the keys of connections.
struct Wire {
    child: Killed,
    file: PathBuf,
    /// Not that of the rig, where no file may hold a key.
    _folder: TempDir,
}

impl Wire {
    fn start(rig: &Rig) -> Self {
        let folder = TempDir::new();
        let file = folder.0.join("wire.pcapng");
        let mut command = rig.near.command("dumpcap");
        command
            .args(["-q", "-i", "p0", "-i", "p1", "-w"])
            .arg(&file);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = Killed(command.spawn().unwrap());
        wait_for("the other capture begins", LIMIT, || {
            // Of all protocols: those of the rig are not.
            let sockets = rig.near.sh("cat /proc/net/packet");
            sockets.matches(" 0003 ").count() >= 2 && file.exists()
        });
        Self {
            child,
            file,
            _folder: folder,
        }
    }

    /// Ends it; keys and HMACs of all its packets, as numbers in hexadecimal.
    fn secrets(mut self) -> Vec<String> {
        // It looks at its ring four times a second, and writes the rest when it ends.
        std::thread::sleep(Duration::from_secs(1));
        let process = Pid::from_raw(self.child.0.id() as i32);
        kill(process, Signal::SIGINT).unwrap();
        self.child.0.wait().unwrap();
        let fields = [
            "sendkey",
            "recvkey",
            "sendhmac",
            "sendtrunchmac",
            "addaddrtrunchmac",
        ];
        let mut tshark = std::process::Command::new("tshark");
        tshark.arg("-r").arg(&self.file).args(["-T", "fields"]);
        for field in fields {
            tshark.args(["-e", &format!("tcp.options.mptcp.{field}")]);
        }
        let output = tshark.stderr(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut found: Vec<String> = text
            .split(['\t', '\n', ','])
            .filter(|word| !word.is_empty())
            .map(|word| match word.parse::<u64>() {
                Ok(key) => format!("{key:016x}"),
                Err(_) => word.trim_start_matches("0x").replace(':', ""),
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

/// No secret is in a text: in hexadecimal in either byte order, or as a number.
fn holds_none(text: &str, secrets: &[String]) {
    let text = text.to_lowercase();
    for secret in secrets {
        let mut shapes = vec![secret.clone()];
        if let Ok(number) = u64::from_str_radix(secret, 16) {
            let turned = number.swap_bytes();
            shapes.push(format!("{turned:016x}"));
            shapes.push(number.to_string());
            shapes.push(turned.to_string());
        }
        for shape in shapes {
            assert!(!text.contains(&shape), "the secret {shape}");
        }
    }
}

fn a_connection(v6: bool) {
    let rig = rig();
    track(&rig, &json!([]));
    let wire = Wire::start(&rig);
    let second = if v6 { "fd77:1::1" } else { "10.77.1.1" };
    rig.far.sh(&format!(
        "ip mptcp endpoint flush; ip mptcp endpoint add {second} id 9 signal"
    ));
    let monitor = Reader::start(&rig, "m", &["--json", "monitor"]);
    let happened = |count: usize| {
        wait_for(&format!("{count} events"), LIMIT, || {
            monitor.out().lines().count() >= count
        });
    };
    let mut connection = Connection::open(&rig, v6);
    connection.exchange(4096);
    wait_for("the second subflow", LIMIT, || subflows(&rig.near) == 2);
    let tokens = [token(&rig.far), token(&rig.near)];
    happened(5);
    rig.far.sh("ip mptcp endpoint change id 9 backup");
    happened(6);
    rig.far.sh("ip mptcp endpoint change id 9 nobackup");
    happened(7);
    rig.far.sh("ip mptcp endpoint del id 9");
    happened(9);
    connection.exchange(8192);
    connection.close();
    happened(11);
    let (out, err) = monitor.end();
    let all = events(&out);
    assert_eq!(
        story(&all),
        [
            "connection opened",
            "subflow opened initial",
            "add_addr",
            "add_addr",
            "subflow opened joined",
            "prio",
            "prio",
            "remove_addr",
            "subflow closed joined",
            "subflow closed initial",
            "connection closed",
        ],
        "{out}"
    );
    assert_eq!(counts(&err), (11, 0));
    for event in &all {
        assert_eq!(event["token"], tokens[0], "{event}");
        assert_eq!(event["client_token"], tokens[1], "{event}");
    }
    let of = |number: usize, fields: &[&str]| {
        let event = &all[number];
        Value::from(fields.iter().map(|f| event[*f].clone()).collect::<Vec<_>>())
    };
    let (near, far, far2) = match v6 {
        false => ("10.77.0.2", "10.77.0.1", "10.77.1.1"),
        true => ("fd77::2", "fd77::1", "fd77:1::1"),
    };
    let place = ["src", "dst", "dport", "src_is", "version"];
    let initial = json!([near, far, PORT, "client", 1]);
    assert_eq!(of(0, &place), initial);
    assert_eq!(of(1, &place), initial);
    assert_eq!(
        of(1, &["index", "src_addr_id", "dst_addr_id"]),
        json!([0, 0, 0])
    );
    let announced = ["addr", "addr_id", "echo", "port", "src_is"];
    assert_eq!(of(2, &announced), json!([far2, 9, false, null, "server"]));
    assert_eq!(of(3, &announced), json!([far2, 9, true, null, "client"]));
    let joined = ["dst", "interface", "index", "dst_addr_id", "src_is"];
    assert_eq!(of(4, &joined), json!([far2, "p1", 1, 9, "client"]));
    for (number, backup) in [(5, true), (6, false)] {
        let said = of(number, &["backup", "src", "src_is", "hook", "interface"]);
        assert_eq!(said, json!([backup, far2, "server", "tc-ingress", "p1"]));
    }
    assert_eq!(
        of(7, &["addr_ids", "count", "src_is"]),
        json!([[9], 1, "server"])
    );
    assert_eq!(of(9, &["by", "src_retransmitted"]), json!(["fin", 0]));
    let closed = ["by", "client_bytes", "server_bytes", "subflows"];
    assert_eq!(of(10, &closed), json!(["data_fin", 12288, 12288, 2]));
    let sums = |field: &str| all[8][field].as_u64().unwrap() + all[9][field].as_u64().unwrap();
    assert_eq!((sums("src_bytes"), sums("dst_bytes")), (12288, 12288));
    assert!(
        all.windows(2)
            .all(|w| w[0]["time"].as_u64() <= w[1]["time"].as_u64())
    );

    // Keys of both ends, HMACs of a join and of an announcement.
    let secrets = wire.secrets();
    assert!(secrets.len() >= 5, "{secrets:?}");
    println!("{} secrets", secrets.len());
    holds_none(&out, &secrets);
    holds_none(&err, &secrets);
}

#[test]
fn root_monitor_tells_of_a_connection() {
    a_connection(false);
}

#[test]
fn root_monitor_tells_of_a_connection_ip6() {
    a_connection(true);
}

#[test]
fn root_monitor_tells_of_fallback_and_reset() {
    let rig = rig();
    track(&rig, &json!([]));
    let monitor = Reader::start(&rig, "m", &["--json", "monitor"]);
    // Unread data at the close: MP_FASTCLOSE, and RST.
    let mut connection = Connection::open(&rig, false);
    connection.exchange(100);
    connection.far.write_all(&[7; 100]).unwrap();
    wait_for("data that nobody reads", LIMIT, || {
        connection.near.peek(&mut [0]).is_ok()
    });
    let tokens = [token(&rig.far), token(&rig.near)];
    drop(connection.near);
    wait_for("the end", LIMIT, || monitor.out().lines().count() >= 4);
    drop((connection.far, connection.listener));

    // MP_CAPABLE does not come to the server.
    let strip = json!([{ "name": "strip", "hook": "tc-ingress", "interfaces": ["p0"],
        "act": [{ "strip_mptcp": {} }] }]);
    let path = rig.policy("far.json", &strip);
    let mut far = rig.emptcp_in(&rig.far, &["apply", &path]);
    assert!(far.status().unwrap().success());
    let mut connection = Connection::open(&rig, false);
    assert!(raw::mptcp_fell_back(&connection.near));
    connection.exchange(100);
    connection.close();
    wait_for("the other end", LIMIT, || {
        monitor.out().lines().count() >= 7
    });

    let (out, err) = monitor.end();
    let all = events(&out);
    assert_eq!(
        story(&all),
        [
            "connection opened",
            "subflow opened initial",
            "subflow closed initial",
            "connection closed",
            "fallback",
            "subflow opened initial",
            "subflow closed initial",
        ],
        "{out}"
    );
    for event in &all[..4] {
        assert_eq!(event["token"], tokens[0], "{event}");
        assert_eq!(event["client_token"], tokens[1], "{event}");
    }
    assert_eq!(
        (&all[2]["by"], &all[3]["by"]),
        (&json!("rst"), &json!("fastclose"))
    );
    assert_eq!(
        (&all[3]["client_bytes"], &all[3]["server_bytes"]),
        (&json!(100), &json!(200))
    );
    let fallback = &all[4];
    assert_eq!(
        [
            &fallback["cause"],
            &fallback["src_is"],
            &fallback["src"],
            &fallback["token"]
        ],
        [
            &json!("synack"),
            &json!("server"),
            &json!("10.77.0.1"),
            &json!(null)
        ]
    );
    assert!(fallback["seq"].as_u64().unwrap() > 0);
    assert_eq!(
        (&all[6]["by"], &all[6]["src_bytes"]),
        (&json!("fin"), &json!(100))
    );
    assert_eq!(counts(&err), (7, 0));
}

/// Packets with MP_PRIO on the first link, into a connection that the tracker knows; the kernel
/// drops them, for their sequence numbers are of another time.
pub(super) struct Flood {
    socket: Frames,
    frame: Vec<u8>,
}

impl Flood {
    pub(super) fn of(rig: &Rig, connection: &Connection) -> Self {
        let port = connection.near.local_addr().unwrap().port();
        let mut frame = frame(
            Family::Ip4,
            json!({ "tcp": { "sport": connection.port, "dport": port, "flags": "A",
                "options": [{ "timestamps": [1, 2] }, { "mp_prio": { "backup": true } }] } }),
        );
        // Addresses of the builder's hosts, and a checksum that is nobody's.
        frame[26..30].copy_from_slice(&[10, 77, 0, 1]);
        frame[30..34].copy_from_slice(&[10, 77, 0, 2]);
        let socket = rig.far.within(|| Frames::open(rig.far.ifindex("p0")));
        Self { socket, frame }
    }

    /// Sends so many, in small bursts.
    pub(super) fn send(&self, count: u64) {
        for number in 0..count {
            assert!(self.socket.send(&self.frame));
            if number % 32 == 31 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Events that were lost since the policy is in force.
fn lost(rig: &Rig) -> u64 {
    let state = rig.run(&["--json", "status", "--state"]).ok().json();
    let views = state["state"].as_array().unwrap();
    let view = views.iter().find(|v| v["map"] == "events_lost").unwrap();
    let entries = view["entries"].as_array().unwrap().iter();
    entries.map(|e| e["events"].as_u64().unwrap()).sum()
}

#[test]
fn root_monitor_counts_what_a_slow_reader_loses() {
    let rig = rig();
    track(&rig, &json!([]));
    let mut connection = Connection::open(&rig, false);
    connection.exchange(4096);
    let flood = Flood::of(&rig, &connection);
    let invalid = counter(&rig.near, "MPTcpExtMPPrioRx");
    let monitor = Reader::start(&rig, "m", &["--json", "monitor", "prio"]);
    flood.send(10);
    wait_for("the first ones", LIMIT, || {
        monitor.out().lines().count() == 10
    });
    monitor.signal(Signal::SIGSTOP);
    flood.send(6000);
    // Traffic does not care.
    connection.exchange(1 << 20);
    monitor.signal(Signal::SIGCONT);
    wait_for("the loss is told", LIMIT, || {
        monitor.out().contains("\"lost\"")
    });
    flood.send(10);
    let (out, err) = monitor.end();
    let (read, gone) = counts(&err);
    println!("{read} read, {gone} lost");
    assert!(gone > 1000 && read > 1000, "{err}");
    assert_eq!(read + gone, 6020, "{err}");
    assert_eq!(lost(&rig), gone);
    let all = events(&out);
    let notes: Vec<&Value> = all.iter().filter(|e| e["type"] == "lost").collect();
    let told: u64 = notes.iter().map(|e| e["events"].as_u64().unwrap()).sum();
    assert_eq!(
        (told, &notes[notes.len() - 1]["total"]),
        (gone, &json!(gone))
    );
    assert_eq!(all.len() - notes.len(), read as usize);
    assert!(!raw::mptcp_fell_back(&connection.near));
    assert_eq!(counter(&rig.near, "MPTcpExtMPPrioRx"), invalid);
    connection.close();
}

#[test]
fn root_monitor_that_is_killed_ends_the_telling() {
    let rig = rig();
    track(&rig, &json!([]));
    let mut connection = Connection::open(&rig, false);
    connection.exchange(4096);
    let flood = Flood::of(&rig, &connection);
    flood.send(4000);
    assert_eq!(lost(&rig), 0, "nobody reads");
    let monitor = Reader::start(&rig, "m", &["monitor"]);
    let process = monitor.child.0.id().to_string();
    rig.run(&["monitor"]).fails(&["another monitor", &process]);
    monitor.signal(Signal::SIGSTOP);
    flood.send(4000);
    let before = lost(&rig);
    assert!(
        before > 500,
        "for a while nobody knows that it does not read: {before}"
    );
    monitor.signal(Signal::SIGKILL);
    connection.exchange(1 << 20);
    std::thread::sleep(Duration::from_millis(2100));
    flood.send(100);
    assert_eq!(lost(&rig), before, "the ring is full, and nobody wrote");
    drop(monitor);

    // What the killed one left is not for the next one.
    let monitor = Reader::start(&rig, "next", &["--json", "monitor", "-c", "3"]);
    flood.send(5);
    let (out, err) = monitor.wait();
    assert_eq!(counts(&err), (3, 0));
    assert_eq!(story(&events(&out)), ["prio", "prio", "prio"]);
    connection.close();
}

#[test]
fn root_monitor_lines_filters_and_refusals() {
    let rig = rig();
    rig.run(&["monitor"]).fails(&["no policy is in force"]);
    rig.apply(
        &json!([{ "name": "a", "hook": "xdp", "interfaces": ["p0"], "act": [{ "accept": {} }] }]),
    )
    .ok();
    rig.run(&["monitor"]).fails(&["no step", "tells of events"]);
    rig.run(&["delete"]).ok();
    track(&rig, &json!([]));
    let mut connection = Connection::open(&rig, false);
    connection.exchange(4096);
    let flood = Flood::of(&rig, &connection);
    let server = token(&rig.far);
    let other = format!("{:08x}", u32::from_str_radix(&server[2..], 16).unwrap() ^ 1);
    let filters: [(&[&str], u64); 6] = [
        (&["--token", &server], 3),
        (&["--token", &other, "--token", &token(&rig.near)[2..]], 3),
        (&["--token", &other], 0),
        (&["prio", "--address", "10.77.0.0/24", "--port", "5001"], 3),
        (&["--address", "10.78.0.0/16"], 0),
        (&["connection", "add_addr"], 0),
    ];
    for (filter, count) in filters {
        let args = [&["monitor"], filter].concat();
        let monitor = Reader::start(&rig, "filter", &args);
        flood.send(3);
        let (out, err) = monitor.end();
        assert_eq!(counts(&err), (count, 0), "{args:?}: {out}");
        if count > 0 {
            let line = out.lines().next().unwrap();
            let said = format!(" prio backup on token {} client-token ", &server[2..]);
            assert!(line.contains(&said), "{line}");
            assert!(
                line.contains(" server 10.77.0.1:5001 > 10.77.0.2:"),
                "{line}"
            );
            assert!(line.contains(" dev p0 "), "{line}");
        }
    }
    connection.close();
    // The end of the policy is the end.
    let monitor = Reader::start(&rig, "gone", &["monitor"]);
    rig.run(&["delete"]).ok();
    let (_, err) = monitor.wait();
    assert!(err.contains("is gone"), "{err}");
    rig.assert_nothing_left();
}

#[test]
fn root_monitor_tells_of_what_a_policy_asks_for() {
    let rig = rig();
    let chain = |name: &str, hook: &Value, event: &str| {
        json!({ "name": name, "hook": hook, "interfaces": ["p0", "p1"],
            "select": { "length": { "min": 1000 } }, "act": [{ "event": { "name": event } }] })
    };
    let both = json!(["tc-ingress", "tc-egress"]);
    // The actor brings the tracker.
    rig.apply(&json!([
        chain("large", &both, "large one"),
        chain("back", &json!("tc-ingress"), "down")
    ]))
    .ok();
    let mut first = Connection::open(&rig, false);
    first.exchange(4096);
    // Nobody read.
    let monitor = Reader::start(&rig, "m", &["--json", "monitor", "threshold"]);
    first.exchange(65536);
    first.exchange(65536);
    let tokens = [token(&rig.far), token(&rig.near)];
    first.close();
    let mut second = Connection::open(&rig, true);
    second.exchange(65536);
    let (out, err) = monitor.end();
    second.close();
    let all = events(&out);
    let said = |e: &Value| {
        let fields = ["name", "chain", "hook", "src_is", "src"];
        fields.map(|f| e[f].as_str().unwrap().to_owned()).join(", ")
    };
    let said: Vec<String> = all.iter().map(said).collect();
    // Each step once for a subflow, whatever its direction; steps of two hooks are two.
    assert_eq!(
        said,
        [
            "large one, large, tc-egress, client, 10.77.0.2",
            "large one, large, tc-ingress, server, 10.77.0.1",
            "down, back, tc-ingress, server, 10.77.0.1",
            "large one, large, tc-egress, client, fd77::2",
            "large one, large, tc-ingress, server, fd77::1",
            "down, back, tc-ingress, server, fd77::1",
        ],
        "{out}"
    );
    for event in &all[..3] {
        assert_eq!(
            (&event["token"], &event["client_token"]),
            (&json!(tokens[0]), &json!(tokens[1]))
        );
    }
    let bytes = all[0]["src_bytes"].as_u64().unwrap();
    assert!(bytes > 4096 && bytes <= 4096 + 65536, "{bytes}");
    assert_eq!(counts(&err), (6, 0));
}
