//! What the documentation shows is true: policies are accepted, the module outside of the
//! tree compiles, links lead somewhere.

#![allow(clippy::unwrap_used)]

mod disjoint;
mod policies;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use emptcp_test::outside::compile;
use policies::pages;
use policies::read;
use policies::root;

/// `emptcp check` for another machine, so that no interface need exist here.
fn check(policy: &Path, modules: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emptcp"));
    if let Some(folder) = modules {
        command.arg("--modules").arg(folder);
    }
    let output = command
        .args(["check", "--kernel", "6.12"])
        .arg(policy)
        .output();
    output.unwrap_or_else(|e| panic!("cannot run emptcp: {e}"))
}

fn assert_accepted(what: &str, policy: &Path) {
    let output = check(policy, None);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {errors}");
}

#[test]
fn policies_are_accepted() {
    for (name, text) in policies::all() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
        fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_accepted(&name, &file);
    }
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = read(&page);
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let target = page.parent().unwrap_or(root()).join(path);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
        }
    }
}

/// docs/writing-modules.md, step by step.
#[test]
fn a_module_of_ones_own_is_found() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs-modules");
    let source = root().join("examples/module/ttl.bpf.c");
    assert!(
        read(&root().join("docs/writing-modules.md")).contains(
            read(&source)
                .split_once("*/\n")
                .map_or("", |(_, code)| code.trim())
        ),
        "docs/writing-modules.md shows another module than {}",
        source.display()
    );
    let example = root().join("examples/module");
    compile("examples/module", &folder, &["ttl.xdp.o", "ttl.tc.o"]);
    let policy = example.join("policy.json");
    let output = check(&policy, Some(&folder));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // Without the folder nobody knows it.
    assert!(!check(&policy, None).status.success());
}

/// Programs of `examples/exec/`: what they may be long, and that they are Python.
#[test]
fn programs_are_short() {
    let limits = [
        ("disjoint.py", 135),
        ("ecf.py", 60),
        ("overflow.py", 88),
        ("path_manager.py", 40),
        ("rate.py", 102),
    ];
    for (name, most) in limits {
        let path = root().join("examples/exec").join(name);
        let text = read(&path);
        let lines = text.lines().count();
        assert!(lines <= most, "{name}: {lines} lines");
        assert!(text.lines().all(|line| line.len() <= 100), "{name}");
        let program = "import ast, sys; ast.parse(sys.stdin.read())";
        let (_, error) = python(&["-c", program], &text);
        assert_eq!(error, "", "{name}");
    }
    for path in policies::files("examples/exec", ".py") {
        assert!(
            limits.iter().any(|(name, _)| path.ends_with(name)),
            "{path:?} has no limit"
        );
    }
}

/// Runs Python with an input; what it writes to both outputs.
fn python(args: &[&str], input: &str) -> (String, String) {
    use std::io::Write as _;
    use std::process::Stdio;

    let mut command = Command::new("python3");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// A round of metrics for ecf.py: round-trip times in milliseconds of two subflows, with windows of
/// ten segments, segments that wait, and those that each has sent so far.
fn round(reset: bool, rtts: [u32; 2], queued: u32, sent: u32) -> String {
    let subflow = |link: usize| {
        serde_json::json!({
            "subflow": format!("10.0.{link}.1:1-10.0.{link}.2:2"), "token": "0x00000001",
            "from": { "bytes": sent * 1000, "kernel": { "srtt_us": rtts[link] * 1000,
                "rttvar_us": 1000, "cwnd": 10, "mss": 1000, "unsent_bytes": queued * 500,
                "in_flight": queued.min(10) } },
            "to": { "kernel": null },
        })
    };
    let line = serde_json::json!({ "event": "metrics", "reset": reset, "gone": [], "more": 0,
        "subflows": [subflow(0), subflow(1)] });
    format!("{line}\n")
}

#[test]
fn ecf_goes_by_the_paper() {
    let hello = "{\"emptcp\": 1, \"event\": \"hello\"}\n".to_owned();
    let rounds = [
        // Waiting for 20 ms twice is less than 200 ms.
        round(true, [20, 200], 10, 0),
        // Nothing new.
        round(false, [20, 200], 12, 0),
        // Nothing waits: no decision.
        round(false, [20, 200], 0, 0),
        // 1.25 times (200 + 1) ms are more than 240 ms, for who waits already.
        round(false, [20, 200], 110, 0),
        // Bulk: both are wanted.
        round(false, [20, 200], 1000, 0),
        // Now the other one is the slow one.
        round(false, [200, 20], 10, 0),
        // It goes on for so long that as much is expected: both.
        round(false, [200, 20], 10, 500),
        // Idle, whatever was sent before: waiting is better.
        round(false, [200, 20], 0, 600),
        round(false, [200, 20], 10, 600),
    ];
    let path = root().join("examples/exec/ecf.py");
    let (out, err) = python(&[path.to_str().unwrap()], &(hello + &rounds.concat()));
    assert_eq!(err, "");
    let said: Vec<serde_json::Value> = (out.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(said[0]["cmd"], "subscribe");
    let wishes: Vec<_> = (said[1..].iter())
        .map(|c| {
            (
                c["subflow"].as_str().unwrap(),
                c["value"].as_bool().unwrap(),
            )
        })
        .collect();
    let (first, second) = ("10.0.0.2:2-10.0.0.1:1", "10.0.1.2:2-10.0.1.1:1");
    let expected = [
        (second, true),
        (second, false),
        (first, true),
        (first, false),
        (first, true),
    ];
    assert_eq!(wishes, expected);
}

/// The control of rate.py on links that carry the window in each round trip, up to their rate.
const RATE: &str = r#"
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, "examples/exec")
from rate import FLOOR, Loop, shares

MBIT = 125000

def run(target, rtt, link=20 * MBIT, leak=1.0, seconds=8):
    """The rate of the last second, and the windows; rounds of 100 ms, one round trip late."""
    loop, late, rates, windows = Loop(), [None] * (1 + int(rtt * 10)), [], []
    for _ in range(10 * seconds):
        window = late.pop(0)
        rates.append(min(link, window * leak / rtt if window else link))
        loop.step(target, rates[-1], rtt, 0.1)
        late.append(loop.window)
        windows.append(loop.window)
    return sum(rates[-10:]) / 10, windows, loop

for rtt in (0.02, 0.04, 0.1, 0.3):
    for mbit in (2, 5, 10):
        for leak in (0.6, 1.0, 1.5):
            target = mbit * MBIT
            rate, windows, _ = run(target, rtt, leak=leak)
            assert windows[0] == target * rtt, windows
            assert abs(rate / target - 1) < 0.03, (rtt, mbit, leak, rate / target)
            assert min(windows) >= FLOOR

# Two segments in a round trip are more than the target: it stays at them.
assert run(0.1 * MBIT, 0.02)[1][-1] == FLOOR
# Below the target by itself, with no window and with one.
assert run(30 * MBIT, 0.04)[1][-1] is None
_, windows, loop = run(5 * MBIT, 0.04)
for measured in (0, 0.1 * MBIT):
    for _ in range(100):
        loop.step(5 * MBIT, measured, 0.04, 0.1)
assert loop.window <= 1.5 * windows[-1], (windows[-1], loop.window)
# The round-trip time jumps.
before = loop.window
loop.step(5 * MBIT, 5 * MBIT, 0.4, 0.1)
assert loop.window == 2 * before
assert shares(9, {"a": 1, "b": 100, "c": 100}) == {"a": 3, "b": 4, "c": 4}
"#;

#[test]
fn rate_is_met_on_plain_links() {
    let mut command = Command::new("python3");
    command.args(["-c", RATE]).current_dir(root());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
