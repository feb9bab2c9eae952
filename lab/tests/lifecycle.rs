//! The `emptcp-lab` command: exit codes, environment, and that nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::*;
use emptcp_lab::{Config, Lab, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serial_test::serial;

const PROGRAM: &str = env!("CARGO_BIN_EXE_emptcp-lab");
const DISTURBED: i32 = 75;

/// A prefix of this test process.
fn prefix(name: &str) -> String {
    format!("labtest-{}-{name}-", std::process::id())
}

fn run(prefix: &str, options: &[&str], command: &[&str]) -> Command {
    let mut run = Command::new(PROGRAM);
    run.args(["run", "--prefix", prefix])
        .args(options)
        .arg(example_path("two-paths.json"));
    if !command.is_empty() {
        run.arg("--").args(command);
    }
    run
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// A lab's process; interrupted when a test fails before its end.
struct Process(Child);

impl Process {
    fn wait(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            signal(&self.0, Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Starts a lab without a command and waits until it stands.
fn standing(prefix: &str) -> Process {
    let child = run(prefix, &["--quiet"], &[])
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Process(child.unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(
        lines.map(Result::unwrap).any(|line| line == "ready"),
        "it did not stand"
    );
    child
}

/// Runs until undisturbed.
fn quiet_output(prefix: &str, command: &[&str]) -> Output {
    for _ in 0..ATTEMPTS {
        let output = run(prefix, &[], command).output().unwrap();
        if output.status.code() != Some(DISTURBED) {
            return output;
        }
    }
    panic!("all attempts were disturbed");
}

#[test]
#[serial]
fn root_lab_a_command_sees_the_lab_and_gives_its_exit_code() {
    need_root();
    let prefix = prefix("env");
    let script = r#"
        set -e
        test "$EMPTCP_LAB_NS_CLIENT" = "${EMPTCP_LAB_PREFIX}client"
        ip -n "$EMPTCP_LAB_NS_SERVER" -br address | grep -q 10.0.2.1
        "$EMPTCP_LAB" exec client -- ip -br address | grep -q 10.0.2.2
        "$EMPTCP_LAB" exec client -- readlink /proc/self/ns/mnt | grep -qxF "$(readlink /proc/self/ns/mnt)"
        "$EMPTCP_LAB" exec "$EMPTCP_LAB_NS_CLIENT" -- sh -c 'exit 41' || exit $(($? + 1))"#;
    let output = quiet_output(&prefix, &["sh", "-c", script]);
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("lateness of"), "{errors}");
    assert!(leftovers(&prefix).is_empty());
}

#[test]
#[serial]
fn root_lab_nothing_is_left_after_a_failure() {
    need_root();
    let prefix = prefix("fail");
    let output = quiet_output(&prefix, &["false"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(leftovers(&prefix).is_empty());
    let output = run(&prefix, &[], &["/no/such/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot run /no/such/program"));
    assert!(leftovers(&prefix).is_empty());
    // This one fails when its devices stand already.
    let mut config = example("two-paths.json");
    config
        .hosts
        .get_mut("server")
        .unwrap()
        .sysctls
        .insert("net.no.such".into(), "1".into());
    let error = Lab::start(config, Some(&prefix)).err().unwrap();
    assert!(
        format!("{error:#}").contains("cannot set net.no.such"),
        "{error:#}"
    );
    assert!(leftovers(&prefix).is_empty());
}

#[test]
#[serial]
fn root_lab_nothing_is_left_after_a_panic() {
    need_root();
    let prefix = prefix("panic");
    let panic = std::panic::catch_unwind(|| {
        let _lab = Lab::start(example("two-paths.json"), Some(&prefix)).unwrap();
        assert!(!leftovers(&prefix).is_empty());
        panic!("on purpose");
    });
    assert!(panic.is_err());
    assert!(leftovers(&prefix).is_empty());
}

/// Whether a process has ended; its parent may not have collected it.
fn has_ended(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    status.is_ok_and(|status| status.contains("State:\tZ"))
        || !Path::new("/proc").join(process).exists()
}

#[test]
#[serial]
fn root_lab_nothing_is_left_after_a_signal() {
    need_root();
    for (number, name) in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .iter()
        .enumerate()
    {
        // A lab that just stands ends well.
        let prefix = prefix(&format!("stand{number}"));
        let child = standing(&prefix);
        assert!(
            Path::new("/run/netns")
                .join(format!("{prefix}client"))
                .exists()
        );
        signal(&child.0, *name);
        assert!([0, DISTURBED].contains(&child.wait().unwrap()));
        assert!(leftovers(&prefix).is_empty());

        // A command ends with its lab, with what it started, also inside a namespace.
        let script =
            r#"sleep 1000 & "$EMPTCP_LAB" exec client -- setsid sleep 1000 & echo $!; wait"#;
        let child = run(&prefix, &["--quiet"], &["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn();
        let mut child = Process(child.unwrap());
        let mut sleeper = String::new();
        BufReader::new(child.0.stdout.take().unwrap())
            .read_line(&mut sleeper)
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        signal(&child.0, *name);
        let code = child.wait().unwrap();
        assert!([128 + *name as i32, DISTURBED].contains(&code), "{code}");
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "{:?}",
            begin.elapsed()
        );
        assert!(leftovers(&prefix).is_empty());
        assert!(
            eventually(Duration::from_secs(1), || has_ended(sleeper.trim())),
            "{sleeper}"
        );
    }
}

#[test]
#[serial]
fn root_lab_clean_removes_the_dead_and_spares_the_living() {
    need_root();
    let (dead, living) = (prefix("dead"), prefix("living"));
    let mut killed = standing(&dead);
    let alive = standing(&living);
    killed.0.kill().unwrap();
    killed.wait();
    assert_eq!(leftovers(&dead).len(), 3, "two namespaces and a lock");

    // The prefix of this process covers both.
    let all = format!("labtest-{}-", std::process::id());
    let output = Command::new(PROGRAM)
        .args(["clean", "--prefix", &all])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = format!("removed {dead}client\nremoved {dead}server\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert!(leftovers(&dead).is_empty());

    assert_eq!(leftovers(&living).len(), 3);
    let output = run(&living, &[], &["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("is running"),
        "{output:?}"
    );
    signal(&alive.0, Signal::SIGTERM);
    alive.wait();
    assert!(leftovers(&living).is_empty());
}

/// Runs a bulk transfer and stops the lab's process now and then meanwhile.
fn run_with_stalls(prefix: &str, options: &[&str]) -> Option<i32> {
    let script = r#""$EMPTCP_LAB" serve --netns server & "$EMPTCP_LAB" bulk --netns client 10.0.1.1 --time 2s"#;
    let child = run(prefix, options, &["sh", "-c", script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = Process(child.unwrap());
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(200));
        signal(&child.0, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(50));
        signal(&child.0, Signal::SIGCONT);
    }
    child.wait()
}

#[test]
#[serial]
fn root_lab_a_disturbed_run_is_recognised() {
    need_root();
    let prefix = prefix("stall");
    assert_eq!(run_with_stalls(&prefix, &[]), Some(DISTURBED));
    assert_eq!(run_with_stalls(&prefix, &["--allow-disturbed"]), Some(0));
    assert!(leftovers(&prefix).is_empty());
}

#[test]
#[serial]
fn root_lab_the_report_is_json() {
    need_root();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    let options = [
        "--allow-disturbed",
        "--quiet",
        "--report",
        file.to_str().unwrap(),
    ];
    let status = run(&prefix("report"), &options, &["true"])
        .status()
        .unwrap();
    assert!(status.success());
    let report: emptcp_lab::Report =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(report.directions.len(), 4);
    assert!(report.real_time);
}

#[test]
#[serial]
fn root_lab_veth_links_have_the_offload_that_was_asked_for() {
    need_root();
    for (offload, expected) in [("true", "on"), ("false", "off")] {
        let config = pair(
            1,
            &format!(r#""kind": "veth", "offload": {offload}, "mtu": 1400"#),
        );
        let lab = Lab::start(config, None).unwrap();
        for (host, dev) in [("a", "a1"), ("b", "b1")] {
            let mut ethtool = Command::new("ethtool");
            let child = lab
                .spawn(host, ethtool.args(["-k", dev]).stdout(Stdio::piped()))
                .unwrap();
            let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            assert!(
                output.contains(&format!("tx-checksumming: {expected}")),
                "{output}"
            );
        }
        let from = udp(&lab, "a", "10.0.1.1:0").unwrap();
        let to = udp(&lab, "b", "10.0.1.2:7").unwrap();
        from.send_to(b"over veth", to.local_addr().unwrap())
            .unwrap();
        let mut buffer = [0; 20];
        assert_eq!(to.recv(&mut buffer).unwrap(), 9);
    }
}

#[test]
fn check_accepts_the_examples_and_names_mistakes() {
    for example in ["two-paths.json", "shared-bottleneck.json", "hops.json"] {
        Config::load(&example_path(example)).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrong.json");
    std::fs::write(&file, "{\n  \"version\": 1,\n  \"hosst\": {}\n}").unwrap();
    let output = Command::new(PROGRAM)
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("wrong.json:3:9: hosst: unknown field `hosst`"),
        "{errors}"
    );
}
