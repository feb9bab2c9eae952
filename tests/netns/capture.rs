//! `emptcp capture`: real connections of Multipath TCP, floods, and readers that are killed.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use emptcp_test::hosts::Family;
use nix::sys::signal::Signal;
use pcap_file::pcapng::Block;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption as Statistics;
use serde_json::Value;
use serde_json::json;

use super::mptcp::transfer;
use super::reader::Reader;
use super::reader::counts;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::TempDir;
use super::traffic::ack;
use super::traffic::frame;
use super::traffic::probe;
use super::traffic::send;

/// Packets that the copying steps of all chains treated.
fn copied(rig: &Rig) -> u64 {
    let status = rig.status();
    let chains = status["chains"].as_array().unwrap();
    let steps = chains.iter().flat_map(|c| c["steps"].as_array().unwrap());
    let copying = steps.filter(|s| s["module"] == "copy_pkt");
    copying.map(|s| s["matched"].as_u64().unwrap()).sum()
}

/// Fields of every packet, as tshark dissects them.
pub(super) fn dissect(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = Command::new("tshark");
    tshark
        .arg("-r")
        .arg(file)
        .args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.stderr(Stdio::piped()).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let text = String::from_utf8(output.stdout).unwrap();
    let row = |line: &str| line.split('\t').map(str::to_owned).collect();
    text.lines().map(row).collect()
}

/// Packets received and lost of the interface statistics of a capture.
fn statistics(file: &Path) -> (u64, u64) {
    let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
    let mut sums = (0, 0);
    while let Some(block) = reader.next_block() {
        let Block::InterfaceStatistics(block) = block.unwrap() else {
            continue;
        };
        for option in &block.options {
            match option {
                Statistics::IsbIfRecv(n) => sums.0 += n,
                Statistics::IsbOsDrop(n) => sums.1 += n,
                _ => {}
            }
        }
    }
    sums
}

fn watch(hooks: &Value, params: &Value) -> Value {
    json!([{ "name": "watch", "hook": hooks, "interfaces": ["p0", "p1"], "act": [{ "copy_pkt": params }] }])
}

/// A connection with two subflows and an announcement, captured at the client.
fn connection(rig: &Rig) {
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 && ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.far
        .sh("ip mptcp endpoint flush; ip mptcp endpoint add 10.77.1.1 signal");
    let done = transfer(&rig.near, &rig.far, "10.77.0.1".parse().unwrap(), || {});
    assert_eq!((done.subflows, done.fell_back), (2, false));
}

#[test]
fn root_a_connection_is_captured_without_its_keys() {
    let rig = Rig::new(2, Tc::Tcx);
    rig.apply(&watch(&json!(["tc-ingress", "tc-egress"]), &json!({})))
        .ok();
    let file = rig.folder.0.join("all.pcapng");
    let capture = Reader::start(&rig, "c", &["capture", "-w", file.to_str().unwrap()]);
    let began = std::time::SystemTime::now();
    connection(&rig);
    let (_, err) = capture.end();
    let (captured, lost) = counts(&err);
    assert_eq!(captured + lost, copied(&rig));
    assert_eq!(statistics(&file), (captured + lost, lost));

    let all = dissect(
        &file,
        "tcp",
        &[
            "frame.comment",
            "frame.interface_name",
            "frame.packet_flags_direction",
            "frame.time_epoch",
            "frame.len",
            "frame.cap_len",
            "ip.src",
        ],
    );
    assert_eq!(all.len() as u64, captured);
    let began = began
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let (mut large, mut second) = (0, 0);
    for row in &all {
        let [comment, interface, direction, time, len, captured, src] = &row[..] else {
            panic!("{row:?}");
        };
        let out = src.ends_with(".2");
        let hook = if out { "tc-egress" } else { "tc-ingress" };
        assert!(
            comment.starts_with(&format!("watch/act[0] at {hook}")),
            "{row:?}"
        );
        assert_eq!(
            u32::from_str_radix(direction.trim_start_matches("0x"), 16).unwrap_or(0),
            if out { 2 } else { 1 },
            "{row:?}"
        );
        assert_eq!(
            *interface,
            format!("p{}", src.split('.').nth(2).unwrap()),
            "{row:?}"
        );
        let (len, captured): (u32, u32) = (len.parse().unwrap(), captured.parse().unwrap());
        assert_eq!(captured, len.min(128), "{row:?}");
        // Segments of a GSO packet are told of.
        assert_eq!(comment.contains(" segments of "), len > 1514, "{row:?}");
        large += u32::from(len > 1514);
        second += u32::from(interface == "p1");
        let time: f64 = time.parse().unwrap();
        assert!(
            (began - 0.1..began + 20.0).contains(&time),
            "{row:?}, began at {began}"
        );
    }
    assert!(large > 10 && second > 10, "{large}, {second} of {captured}");

    // The handshakes are all there, and nothing secret.
    let subtypes: Vec<String> = dissect(
        &file,
        "tcp.options.mptcp.subtype",
        &["tcp.options.mptcp.subtype"],
    )
    .into_iter()
    .flatten()
    .flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>())
    .collect();
    for subtype in ["0", "1", "2", "3"] {
        assert!(
            subtypes.iter().any(|s| s == subtype),
            "no subtype {subtype}"
        );
    }
    let secrets = [
        "sendkey",
        "recvkey",
        "sendhmac",
        "sendtrunchmac",
        "addaddrtrunchmac",
    ];
    let mut seen = 0;
    for field in secrets {
        let name = format!("tcp.options.mptcp.{field}");
        for value in dissect(&file, &name, &[&name]).into_iter().flatten() {
            let digits = value.trim_start_matches("0x");
            assert!(
                digits.chars().all(|c| "0:,x".contains(c)),
                "{name}: {value}"
            );
            seen += 1;
        }
    }
    // SYN/ACK (2), third ACK, HMACs of a join (2), announcement.
    assert!(seen >= 5, "{seen} secrets");
    // Tokens and nonces are none.
    let tokens = dissect(
        &file,
        "tcp.options.mptcp.recvtok",
        &["tcp.options.mptcp.recvtok"],
    );
    assert!(
        tokens
            .iter()
            .flatten()
            .any(|t| t.parse::<u32>().is_ok_and(|t| t != 0)),
        "{tokens:?}"
    );
}

#[test]
fn root_keys_are_captured_where_both_ends_want_them() {
    for (gives, asks) in [(true, false), (false, true), (true, true)] {
        let rig = Rig::new(2, Tc::Tcx);
        rig.apply(&watch(&json!("tc-ingress"), &json!({ "keys": gives })))
            .ok();
        // With the keys that both want in it, it is not in the folder of the rig.
        let folder = TempDir::new();
        let file = match gives && asks {
            true => folder.0.join("keys.pcapng"),
            false => rig.folder.0.join("keys.pcapng"),
        };
        let mut args = vec!["capture", "-w", file.to_str().unwrap()];
        args.extend(asks.then_some("--keys"));
        let capture = Reader::start(&rig, "c", &args);
        connection(&rig);
        let (_, err) = capture.end();
        assert_eq!(err.contains("keep it secret"), asks, "{err}");
        let keys = dissect(
            &file,
            "tcp.options.mptcp.sendkey",
            &["tcp.options.mptcp.sendkey"],
        );
        let keys: Vec<u64> = keys.iter().flatten().map(|k| k.parse().unwrap()).collect();
        assert!(!keys.is_empty());
        assert_eq!(
            keys.iter().all(|k| *k != 0),
            gives && asks,
            "{gives} {asks}: {keys:?}"
        );
        assert_eq!(
            keys.iter().all(|k| *k == 0),
            !(gives && asks),
            "{gives} {asks}: {keys:?}"
        );
    }
}

#[test]
fn root_what_a_slow_reader_loses_is_counted() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.apply(&json!([{ "name": "watch", "hook": "tc-ingress", "interfaces": ["p0"], "act": [{ "copy_pkt": { "snap": 2048 } }] }]))
        .ok();
    let file = rig.folder.0.join("flood.pcapng");
    let capture = Reader::start(&rig, "c", &["capture", "-w", file.to_str().unwrap()]);
    let long = frame(Family::Ip4, json!({ "payload": 1400 }));
    capture.signal(Signal::SIGSTOP);
    let socket = rig
        .far
        .within(|| super::raw::Frames::open(rig.far.ifindex("p0")));
    for _ in 0..60 {
        for _ in 0..32 {
            socket.send(&long);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    capture.signal(Signal::SIGCONT);
    let (_, err) = capture.end();
    let (captured, lost) = counts(&err);
    println!("{captured} captured, {lost} lost");
    assert!(captured > 500 && lost > 500, "{err}");
    assert_eq!(captured + lost, copied(&rig));
    assert_eq!(statistics(&file), (captured + lost, lost));
    // Also for who does not capture.
    let state = rig.run(&["--json", "status", "--state"]).ok().json();
    let views = state["state"].as_array().unwrap();
    let view = views.iter().find(|v| v["map"] == "capture_lost").unwrap();
    assert_eq!(
        view["entries"],
        json!([{ "step": "tc-ingress watch/act[0]", "ifindex": "p0", "packets": lost }])
    );

    // What was lost before is not lost again.
    let capture = Reader::start(&rig, "again", &["capture", "-w", file.to_str().unwrap()]);
    probe(&rig.far, "p0", 3);
    assert_eq!(counts(&capture.end().1), (6, 0));
}

#[test]
fn root_a_reader_that_is_killed_ends_the_copying() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.apply(&json!([{ "name": "watch", "hook": "tc-ingress", "interfaces": ["p0"], "act": [{ "copy_pkt": {} }] }]))
        .ok();
    probe(&rig.far, "p0", 5);
    assert_eq!(copied(&rig), 0, "nobody reads");
    let capture = Reader::start(&rig, "c", &["capture", "-w", "/dev/null"]);
    probe(&rig.far, "p0", 5);
    assert_eq!(copied(&rig), 10);
    // There is one ring.
    let process = capture.child.0.id().to_string();
    rig.run(&["capture"]).fails(&["another capture", &process]);
    capture.signal(Signal::SIGSTOP);
    probe(&rig.far, "p0", 5);
    assert_eq!(
        copied(&rig),
        20,
        "for a while nobody knows that it does not read"
    );
    capture.signal(Signal::SIGKILL);
    std::thread::sleep(Duration::from_millis(2100));
    probe(&rig.far, "p0", 5);
    assert_eq!(copied(&rig), 20);
    drop(capture);

    // What the killed one left is not for the next one.
    let capture = Reader::start(&rig, "next", &["--json", "capture", "-c", "4"]);
    probe(&rig.far, "p0", 1);
    probe(&rig.far, "p0", 5);
    let (out, err) = capture.wait();
    assert_eq!(counts(&err).0, 4);
    assert_eq!(out.lines().count(), 4);
    // It has gone, and said so: nothing more is copied.
    let before = copied(&rig);
    probe(&rig.far, "p0", 5);
    assert_eq!(copied(&rig), before);
}

#[test]
fn root_lines_and_chains() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.run(&["capture"]).fails(&["no policy is in force"]);
    rig.apply(
        &json!([{ "name": "a", "hook": "xdp", "interfaces": ["p0"], "act": [{ "accept": {} }] }]),
    )
    .ok();
    rig.run(&["capture"]).fails(&["no step", "copies packets"]);
    let chains = |names: &[&str]| {
        let chain = |name: &&str| {
            json!({ "name": name, "hook": "tc-ingress", "interfaces": ["p0"], "zone": 3,
            "select": { "dport": { "in": [80] } }, "act": [{ "copy_pkt": {} }] })
        };
        Value::from(names.iter().map(chain).collect::<Vec<_>>())
    };
    rig.apply(&chains(&["one", "two"])).ok();
    rig.run(&["capture", "--chain", "tow"])
        .fails(&["no chain \"tow\"", "did you mean \"two\""]);

    let capture = Reader::start(&rig, "lines", &["capture", "--chain", "two", "-c", "1"]);
    send(&rig.far, "p0", &ack(Family::Ip4, 80));
    let (out, _) = capture.wait();
    assert!(
        out.contains(" p0 in 10.0.0.1:7000 > 10.0.0.2:80 [.] "),
        "{out}"
    );
    assert!(out.trim_end().ends_with("(two/act[0])"), "{out}");

    // Steps that come while it runs have names too, and the end of the policy is the end.
    let capture = Reader::start(&rig, "json", &["--json", "capture"]);
    rig.apply(&chains(&["one", "new"])).ok();
    std::thread::sleep(Duration::from_millis(400));
    send(&rig.far, "p0", &ack(Family::Ip6, 80));
    std::thread::sleep(Duration::from_millis(50));
    rig.run(&["delete"]).ok();
    let (out, err) = capture.wait();
    assert!(err.contains("is gone"), "{err}");
    let packets: Vec<Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let chains: Vec<&Value> = packets.iter().map(|p| &p["chain"]).collect();
    assert_eq!(chains, ["one", "new"], "{out}");
    assert_eq!(packets[0]["zone"], 3);
    assert_eq!(packets[0]["tcp"]["dport"], 80);
    assert_eq!(packets[0]["tcp"]["src"], "2001:db8:1:2:3:4:a00:1");
    rig.assert_nothing_left();
}

#[test]
fn root_frames_without_ethernet_and_with_tags() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.near.sh(
        "ip tuntap add dev t0 mode tun && ip addr add 10.79.0.2/24 dev t0 && ip link set t0 up",
    );
    rig.apply(&json!([{ "name": "watch", "hook": ["tc-ingress", "tc-egress"], "interfaces": ["p0", "t0"], "act": [{ "copy_pkt": {} }] }]))
        .ok();
    let file = rig.folder.0.join("raw.pcapng");
    let capture = Reader::start(&rig, "c", &["capture", "-w", file.to_str().unwrap()]);
    // At ingress the kernel has taken the tag out of the bytes.
    send(
        &rig.far,
        "p0",
        &frame(Family::Ip4, json!({ "vlan": [{ "id": 100, "pcp": 3 }] })),
    );
    // A SYN that nobody answers.
    rig.near
        .sh("timeout 0.3 bash -c 'echo > /dev/tcp/10.79.0.1/9' 2>/dev/null; true");
    capture.end();
    let fields = [
        "frame.interface_name",
        "frame.encap_type",
        "vlan.id",
        "vlan.priority",
        "ip.dst",
    ];
    let rows = dissect(&file, "tcp", &fields);
    // 1: Ethernet, 7: raw IP.
    let [tagged, raw, ..] = &rows[..] else {
        panic!("{rows:?}");
    };
    assert_eq!(tagged[..], ["p0", "1", "100", "3", "10.0.0.2"]);
    assert_eq!(raw[..], ["t0", "7", "", "", "10.79.0.1"]);
}
