//! `emptcp doctor` sees what is wrong with a machine.

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use serde_json::json;

use super::raw;
use super::rig::Killed;
use super::rig::Netns;
use super::rig::Ran;
use super::rig::Rig;
use super::rig::Tc;

/// Verdict and words of the first finding of a check that is not ok, or of the first.
fn finding(ran: &Ran, check: &str) -> (String, String) {
    let answer = ran.json();
    let all = answer["checks"].as_array().unwrap().iter();
    let mut own: Vec<&Value> = all.filter(|f| f["check"] == check).collect();
    own.sort_by_key(|f| f["verdict"] == "ok");
    let text = |key: &str| own[0][key].as_str().unwrap().to_owned();
    (text("verdict"), text("found"))
}

fn verdict(ran: &Ran, check: &str) -> String {
    finding(ran, check).0
}

#[test]
fn root_doctor() {
    let rig = Rig::new(2, Tc::Tcx);
    let doctor = || rig.run(&["--json", "doctor"]);
    let at_first = doctor().ok();
    assert_eq!(at_first.json()["able"], true);
    for check in [
        "kernel",
        "capabilities",
        "bpf",
        "bpffs",
        "policy",
        "leftovers",
        "mptcp",
        "rp-filter",
    ] {
        assert_eq!(
            finding(&at_first, check).0,
            "ok",
            "{check}: {}",
            at_first.out
        );
    }
    let text = rig.run(&["doctor"]).ok();
    assert!(text.out.starts_with("ok      kernel "), "{}", text.out);

    // Set wrong: still able.
    rig.near
        .sh("sysctl -qw net.mptcp.enabled=0 net.ipv4.conf.p1.rp_filter=1");
    let wrong = doctor().ok();
    assert_eq!(verdict(&wrong, "mptcp"), "warn");
    let (verdict_of_filter, words) = finding(&wrong, "rp-filter");
    assert_eq!(verdict_of_filter, "warn");
    assert!(words.contains("strict at p1"), "{words}");
    rig.near.sh("sysctl -qw net.mptcp.enabled=1");
    rig.near.sh("ip mptcp limits set subflow 0");
    assert_eq!(verdict(&doctor().ok(), "path-manager"), "warn");
    // The other end in the same namespace: what it completes can be seen.
    rig.near
        .sh("ip link add q0 type veth peer name q1 && ethtool -K q1 tx off");
    let out = doctor().ok().out;
    assert!(out.contains("checksums are complete: q0 (veth)"), "{out}");

    // Without what is essential.
    let mut command = rig.near.command("setpriv");
    command.args([
        "--bounding-set",
        "-bpf,-sys_admin",
        env!("CARGO_BIN_EXE_emptcp"),
    ]);
    command
        .args(["--json", "doctor"])
        .env("EMPTCP_BPFFS", &rig.bpffs.path);
    let unable: Ran = command.output().unwrap().into();
    assert_eq!(
        (unable.code, &unable.json()["able"]),
        (Some(1), &json!(false))
    );
    assert_eq!(verdict(&unable, "capabilities"), "fail");
    assert_eq!(verdict(&unable, "bpf"), "unknown");
    let mut command = rig.emptcp(&["--json", "doctor"]);
    let nowhere: Ran = command
        .env("EMPTCP_BPFFS", "/nowhere")
        .output()
        .unwrap()
        .into();
    assert_eq!(
        (nowhere.code, verdict(&nowhere, "bpffs")),
        (Some(1), "fail".to_owned())
    );
}

fn one(interface: &str) -> Value {
    json!([{ "name": "c", "hook": "tc-ingress", "interfaces": [interface], "act": [{ "record": {} }] }])
}

#[test]
fn root_doctor_finds_what_is_left() {
    let rig = Rig::new(1, Tc::Clsact);
    let doctor = || rig.run(&["--json", "doctor"]).ok();
    rig.apply(&one("p0")).ok();
    assert_eq!(
        finding(&doctor(), "policy").1,
        "generation 1 is in force as it was applied"
    );
    rig.near.sh("tc qdisc del dev p0 clsact");
    let (verdict_of_drift, words) = finding(&doctor(), "policy");
    assert_eq!(
        (
            verdict_of_drift.as_str(),
            words.contains("nothing of emptcp")
        ),
        ("warn", true)
    );
    rig.apply(&one("p0")).ok();

    // One that hangs, which is not waited for; then it is killed.
    let other = rig.policy("other.json", &one("p*"));
    let mut command = rig.emptcp(&["apply", &other]);
    let mut stopped = Killed(
        command
            .env("EMPTCP_STOP_AT", "before-flip")
            .spawn()
            .unwrap(),
    );
    let pid = Pid::from_raw(stopped.0.id() as i32);
    assert!(raw::wait_stopped(stopped.0.id()));
    let busy = finding(&doctor(), "policy").1;
    assert_eq!(busy, format!("process {pid} is changing the policy"));
    kill(pid, Signal::SIGKILL).unwrap();
    stopped.0.wait().unwrap();
    let (verdict_of_rest, words) = finding(&doctor(), "leftovers");
    assert_eq!(
        (verdict_of_rest.as_str(), words.contains("gen-")),
        ("warn", true)
    );
    rig.apply(&one("p0")).ok();
    assert_eq!(verdict(&doctor(), "leftovers"), "ok");

    // A namespace that goes, with its policy in force.
    let gone = Netns::new();
    gone.sh("ip link add d0 type veth peer name d1");
    let path = rig.policy("gone.json", &one("d0"));
    let applied: Ran = rig
        .emptcp_in(&gone, &["apply", &path])
        .output()
        .unwrap()
        .into();
    applied.ok();
    assert_eq!(verdict(&doctor(), "leftovers"), "ok");
    drop(gone);
    let ran = doctor();
    // Where a process cannot be looked at, it might be the one that is in it.
    let (verdict_of_gone, words) = finding(&ran, "leftovers");
    assert_ne!(verdict_of_gone, "ok");
    assert!(words.contains("is of a network namespace that"), "{words}");
    let answer = ran.json();
    let mut all = answer["checks"].as_array().unwrap().iter();
    let cure = all.find(|f| f["check"] == "leftovers").unwrap()["cure"]
        .as_str()
        .unwrap();
    super::rig::sh(cure);
    assert_eq!(verdict(&doctor(), "leftovers"), "ok");
}
