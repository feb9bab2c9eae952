//! Views of the tracker beside what the kernel says of the same sockets.

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use emptcp_lab::Lab;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use serde_json::json;

use super::raw;
use super::reader::Reader;
use super::rig::Killed;
use super::rig::Netns;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::wait_for;
use super::ss::Socket;
use super::ss::place;
use super::ss::sockets;

const PORT: u16 = 5001;
const LIMIT: Duration = Duration::from_secs(10);

/// A connection of two subflows between `far`, the client, and `near`, where the policy is.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// The kernel takes further subflows as long as somebody listens.
    _listener: TcpListener,
}

impl Connection {
    fn new(client: &Netns, server: &Netns, address: IpAddr) -> Self {
        let any: IpAddr = match address {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let listener = server.within(|| TcpListener::from(raw::mptcp_listener(any, PORT)));
        let listening = listener.try_clone().unwrap();
        let accept = std::thread::spawn(move || listening.accept().unwrap().0);
        let connect = || TcpStream::from(raw::mptcp_connect(SocketAddr::new(address, PORT)));
        let connection = Self {
            client: client.within(connect),
            server: accept.join().unwrap(),
            _listener: listener,
        };
        for stream in [&connection.client, &connection.server] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        connection
    }

    /// Sends so many bytes up, then down.
    fn carry(&self, up: usize, down: usize) {
        for (mut from, mut to, count) in [
            (&self.client, &self.server, up),
            (&self.server, &self.client, down),
        ] {
            let bytes = vec![7; count];
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&bytes).unwrap());
                to.read_exact(&mut vec![0; count]).unwrap();
            });
        }
    }
}

fn rig() -> Rig {
    let rig = Rig::new(2, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 && ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    // Another window scale.
    rig.far
        .sh("sysctl -qw net.ipv4.tcp_rmem='4096 131072 6291456'");
    rig
}

fn track(rig: &Rig) -> Ran {
    let policy = json!({ "version": 1, "track": ["p*"], "chains": [] });
    let path = rig.folder.write("track.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()])
}

fn view(rig: &Rig, verb: &str) -> Value {
    rig.run(&["--json", verb]).ok().json()
}

fn two_subflows(netns: &Netns) {
    wait_for("two subflows", LIMIT, || sockets(netns).len() == 2);
    // Nothing is under way.
    std::thread::sleep(Duration::from_millis(100));
}

/// The view, and the sockets of both ends, at a time when nothing was under way.
fn at_rest(rig: &Rig) -> (Value, Vec<Socket>, Vec<Socket>) {
    let moving = |socket: &Socket| {
        let names = [
            "bytes_sent",
            "bytes_retrans",
            "segs_out",
            "segs_in",
            "rtt",
            "cwnd",
        ];
        names.map(|name| socket.field(name).map(str::to_owned))
    };
    let all = || [&rig.near, &rig.far].map(sockets);
    let mut before = all();
    for _ in 0..100 {
        let views = view(rig, "subflows");
        let after = all();
        let same = |end: usize| {
            before[end]
                .iter()
                .map(moving)
                .eq(after[end].iter().map(moving))
        };
        if same(0) && same(1) {
            let [near, far] = after;
            return (views, near, far);
        }
        before = after;
    }
    panic!("it never rests: {before:#?}");
}

/// What the tracker says of each subflow is what the kernels of both ends say. `counted`: figures
/// too, for the tracker was there from the beginning.
fn assert_as_kernels(rig: &Rig, counted: bool) {
    let (views, near, far) = at_rest(rig);
    let views = views.as_array().unwrap();
    assert_eq!(views.len(), 2, "{views:#?}");
    let server = near[0].token(false).0;
    for (index, v) in views.iter().enumerate() {
        assert_eq!(v["index"], index);
        assert_eq!(v["kind"], ["initial", "joined"][index], "{v:#}");
        assert_eq!(v["state"], "established");
        assert_eq!(v["opener_known"], true);
        assert_eq!(v["client"], "from", "{v:#}");
        assert_eq!(v["taken_over"], !counted);
        assert_eq!(v["token"].as_str(), server.as_deref());
        let (from, to) = (&v["from"], &v["to"]);
        for (sockets, this, other) in [(&far, from, to), (&near, to, from)] {
            let what = format!("{v:#}\n{sockets:#?}");
            let is = |s: &&Socket| s.local == place(this) && s.remote == place(other);
            let socket = sockets.iter().find(is);
            let socket = socket.unwrap_or_else(|| panic!("{what}"));
            let (_, id) = socket.token(false);
            assert_eq!(this["address_id"], id, "{what}");
            let (send, receive) = socket.field("wscale").unwrap().split_once(',').unwrap();
            assert_eq!(other["wscale"].to_string(), send, "{what}");
            assert_eq!(this["wscale"].to_string(), receive, "{what}");
            assert_eq!(this["asks_backup"], false, "{what}");
            if counted {
                assert_eq!(this["bytes"], socket.number("bytes_sent"), "{what}");
                let again = socket.number("bytes_retrans");
                assert_eq!(this["retransmitted_bytes"], again, "{what}");
                assert_eq!(other["packets"], socket.number("segs_in"), "{what}");
                // The SYN/ACK goes out before there is a socket that counts.
                let synack = u64::from(std::ptr::eq(this, to));
                let out = socket.number("segs_out") + synack;
                assert_eq!(this["packets"], out, "{what}");
                assert!(this["srtt_us"].as_u64().unwrap() > 0, "{what}");
                let hook = if std::ptr::eq(this, from) {
                    "tc-ingress"
                } else {
                    "tc-egress"
                };
                assert_eq!(this["hook"], hook, "{what}");
                assert_eq!(this["interface"], format!("p{index}"), "{what}");
            }
        }
        // The socket of this network namespace.
        let socket = near.iter().find(|s| s.local == place(to)).unwrap();
        assert!(from["kernel"].is_null(), "{v:#}");
        let kernel = &to["kernel"];
        assert_eq!(kernel["token"].as_str(), socket.token(false).0.as_deref());
        assert_eq!(
            kernel["token_remote"].as_str(),
            socket.token(true).0.as_deref()
        );
        assert_eq!(kernel["cwnd"], socket.number("cwnd"), "{v:#}");
        let rtt: f64 = socket
            .field("rtt")
            .unwrap()
            .split_once('/')
            .unwrap()
            .0
            .parse()
            .unwrap();
        assert_eq!(
            kernel["srtt_us"].as_f64().unwrap(),
            (rtt * 1000.0).round(),
            "{v:#}"
        );
    }
}

/// Both families: addresses of the server, and of its second address.
const ADDRESSES: [(&str, &str); 2] = [("10.77.0.2", "10.77.1.2"), ("fd77:0::2", "fd77:1::2")];

#[test]
fn root_views_are_as_the_kernels() {
    let rig = rig();
    track(&rig).ok();
    for (address, second) in ADDRESSES {
        rig.near.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} signal"
        ));
        let connection = Connection::new(&rig.far, &rig.near, address.parse().unwrap());
        connection.carry(1000, 1000);
        two_subflows(&rig.near);
        connection.carry(1 << 20, 3 << 20);
        std::thread::sleep(Duration::from_millis(200));

        assert_as_kernels(&rig, true);
        let connections = view(&rig, "connections");
        let server = sockets(&rig.near)[0].token(false).0;
        let client = sockets(&rig.far)[0].token(false).0;
        let c = &connections[0];
        assert_eq!(connections.as_array().unwrap().len(), 1, "{connections:#}");
        assert_eq!(c["token"].as_str(), server.as_deref());
        assert_eq!(c["client_token"].as_str(), client.as_deref());
        assert_eq!(c["state"], "open");
        assert_eq!(
            (&c["subflows"], &c["subflows_ever"]),
            (&json!(2), &json!(2))
        );
        let peer = connection.client.peer_addr().unwrap();
        assert_eq!(c["server"], peer.to_string(), "{c:#}");
        assert_eq!(
            c["client"],
            connection.client.local_addr().unwrap().to_string()
        );
        assert!(c["fallback"].is_null());
        // What the other end got, and what was sent a second time on another subflow.
        assert!(c["bytes_up"].as_u64().unwrap() >= (1 << 20) + 1000, "{c:#}");
        assert!(c["bytes_down"].as_u64().unwrap() >= (3 << 20) + 1000);

        // Filters, and the tables for people.
        let server = server.unwrap();
        let lines = |args: &[&str]| rig.run(args).ok().out.lines().count();
        assert_eq!(lines(&["subflows", "-i"]), 3);
        assert_eq!(lines(&["subflows", "--token", &server]), 3);
        assert_eq!(lines(&["subflows", "--token", "1"]), 1);
        assert_eq!(lines(&["subflows", "--dev", "p1"]), 2);
        assert_eq!(lines(&["connections"]), 2);
        rig.run(&["subflows", "--dev", "p9"])
            .fails(&["no interface", "p9"]);

        drop(connection);
        wait_for("nothing is left", LIMIT, || {
            view(&rig, "subflows") == json!([]) && view(&rig, "connections") == json!([])
        });
    }
}

/// The tracker keeps the keys of connections; no verb prints one, once or again and again. Each rig
/// looks for keys in all that it has read (`secrets.rs`): here they are those of the tracker, and
/// all verbs run that could know of them.
#[test]
fn root_views_show_no_key() {
    let rig = rig();
    track(&rig).ok();
    let connection = Connection::new(&rig.far, &rig.near, "10.77.0.2".parse().unwrap());
    connection.carry(1000, 1000);
    let pins = rig.bpffs.path.join("emptcp/v1");
    let home = std::fs::read_dir(pins).unwrap().next().unwrap().unwrap();
    let pin = home.path().join("state/k-secrets");
    let dump = rig
        .near
        .sh(&format!("bpftool -j map dump pinned {}", pin.display()));
    let entries: Value = serde_json::from_str(&dump).unwrap();
    let value = entries[0]["value"].as_array().unwrap();
    assert_eq!((entries.as_array().unwrap().len(), value.len()), (1, 16));
    // What is found is what the tracker has.
    super::secrets::heard(&dump);
    assert_eq!(
        rig.shown_keys().len(),
        1,
        "a key is not known, or not found"
    );

    let subflows = view(&rig, "subflows");
    let [from, to] = ["from", "to"].map(|end| place(&subflows[0][end]));
    let subflow = format!("{from}-{to}");
    let prio = r#"{ "option": "mp_prio", "backup": true }"#;
    let file = rig.folder.0.join("track.json");
    let file = file.to_str().unwrap();
    for verb in [
        &["status"] as &[&str],
        &["status", "--state"],
        &["connections"],
        &["subflows", "-a", "-i"],
        &["show"],
        &["apply", "--dry-run", file],
        &["apply", file],
        &["check", file],
        &["explain", file],
        &["doctor"],
        &["set-prio", &subflow, "backup", "--dry-run"],
        &["inject", &subflow, prio, "--to", "both", "--dry-run"],
        &["set-prio", &subflow, "backup"],
    ] {
        for json in [&["--json"] as &[&str], &[], &["-v"]] {
            let ran = rig.run(&[json, verb].concat());
            assert_eq!(ran.code, Some(0), "{json:?} {verb:?}: {}", ran.err);
            assert!(!ran.out.contains("secrets"), "{}", ran.out);
        }
    }
    for verb in ["connections", "subflows"] {
        for (number, json) in [&["--json"] as &[&str], &[]].into_iter().enumerate() {
            let out = rig.folder.write(&format!("{verb}.{number}"), "");
            let mut command = rig.emptcp(&[json, &[verb, "-w"]].concat());
            command.stdout(std::fs::File::create(&out).unwrap());
            let _watch = Killed(command.spawn().unwrap());
            let shown = || std::fs::read_to_string(&out).unwrap();
            wait_for("it is shown twice", LIMIT, || {
                shown().matches("10.77.0.2").count() >= 2
            });
        }
    }
    assert_eq!(rig.shown_keys(), [""; 0]);
}

/// Subflows keep the bytes of their connection to themselves until a policy goes by them.
#[test]
fn root_totals_are_the_same_with_and_without() {
    const CARRIED: u64 = 100_000;
    let rig = rig();
    rig.near.sh("ip mptcp endpoint add 10.77.1.2 signal");
    track(&rig).ok();
    let connection = Connection::new(&rig.far, &rig.near, "10.77.0.2".parse().unwrap());
    connection.carry(1000, 1000);
    two_subflows(&rig.near);
    connection.carry(CARRIED as usize, CARRIED as usize);
    let bytes = || {
        let (subflows, ..) = at_rest(&rig);
        let sum = |end: &str| -> u64 {
            let subflows = subflows.as_array().unwrap().iter();
            let number = |v: &Value, name: &str| v[end][name].as_u64().unwrap();
            subflows
                .map(|v| number(v, "bytes") - number(v, "retransmitted_bytes"))
                .sum()
        };
        let connections = view(&rig, "connections");
        let shown = ["bytes_up", "bytes_down"].map(|way| connections[0][way].as_u64().unwrap());
        assert_eq!(shown, ["from", "to"].map(sum), "{connections:#}");
        shown
    };
    let before = bytes();
    assert!(before.iter().all(|way| *way > CARRIED), "{before:?}");

    // What was carried before counts, in each direction with its next data.
    let grown = |way: &str, bytes: u64| {
        json!({ "name": way, "hook": "tc-egress", "interfaces": ["p*"],
            "select": { "conn_bytes": { "min": bytes, "direction": way } }, "act": [{ "record": {} }] })
    };
    let chains = json!([grown("up", before[0] + 1), grown("down", before[1] + 1)]);
    let policy = json!({ "version": 1, "track": ["p*"], "chains": chains });
    let path = rig.folder.write("totals.json", policy.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
    assert_eq!(bytes(), before);
    for _ in 0..5 {
        connection.carry(1 << 20, 1 << 20);
    }
    let status = rig.status();
    for chain in ["up", "down"] {
        assert!(chain_packets(&status, chain) > Some(0), "{status:#}");
    }
    let counted = bytes();
    assert!(
        counted
            .iter()
            .zip(before)
            .all(|(now, before)| *now >= before + (5 << 20)),
        "{counted:?}"
    );
    // Back to none that asks.
    track(&rig).ok();
    connection.carry(CARRIED as usize, CARRIED as usize);
    let after = bytes();
    assert!(
        after
            .iter()
            .zip(counted)
            .all(|(now, before)| *now >= before + CARRIED),
        "{after:?}"
    );
}

#[test]
fn root_views_need_a_tracker() {
    let rig = rig();
    rig.run(&["connections"]).fails(&["no policy is in force"]);
    rig.apply(&json!([])).ok();
    rig.run(&["subflows"])
        .fails(&["tracks no connections", "\"track\""]);
}

/// Connections that were there before the tracker, on the host of their server.
#[test]
fn root_connections_are_taken_over() {
    let rig = rig();
    for (address, second) in ADDRESSES {
        rig.near.sh(&format!(
            "ip mptcp endpoint flush; ip mptcp endpoint add {second} signal"
        ));
        let connection = Connection::new(&rig.far, &rig.near, address.parse().unwrap());
        connection.carry(5000, 5000);
        two_subflows(&rig.near);
        track(&rig).ok();
        assert_as_kernels(&rig, false);
        for v in view(&rig, "subflows").as_array().unwrap() {
            assert_eq!(
                (&v["from"]["bytes"], &v["to"]["bytes"]),
                (&json!(0), &json!(0))
            );
        }
        let c = &view(&rig, "connections")[0];
        assert_eq!(c["taken_over"], true);
        assert_eq!(
            (&c["subflows"], &c["subflows_ever"]),
            (&json!(2), &json!(2))
        );
        // A second apply takes nobody over twice.
        track(&rig).ok();

        connection.carry(100_000, 200_000);
        std::thread::sleep(Duration::from_millis(200));
        let c = &view(&rig, "connections")[0];
        assert!(c["bytes_up"].as_u64().unwrap() >= 100_000, "{c:#}");
        assert!(c["bytes_down"].as_u64().unwrap() >= 200_000, "{c:#}");
        assert!(c["fallback"].is_null(), "{c:#}");
        assert_eq!(
            (&c["subflows"], &c["subflows_ever"]),
            (&json!(2), &json!(2))
        );
        drop(connection);
        wait_for("nothing is left", LIMIT, || {
            view(&rig, "subflows") == json!([]) && view(&rig, "connections") == json!([])
        });
        rig.run(&["delete"]).ok();
    }
}

/// In the zone in which the interface with the address is tracked.
#[test]
fn root_connections_are_taken_over_into_their_zone() {
    let rig = rig();
    let connection = Connection::new(&rig.far, &rig.near, "10.77.0.2".parse().unwrap());
    connection.carry(5000, 5000);
    let chain = |name: &str, interface: &str, zone: u32| {
        json!({ "name": name, "hook": "tc-egress", "interfaces": [interface], "zone": zone,
            "select": { "age": { "min": "1h" } }, "act": [{ "accept": {} }] })
    };
    rig.apply(&json!([chain("first", "p0", 7), chain("second", "p1", 8)]))
        .ok();
    let zones = |what: &str| {
        let all = view(&rig, what);
        let zones = all.as_array().unwrap().iter().map(|v| v["zone"].clone());
        zones.collect::<Vec<_>>()
    };
    assert_eq!(
        (zones("subflows"), zones("connections")),
        (vec![json!(7)], vec![json!(7)])
    );
    connection.carry(100_000, 200_000);
    std::thread::sleep(Duration::from_millis(100));
    let c = &view(&rig, "connections")[0];
    assert!(c["bytes_down"].as_u64().unwrap() >= 200_000, "{c:#}");
    assert_eq!(
        (zones("subflows"), &c["subflows"]),
        (vec![json!(7)], &json!(1))
    );
}

/// The client's host knows the token of the server from joined subflows only.
#[test]
fn root_a_client_is_taken_over() {
    let rig = rig();
    rig.far.sh("ip mptcp endpoint add 10.77.1.1 signal");
    let connection = Connection::new(&rig.near, &rig.far, "10.77.0.1".parse().unwrap());
    connection.carry(5000, 5000);
    two_subflows(&rig.far);
    track(&rig).ok();
    let server = sockets(&rig.far)[0].token(false).0;
    let client = sockets(&rig.near)[0].token(false).0;
    let c = &view(&rig, "connections")[0];
    assert_eq!(c["token"].as_str(), server.as_deref());
    assert_eq!(c["client_token"].as_str(), client.as_deref());
    assert_eq!(c["subflows"], 2);
    for v in view(&rig, "subflows").as_array().unwrap() {
        assert_eq!(v["token"].as_str(), server.as_deref());
        assert_eq!(v["client"], "from");
        assert!(place(&v["to"]).ends_with(":5001"), "{v:#}");
    }
    drop(connection);
    wait_for("nothing is left", LIMIT, || {
        view(&rig, "subflows") == json!([])
    });

    // Of a single subflow it does not.
    rig.run(&["delete"]).ok();
    rig.far.sh("ip mptcp endpoint flush");
    let _connection = Connection::new(&rig.near, &rig.far, "10.77.0.1".parse().unwrap());
    track(&rig).ok();
    let c = &view(&rig, "connections")[0];
    assert!(c["token"].is_null(), "{c:#}");
    assert_eq!(
        (&c["subflows"], &c["taken_over"]),
        (&json!(1), &json!(true))
    );
}

/// How many subflows the lists of connections have.
fn listed(rig: &Rig) -> usize {
    let state = rig.run(&["--json", "status", "--state"]).ok().out;
    state.matches("\"place\": ").count()
}

/// Entries that no packet removes.
#[test]
fn root_idle_subflows_are_forgotten() {
    let rig = rig();
    // Packets of one of two do not come by.
    rig.near.sh("ip mptcp endpoint add 10.77.1.2 signal");
    let unseen = Connection::new(&rig.near, &rig.near, "127.0.0.1".parse().unwrap());
    wait_for("sockets of both ends", LIMIT, || {
        sockets(&rig.near).len() >= 2
    });
    track(&rig).ok();
    assert_eq!(view(&rig, "connections").as_array().unwrap().len(), 1);
    let sweep = |args: &[&str]| {
        let all = [&["--json", "connections", "--sweep"], args].concat();
        rig.run(&all).ok().json()
    };
    let nothing = json!({ "subflows": 0, "half_open": 0, "connections": 0 });
    assert_eq!(sweep(&[]), nothing);
    let count = view(&rig, "subflows").as_array().unwrap().len();
    assert!(count >= 1);
    drop(unseen);
    wait_for("no socket", LIMIT, || sockets(&rig.near).is_empty());
    assert_eq!(listed(&rig), count);
    assert_eq!(sweep(&[])["subflows"], count);
    assert_eq!(view(&rig, "subflows"), json!([]));
    assert_eq!(listed(&rig), 0);
    assert_eq!(view(&rig, "connections")[0]["state"], "closed");

    let connection = Connection::new(&rig.far, &rig.near, "10.77.0.2".parse().unwrap());
    connection.carry(5000, 5000);
    two_subflows(&rig.near);
    assert_eq!(sweep(&["--idle", "60s"]), nothing);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(listed(&rig), 2);
    assert_eq!(sweep(&["--idle", "1s"])["subflows"], 2);
    assert_eq!(view(&rig, "subflows"), json!([]));
    assert_eq!(listed(&rig), 0);
    let all = view(&rig, "connections");
    assert!(
        all.as_array()
            .unwrap()
            .iter()
            .all(|c| c["state"] == "closed" && c["subflows"] == 0),
        "{all:#}"
    );
}

/// `run` does so by itself, every ten seconds.
#[test]
fn root_what_has_no_socket_is_forgotten_by_run() {
    let rig = rig();
    let unseen = Connection::new(&rig.near, &rig.near, "127.0.0.1".parse().unwrap());
    wait_for("sockets of both ends", LIMIT, || {
        sockets(&rig.near).len() >= 2
    });
    track(&rig).ok();
    let run = Reader::start(&rig, "run", &["run"]);
    let count = view(&rig, "subflows").as_array().unwrap().len();
    assert!(count >= 1);
    drop(unseen);
    wait_for("no socket", LIMIT, || sockets(&rig.near).is_empty());
    // It has not looked yet: that nobody sees the end is why somebody has to.
    assert_eq!(listed(&rig), count);
    wait_for("nothing is listed", 2 * LIMIT, || listed(&rig) == 0);
    assert_eq!(view(&rig, "subflows"), json!([]));
    assert_eq!(view(&rig, "connections")[0]["state"], "closed");
    let said = run.end().1;
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// What does not fit is told, and the rest is right.
#[test]
fn root_what_fits_is_taken_over() {
    let rig = rig();
    rig.near.sh("ip mptcp endpoint add 10.77.1.2 signal");
    let connection = Connection::new(&rig.far, &rig.near, "10.77.0.2".parse().unwrap());
    connection.carry(5000, 5000);
    two_subflows(&rig.near);
    let policy =
        json!({ "version": 1, "track": ["p*"], "limits": { "subflows": 1 }, "chains": [] });
    let path = rig.folder.write("track.json", policy.to_string());
    let ran = rig.run(&["apply", path.to_str().unwrap()]).ok();
    assert!(ran.err.contains("no room for 1 subflows"), "{}", ran.err);
    assert_eq!(view(&rig, "subflows").as_array().unwrap().len(), 1);
    assert_eq!(view(&rig, "connections")[0]["subflows"], 1);
}

/// Round-trip times of the two paths of the lab, in milliseconds.
const PATHS: [u32; 2] = [20, 60];

/// Two paths that lose 1 %, in each direction.
fn lossy() -> Lab {
    let path = |n: usize| {
        let delay = format!("{}ms", PATHS[n] / 2);
        json!({ "name": format!("path{n}"), "rate": "50Mbit", "delay": delay, "loss": 0.01,
            "seed": n + 1, "queue": "128KiB",
            "a": { "host": "client", "dev": format!("p{n}"), "addresses":
                [format!("10.77.{n}.1/24"), format!("fd77:{n}::1/64")],
                "gateways": [format!("10.77.{n}.2"), format!("fd77:{n}::2")] },
            "b": { "host": "server", "dev": format!("p{n}"), "addresses":
                [format!("10.77.{n}.2/24"), format!("fd77:{n}::2/64")] } })
    };
    let host = json!({ "mptcp": { "limits": { "subflows": 4, "add_addr_accepted": 4 } } });
    let text = json!({ "version": 1, "hosts": { "client": host, "server": host },
        "links": [path(0), path(1)] });
    Lab::from_json(&text.to_string()).unwrap()
}

/// Segments that a kernel has sent again, as it tells; and the time that packets take there and back,
/// as it measures it.
#[test]
fn root_views_under_loss() {
    for (address, second) in ADDRESSES {
        let lab = lossy();
        let rig = Rig::in_lab(&lab, "server", "client");
        rig.near
            .sh(&format!("ip mptcp endpoint add {second} signal"));
        track(&rig).ok();
        let connection = Connection::new(&rig.far, &rig.near, address.parse().unwrap());
        super::raw::set_congestion(&connection.server, "cubic");
        connection.carry(1000, 1000);
        two_subflows(&rig.near);
        let mut again = 0;
        for _ in 0..6 {
            connection.carry(1000, 2 << 20);
            let (views, near, _) = at_rest(&rig);
            let views = views.as_array().unwrap();
            assert_eq!(views.len(), 2, "{views:#?}");
            let text = rig.run(&["subflows", "-i"]).ok().out;
            let mut lines = text.lines();
            let header = lines.next().unwrap();
            let behind = header.split_whitespace().rev();
            // OWN TOKEN is two words.
            let column = behind.skip(2).position(|w| w == "RETRANS").unwrap();
            for (index, v) in views.iter().enumerate() {
                let (from, to) = (&v["from"], &v["to"]);
                let is = |s: &&Socket| s.local == place(to) && s.remote == place(from);
                let socket = near.iter().find(is).unwrap();
                let retrans = socket.field("retrans").unwrap_or("0/0");
                let resent: u64 = retrans.split_once('/').unwrap().1.parse().unwrap();
                assert_eq!(to["kernel"]["retransmits"], resent, "{v:#}\n{socket:#?}");
                let line = lines.next().unwrap();
                let cell = line.split_whitespace().rev().nth(1 + column).unwrap();
                assert_eq!(cell, resent.to_string(), "{text}");
                let bytes = to["retransmitted_bytes"].as_u64().unwrap();
                assert_eq!(bytes > 0, resent > 0, "{v:#}\n{socket:#?}");
                again += resent;
                let rtt = socket.field("rtt").unwrap().split_once('/').unwrap().0;
                let (rtt, base) = (rtt.parse::<f64>().unwrap(), f64::from(PATHS[index]));
                let srtt = to["srtt_us"].as_f64().unwrap() / 1000.0;
                println!("{address}, path {index}: srtt {srtt}, kernel {rtt}; {resent} again");
                assert!((srtt / rtt - 1.0).abs() < 0.35, "{srtt}, kernel {rtt}");
                let least = to["min_rtt_us"].as_f64().unwrap() / 1000.0;
                assert!(least > base * 0.97 && least < base * 1.25, "{v:#}");
                // From the server's interface to the server there is no path.
                let here = from["srtt_us"].as_f64().unwrap() / 1000.0;
                assert!(here < base / 4.0, "{v:#}");
            }
        }
        assert!(again > 10, "nothing was lost");
        drop(connection);
        // First: the namespaces are its.
        drop(lab);
    }
}

/// `-w` shows what comes and goes until a signal ends it.
#[test]
fn root_views_are_shown_again() {
    let rig = rig();
    rig.near.sh("ip mptcp endpoint add 10.77.1.2 signal");
    track(&rig).ok();
    for (verb, signal, count) in [
        ("subflows", Signal::SIGINT, 2),
        ("connections", Signal::SIGTERM, 1),
    ] {
        let start = |json: &[&str], name: &str| {
            let out = rig.folder.write(name, "");
            let mut command = rig.emptcp(&[json, &[verb, "-w", "1"]].concat());
            command.stdout(std::fs::File::create(&out).unwrap());
            (Killed(command.spawn().unwrap()), out)
        };
        let shown = [start(&["--json"], "json"), start(&[], "text")];
        let read = |n: usize| std::fs::read_to_string(&shown[n].1).unwrap();
        // A line each time; one header and a row for each.
        let last = || {
            let text = read(0);
            let line = text.lines().last().unwrap_or("null");
            serde_json::from_str::<Value>(line).unwrap_or_default()
        };
        let rows = || {
            let text = read(1);
            let all: Vec<_> = text.lines().collect();
            let header = all.iter().rposition(|line| line.starts_with("TOKEN"));
            header.map(|at| all.len() - at - 1)
        };
        wait_for("nothing", LIMIT, || {
            last() == json!([]) && rows() == Some(0)
        });
        let connection = Connection::new(&rig.far, &rig.near, "10.77.0.2".parse().unwrap());
        connection.carry(1000, 1000);
        two_subflows(&rig.near);
        let all = || last().as_array().map(Vec::len);
        wait_for("they are shown", LIMIT, || {
            all() == Some(count) && rows() == Some(count)
        });
        // Figures grow.
        let bytes = || match verb {
            "subflows" => {
                let all = last();
                let all = all.as_array().unwrap().iter();
                all.map(|v| v["to"]["bytes"].as_u64().unwrap()).sum()
            }
            _ => last()[0]["bytes_down"].as_u64().unwrap(),
        };
        let before: u64 = bytes();
        connection.carry(1000, 1 << 20);
        wait_for("more bytes", LIMIT, || bytes() >= before + (1 << 20));
        drop(connection);
        wait_for("they are gone", LIMIT, || {
            last() == json!([]) && rows() == Some(0)
        });
        for (mut child, _) in shown {
            kill(Pid::from_raw(child.0.id() as i32), signal).unwrap();
            let mut status = None;
            wait_for("its end", Duration::from_millis(500), || {
                status = child.0.try_wait().unwrap();
                status.is_some()
            });
            assert_eq!(status.unwrap().signal(), Some(signal as i32));
        }
        let lines = std::fs::read_to_string(rig.folder.0.join("json")).unwrap();
        for line in lines.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
}
