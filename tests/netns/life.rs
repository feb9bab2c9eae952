//! Namespaces and interfaces come and go.

use std::time::Duration;

use emptcp_test::hosts::Family;
use serde_json::Value;
use serde_json::json;

use super::foreign::At;
use super::foreign::Judge;
use super::rig::Netns;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::chain_packets;
use super::rig::sh;
use super::traffic::frame;
use super::traffic::probe;
use super::traffic::send;

fn mark(interface: &str, value: u32) -> Value {
    json!([{ "name": "c", "hook": "tc-ingress", "interfaces": [interface],
        "act": [{ "set_mark": { "value": value } }] }])
}

/// Each namespace has a policy of its own, and treats packets when no process lives.
#[test]
fn root_namespaces_are_apart() {
    let rig = Rig::new(1, Tc::Tcx);
    let near = rig.policy("near.json", &mark("p0", 5));
    let far = rig.policy("far.json", &mark("p0", 6));
    rig.run(&["apply", &near]).ok();
    let in_far = |args: &[&str]| -> Ran { rig.emptcp_in(&rig.far, args).output().unwrap().into() };
    assert_eq!(in_far(&["--json", "show"]).ok().json()["chains"], json!([]));
    in_far(&["apply", &far]).ok();
    assert_ne!(
        in_far(&["--json", "show"]).ok().json(),
        rig.run(&["--json", "show"]).json()
    );
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    probe(&rig.far, "p0", 3);
    assert_eq!((judge.read().total, judge.read().mark), (6, 5));
    in_far(&["delete"]).ok();
    assert_eq!(rig.status()["drift"], json!([]));
    probe(&rig.far, "p0", 3);
    assert_eq!((judge.read().total, judge.read().mark), (12, 5));
    assert_eq!(chain_packets(&rig.status(), "c"), Some(12));
}

/// `ip netns exec` mounts another /sys, which goes away with the command.
#[test]
fn root_ip_netns_exec() {
    let rig = Rig::new(1, Tc::Tcx);
    let path = rig.policy("p.json", &mark("p0", 5));
    let run = format!(
        "EMPTCP_BPFFS={} ip netns exec {} {} apply {path}",
        rig.bpffs.path.display(),
        rig.near.name,
        env!("CARGO_BIN_EXE_emptcp")
    );
    sh(&run);
    let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
    probe(&rig.far, "p0", 3);
    assert_eq!((judge.read().total, judge.read().mark), (6, 5));
    assert_eq!(rig.status()["drift"], json!([]));
}

/// Where process 1 can be looked into, its BPF file system is taken: here a process 1 of the
/// test's own, first with a BPF file system, then without.
#[test]
fn root_first_process_has_the_pins() {
    for mounted in [true, false] {
        let rig = Rig::new(1, Tc::Tcx);
        let path = rig.policy("p.json", &mark("p0", 5));
        let judge = Judge::new(&rig.near, "p0", At::Filter(60_000), true);
        let emptcp = env!("CARGO_BIN_EXE_emptcp");
        let near = &rig.near.name;
        let gone = "while umount /sys/fs/bpf 2>/dev/null; do :; done";
        let mount = if mounted {
            "; mount -t bpf bpf /sys/fs/bpf"
        } else {
            ""
        };
        let mount = format!("{gone}{mount}");
        let script = rig.folder.write(
            "script",
            format!(
                "set -e; unset EMPTCP_BPFFS; {mount}
                 ip netns exec {near} {emptcp} apply {path}
                 test -d /sys/fs/bpf/emptcp/v1
                 echo applied; read go
                 nsenter --net=/run/netns/{near} {emptcp} --json status
                 ip netns exec {near} {emptcp} --json apply {path}
                 ip netns exec {near} {emptcp} delete
                 test -z \"$(ls /sys/fs/bpf/emptcp/v1)\"\n"
            ),
        );
        let mut command = std::process::Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "sh",
        ]);
        command.arg(script);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let _child = super::rig::Killed(child);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "applied\n");
        probe(&rig.far, "p0", 3);
        assert_eq!((judge.read().total, judge.read().mark), (6, 5));
        std::io::Write::write_all(&mut input, b"go\n").unwrap();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
        super::secrets::heard(&rest);
        let mut values = serde_json::Deserializer::from_str(&rest).into_iter::<Value>();
        let status = values.next().unwrap().unwrap();
        assert_eq!(status["drift"], json!([]));
        assert_eq!(chain_packets(&status, "c"), Some(6));
        assert_eq!(values.next().unwrap().unwrap()["changed"], false);
        probe(&rig.far, "p0", 3);
        assert_eq!((judge.read().total, judge.read().mark), (12, 0));
        assert_eq!(rig.attached(), 0);
    }
}

/// A new namespace that gets the inode of one that is gone inherits nothing.
#[test]
fn root_inode_is_used_again() {
    let rig = Rig::new(0, Tc::Tcx);
    let inode = |netns: &Netns| {
        let meta = std::fs::metadata(netns.path()).unwrap();
        std::os::unix::fs::MetadataExt::ino(&meta)
    };
    let old = Netns::new();
    old.sh("ip link add p0 type veth peer name p1");
    let mut chains = mark("p0", 5);
    let path = rig.policy("p.json", &chains);
    chains[0]["act"] = json!([{ "record": {} }]);
    let records = rig.policy("records.json", &chains);
    let run = |netns: &Netns, args: &[&str]| -> Ran {
        rig.emptcp_in(netns, args).output().unwrap().into()
    };
    run(&old, &["apply", &records]).ok();
    let pins = rig.bpffs.path.join("emptcp/v1");
    let was = pins.join(inode(&old).to_string());
    assert!(was.is_dir());

    // What the kernel does now and then, at once: the folder gets the number of another.
    let new = Netns::new();
    new.sh("ip link add p0 type veth peer name p1");
    let is = pins.join(inode(&new).to_string());
    std::fs::rename(&was, &is).unwrap();
    drop(old);
    assert!(is.join("state/k-records").exists());
    assert_eq!(
        run(&new, &["--json", "show"]).ok().json()["chains"],
        json!([])
    );
    assert!(run(&new, &["--json", "status"]).ok().json().is_null());
    let answer = run(&new, &["--json", "apply", &path]).ok().json();
    assert_eq!(answer["changed"], true);
    assert!(!is.join("state").exists());
    let status = run(&new, &["--json", "status"]).ok().json();
    assert_eq!(status["drift"], json!([]));
    assert_eq!(chain_packets(&status, "c"), Some(0));
    assert_eq!(new.attached(), 1);
    run(&new, &["delete"]).ok();
    assert!(!is.exists());
}

/// An interface vanishes and comes back with another index.
#[test]
fn root_interface_vanishes() {
    for tc in Tc::ALL {
        let rig = Rig::new(2, tc);
        let chains = json!([{ "name": "c", "hook": ["tc-ingress", "xdp"], "interfaces": ["p0", "p1"],
            "act": [{ "record": {} }] }]);
        let path = rig.policy("p.json", &chains);
        rig.run(&["apply", &path]).ok();
        let tree = rig.bpffs.tree().len();
        rig.near.sh("ip link del p1");
        let drift = rig.status()["drift"].clone();
        let told = drift
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d.as_str().unwrap());
        assert_eq!(told.filter(|d| d.contains("p1")).count(), 2, "{drift}");
        let shown = rig.run(&["show"]).ok();
        assert!(
            shown.err.contains("drift: ") && shown.err.contains("p1"),
            "{}",
            shown.err
        );
        probe(&rig.far, "p0", 2);
        assert_eq!(chain_packets(&rig.status(), "c"), Some(8));

        rig.run(&["apply", &path]).fails(&["no interface \"p1\""]);
        assert_eq!(rig.status()["drift"], drift);
        rig.add_link(1);
        rig.run(&["apply", &path]).ok();
        assert_eq!(rig.status()["drift"], json!([]));
        assert_eq!(rig.bpffs.tree().len(), tree);
        probe(&rig.far, "p1", 2);
        assert_eq!(chain_packets(&rig.status(), "c"), Some(16));
        // And gone for good.
        rig.near.sh("ip link del p0; ip link del p1");
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// Somebody detaches our program: told, and mended.
#[test]
fn root_detached_program_is_mended() {
    let rig = Rig::new(1, Tc::Clsact);
    let path = rig.policy("p.json", &mark("p0", 5));
    rig.run(&["apply", &path]).ok();
    rig.near.sh("tc qdisc del dev p0 clsact");
    assert_eq!(rig.status()["drift"].as_array().unwrap().len(), 1);
    let plan = rig.run(&["apply", "--dry-run", &path]);
    assert_eq!(plan.code, Some(3));
    rig.run(&["apply", &path]).ok();
    assert_eq!(rig.status()["drift"], json!([]));
    assert_eq!(rig.attached(), 1);
    rig.run(&["delete"]).ok();
    assert!(!rig.near.sh("tc qdisc show dev p0").contains("clsact"));
}

/// Tagged frames are TCP all the same; later fragments and nonsense pass, and are counted.
#[test]
fn root_vlan_and_fragments() {
    let rig = Rig::new(1, Tc::Tcx);
    rig.near.sh("ip link set p0 promisc on");
    rig.far.sh("ethtool -K p0 txvlan off; true");
    for hook in ["tc-ingress", "xdp"] {
        rig.apply(&json!([{ "name": "c", "hook": hook, "interfaces": ["p0"],
            "act": [{ "record": {} }] }]))
            .ok();
        for family in Family::ALL {
            let ip = if family == Family::Ip4 { "ip4" } else { "ip6" };
            let fragment = |offset: u32, more: bool| {
                let fragment = json!({ "offset": offset, "more": more });
                match family {
                    Family::Ip4 => json!({ ip: { "fragment": fragment }, "payload": 64 }),
                    Family::Ip6 => json!({ "ip": { "fragment": fragment }, "payload": 64 }),
                }
            };
            let cases = [
                (json!({}), 1, None),
                (json!({ "vlan": [5] }), 1, None),
                (json!({ "vlan": [100, 5] }), 1, None),
                // At tc the first tag is not in the packet any more.
                (json!({ "vlan": [4, 3, 100, 5] }), 0, Some("vlan_depth")),
                (fragment(0, true), 1, None),
                (fragment(64, true), 0, Some("fragment")),
                (fragment(64, false), 0, Some("fragment")),
                (json!({ "tcp": { "doff": 3 } }), 0, Some("bad_tcp")),
                (json!({ "truncate": "tcp+4" }), 0, None),
            ];
            for (description, chain, reason) in cases {
                let count = || {
                    let status = rig.status();
                    let reasons = &status["reasons"][hook];
                    let reason = reason.map_or(0, |r| reasons[r].as_u64().unwrap_or(0));
                    (chain_packets(&status, "c").unwrap(), reason)
                };
                let (before, reasons) = count();
                send(&rig.far, "p0", &frame(family, description.clone()));
                std::thread::sleep(Duration::from_millis(5));
                let now = count();
                let wanted = (before + chain, reasons + u64::from(reason.is_some()));
                assert_eq!(now, wanted, "{hook} {family:?} {description}");
            }
        }
    }
}
