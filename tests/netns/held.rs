// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! A path manager in the kernel, `examples/delay-endpoints.json`: further subflows of the client's
//! own endpoints only for connections that carry much. Their SYN is held, and sent when data pass
//! the threshold, by uploads and downloads, in both families, with complete and incomplete
//! checksums.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::mptcp::counter;
use super::pair;
use super::pair::LIMIT;
use super::pair::fill;
use super::pair::listen;
use super::pair::send;
use super::raw;
use super::raw::Frames;
use super::reader::Reader;
use super::rig::Netns;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::often;
use super::rig::wait_for;

/// Of the first connection; each has its own, as those of the one before may not be free yet.
pub(super) const PORT: u16 = 5001;
/// Bytes below which a connection gets no further subflow.
pub(super) const THRESHOLD: usize = 220 << 10;
/// Bytes of a transfer.
pub(super) const SIZE: usize = 1 << 20;
/// Connections of each kind; eight kinds.
fn each() -> usize {
    often(6, 20)
}
/// Bytes that pass the threshold, behind what went before. Few: Linux 6.18 damages some connections
/// that get a subflow while much is under way through interfaces without offloads
/// (DSSNotMatching, and bytes in the wrong place; also without a policy).
const PASSES: usize = 160 << 10;
/// What a SYN may take from the write that passes the threshold until the server sees it: median.
/// It takes one or two milliseconds where the machine has nothing else to do, its retry a second.
const SOON: Duration = Duration::from_millis(50);

/// After this a client sends its SYN once more (TCP_TIMEOUT_INIT).
const SYN_TIMEOUT: Duration = Duration::from_secs(1);

/// Chains of the example, for these interfaces.
pub(super) fn chains() -> Value {
    let text = include_str!("../../examples/delay-endpoints.json");
    let mut policy: Value = serde_json::from_str(text).unwrap();
    for chain in policy["chains"].as_array_mut().unwrap() {
        chain["interfaces"] = json!(["p0", "p1"]);
    }
    policy["chains"].take()
}

/// The client is `near`, with an endpoint of its own at the second link.
pub(super) fn rig(tc: Tc) -> Rig {
    let rig = Rig::new(2, tc);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 net.ipv4.conf.all.rp_filter=0 \
             net.ipv4.conf.p0.rp_filter=0 net.ipv4.conf.p1.rp_filter=0 && \
             ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.near.sh(
        "ip rule add from 10.77.1.2 table 7 && ip route add default via 10.77.1.1 dev p1 table 7 && \
         ip -6 rule add from fd77:1::2 table 7 && \
         ip -6 route add default via fd77:1::1 dev p1 table 7",
    );
    rig
}

/// The endpoint, in the family of the server's address.
pub(super) fn endpoint(rig: &Rig, address: IpAddr) {
    let of = match address {
        IpAddr::V4(_) => "10.77.1.2",
        IpAddr::V6(_) => "fd77:1::2",
    };
    rig.near.sh(&format!(
        "ip mptcp endpoint flush; ip mptcp endpoint add {of} dev p1 id 9 subflow"
    ));
}

pub(super) fn server_address(version: u8) -> IpAddr {
    let address = match version {
        4 => "10.77.0.1",
        _ => "fd77:0::1",
    };
    address.parse().unwrap()
}

/// A connection: the client's end, the server's, and what further subflows come to.
pub(super) fn connect(
    rig: &Rig,
    address: IpAddr,
    port: u16,
) -> (TcpStream, TcpStream, TcpListener) {
    let listener = listen(&rig.far, address.is_ipv6(), port);
    let (near, far) = pair::connect(&rig.near, SocketAddr::new(address, port), &listener);
    (near, far, listener)
}

/// Whether a frame is a SYN without ACK to this port.
fn is_syn(frame: &[u8], port: u16) -> bool {
    let tcp = match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => return false,
    };
    frame.len() > tcp + 13
        && frame[tcp + 2..tcp + 4] == port.to_be_bytes()
        && frame[tcp + 13] & 0x12 == 0x02
}

/// When the next SYN to this port comes.
fn next_syn(frames: &Frames, port: u16, limit: Duration) -> Option<Instant> {
    let end = Instant::now() + limit;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        match frames.next(left) {
            Some(frame) if is_syn(&frame, port) => return Some(Instant::now()),
            _ => {}
        }
    }
    None
}

/// What nothing of this may cause.
fn errors(ends: [&Netns; 2]) -> Vec<u64> {
    let names = [
        "TcpInCsumErrors",
        "TcpInErrs",
        "IpInHdrErrors",
        "IpExtInTruncatedPkts",
        "Ip6InHdrErrors",
        "Ip6InTruncatedPkts",
        "MPTcpExtDataCsumErr",
        "MPTcpExtMPJoinSynAckHMacFailure",
        "MPTcpExtMPJoinAckHMacFailure",
        "MPTcpExtMPCapableDataFallback",
        "MPTcpExtMPCapableFallbackACK",
        "MPTcpExtDssFallback",
        "MPTcpExtMPFailTx",
    ];
    let all = ends.map(|end| names.map(|name| counter(end, name)));
    all.concat()
}

/// Subflows that have joined, as the server counts them.
pub(super) fn joins(rig: &Rig) -> u64 {
    counter(&rig.far, "MPTcpExtMPJoinAckRx")
}

/// Matches of a step, in all hooks.
pub(super) fn matched(rig: &Rig, module: &str) -> u64 {
    let status = rig.status();
    let chains = status["chains"].as_array().unwrap();
    let steps = chains.iter().flat_map(|c| c["steps"].as_array().unwrap());
    let steps = steps.filter(|s| s["module"] == module);
    let counts = steps.map(|step| {
        assert_eq!(step["errors"], 0, "{status}");
        step["matched"].as_u64().unwrap()
    });
    counts.sum()
}

/// What `status --state` says of SYNs that were held.
pub(super) fn held(rig: &Rig) -> Vec<Value> {
    let status = rig.run(&["--json", "status", "--state"]).ok().json();
    let maps = status["state"].as_array().unwrap();
    let map = maps.iter().find(|map| map["map"] == "held_joins");
    map.map_or(Vec::new(), |map| map["entries"].as_array().unwrap().clone())
}

/// One connection, behind `before` others; how long the SYN took from the write that passes the
/// threshold, and whether the client may have sent it once more before.
fn connection(rig: &Rig, address: IpAddr, before: u16, down: bool) -> (Duration, bool) {
    let port = PORT + before;
    let ifindex = rig.far.ifindex("p1");
    let frames = rig.far.within(|| Frames::listen(ifindex));
    let (start, holds) = (Instant::now(), matched(rig, "hold_join"));
    let (near, far, _listener) = connect(rig, address, port);
    let bytes = fill(port.into(), SIZE);
    let (from, to) = match down {
        true => (&far, &near),
        false => (&near, &far),
    };
    let joined = joins(rig);
    let few = &bytes[..THRESHOLD / 4];
    send(&near, &far, few);
    send(&far, &near, few);
    assert_eq!(
        next_syn(&frames, port, Duration::from_millis(20)),
        None,
        "a SYN below the threshold"
    );
    // On a busy machine the client may not have sent it yet.
    wait_for("the SYN is held", LIMIT, || {
        matched(rig, "hold_join") > holds
    });
    let begin = Instant::now();
    let took = std::thread::scope(|scope| {
        let seen = scope.spawn(|| next_syn(&frames, port, LIMIT));
        send(from, to, &bytes[..PASSES]);
        seen.join().unwrap().unwrap() - begin
    });
    wait_for("the second subflow", LIMIT, || joins(rig) == joined + 1);
    send(from, to, &bytes);
    send(to, from, &bytes);
    assert!(!raw::mptcp_fell_back(&near), "fell back");
    (took, begin + took - start >= SYN_TIMEOUT)
}

fn median_and_max(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

/// All kinds with one way of attaching.
fn releases(tc: Tc, offload: &str) {
    let rig = rig(tc);
    rig.apply(&chains()).ok();
    for netns in [&rig.near, &rig.far] {
        netns.sh(&format!(
            "ethtool -K p0 tx {offload}; ethtool -K p1 tx {offload}"
        ));
    }
    let (mut number, mut retries) = (0, 0);
    for version in [4, 6] {
        let address = server_address(version);
        endpoint(&rig, address);
        for down in [false, true] {
            let before = errors([&rig.near, &rig.far]);
            let mut times = Vec::new();
            for _ in 0..each() {
                let (took, is_late) = connection(&rig, address, number, down);
                times.push(took);
                number += 1;
                retries += u64::from(is_late);
            }
            let (median, max) = median_and_max(times);
            let what = format!("{tc:?}, tx {offload}, IPv{version}, download {down}");
            println!("{what}: median {median:?}, max {max:?}");
            let (holds, releases) = (matched(&rig, "hold_join"), matched(&rig, "release_join"));
            let each = u64::from(number);
            assert_eq!(releases, each, "{what}");
            assert!((each..=each + retries).contains(&holds), "{what}: {holds}");
            assert_eq!(errors([&rig.near, &rig.far]), before, "{what}");
            assert_eq!(joins(&rig), u64::from(number), "{what}");
            assert!(median < SOON, "{what}: {median:?}");
        }
    }
    assert_eq!(counter(&rig.far, "MPTcpExtMPJoinSynRx"), u64::from(number));
}

#[test]
fn root_held_and_released() {
    releases(Tc::Tcx, "on");
}

#[test]
fn root_held_and_released_without_offload() {
    releases(Tc::Tcx, "off");
}

#[test]
fn root_held_and_released_at_clsact() {
    releases(Tc::Clsact, "on");
}

/// Below the threshold, and where nothing releases what is held.
#[test]
fn root_held_until_a_retry() {
    let rig = rig(Tc::Tcx);
    let mut chains = chains();
    chains.as_array_mut().unwrap().truncate(1);
    rig.apply(&chains).ok();
    let address = server_address(4);
    endpoint(&rig, address);
    let ifindex = rig.far.ifindex("p1");
    let frames = rig.far.within(|| Frames::listen(ifindex));
    let (near, far, _listener) = connect(&rig, address, PORT);
    let bytes = fill(1, SIZE);
    send(&near, &far, &bytes[..1000]);
    assert_eq!(next_syn(&frames, PORT, Duration::from_millis(1500)), None);
    let held = held(&rig);
    println!("{held:?}");
    assert_eq!(held.len(), 1);
    assert_eq!(
        (&held[0]["times"], &held[0]["state"]),
        (&json!(2), &json!("waiting"))
    );
    assert_eq!(
        (&held[0]["src"], &held[0]["interface"]),
        (&json!("10.77.1.2"), &json!("p1"))
    );
    assert_eq!(
        rig.status()["held_joins"],
        json!({ "waiting": 1, "expired": 0, "asked": 0, "left": {} })
    );
    assert_eq!(counter(&rig.far, "MPTcpExtMPJoinSynRx"), 0);
    // Behind the threshold the next one passes.
    send(&near, &far, &bytes[..THRESHOLD]);
    let begin = Instant::now();
    next_syn(&frames, PORT, LIMIT).unwrap();
    println!("a retry after {:?}", begin.elapsed());
    wait_for("the second subflow", LIMIT, || joins(&rig) == 1);
    send(&far, &near, &bytes);
    assert!(!raw::mptcp_fell_back(&near), "fell back");
}

/// What was held for longer than the client waits is not sent.
#[test]
fn root_held_for_a_client_that_gave_up() {
    let rig = rig(Tc::Tcx);
    // One retry, and the end after another two seconds.
    rig.near
        .sh("sysctl -qw net.ipv4.tcp_syn_retries=1 net.ipv4.tcp_syn_linear_timeouts=0");
    rig.apply(&chains()).ok();
    let address = server_address(4);
    endpoint(&rig, address);
    let (near, far, _listener) = connect(&rig, address, PORT);
    let bytes = fill(1, SIZE);
    send(&near, &far, &bytes[..1000]);
    let expired =
        |count: u64| json!({ "waiting": 1 - count, "expired": count, "asked": 0, "left": {} });
    wait_for("the SYN is held", LIMIT, || {
        rig.status()["held_joins"] == expired(0)
    });
    // Also while no packet comes by.
    wait_for("its end", LIMIT, || {
        rig.status()["held_joins"] == expired(1)
    });
    send(&near, &far, &bytes);
    send(&far, &near, &bytes);
    let held = held(&rig);
    assert_eq!(
        (&held[0]["times"], &held[0]["state"]),
        (&json!(2), &json!("expired"))
    );
    assert_eq!(rig.status()["held_joins"], expired(1));
    let said = rig.run(&["status"]).ok().out;
    assert!(
        said.contains("1 further subflows were held until"),
        "{said}"
    );
    assert_eq!(matched(&rig, "release_join"), 0);
    // Nobody asks again but `emptcp run`.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(rig.status()["held_joins"], expired(1));
    assert_eq!(counter(&rig.far, "MPTcpExtMPJoinSynRx"), 0);
    assert!(!raw::mptcp_fell_back(&near), "fell back");
}

/// A policy that wants the subflow after all, while nothing is said: `emptcp run` sends the ACK that
/// `release_join` waits for.
#[test]
fn root_held_until_a_change_while_idle() {
    until_a_change_while_idle(|rig| Reader::start(rig, "run", &["run"]));
}

/// With no more than what its unit of systemd leaves it.
#[test]
fn root_held_until_a_change_for_the_unit() {
    let unit = include_str!("../../packaging/emptcp-run.service.in");
    let setting = |name: &str| {
        let mut lines = unit.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).unwrap().1
    };
    assert_eq!(setting("NoNewPrivileges"), "yes");
    let mut set = "-all".to_owned();
    for capability in setting("CapabilityBoundingSet").split(' ') {
        set += &capability.to_lowercase().replace("cap_", ",+");
    }
    until_a_change_while_idle(|rig| {
        rig.under = ["setpriv", "--no-new-privs", "--bounding-set", &set]
            .map(str::to_owned)
            .into();
        let run = Reader::start(rig, "run", &["run"]);
        rig.under.clear();
        let status = std::fs::read_to_string(format!("/proc/{}/status", run.child.0.id()));
        let status = status.unwrap();
        let effective = status
            .lines()
            .find_map(|l| l.strip_prefix("CapEff:\t"))
            .unwrap();
        assert_eq!(
            u64::from_str_radix(effective, 16).unwrap().count_ones(),
            4,
            "{effective}"
        );
        run
    });
}

fn until_a_change_while_idle(run: impl Fn(&mut Rig) -> Reader) {
    let mut rig = rig(Tc::Tcx);
    // Retries after 1, 3, 7 s: a second long enough for one that comes by itself to be told apart.
    rig.near.sh("sysctl -qw net.ipv4.tcp_syn_linear_timeouts=0");
    rig.apply(&chains()).ok();
    let _run = run(&mut rig);
    let address = server_address(4);
    endpoint(&rig, address);
    let (near, far, _listener) = connect(&rig, address, PORT);
    let bytes = fill(1, 1000);
    send(&near, &far, &bytes);
    wait_for("two retries", LIMIT, || held(&rig)[0]["times"] == 3);
    let mut policy = chains();
    let grown = json!({ "conn_bytes": { "min": 500 } });
    policy[0]["select"]["all"][1]["not"] = grown.clone();
    policy[1]["select"] = grown;
    let changed = Instant::now();
    rig.apply(&policy).ok();
    wait_for("a further subflow", LIMIT, || joins(&rig) == 1);
    let took = changed.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert_eq!(matched(&rig, "release_join"), 1);
    send(&far, &near, &bytes);
    assert!(!raw::mptcp_fell_back(&near), "fell back");
}
