//! `emptcp replay`: captures through policies, with results that are known.

#![allow(clippy::unwrap_used)]

mod forms;
mod outcomes;
mod refusals;
mod tracked;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp::replay::file;
use emptcp::replay::file::Format;
use emptcp::replay::file::Record;
use emptcp_test::Framing;
use emptcp_test::captures;
use emptcp_test::captures::Captured;
use emptcp_test::csum::assert_checksums;
use emptcp_test::model;
use emptcp_test::outside::compile;
use emptcp_test::pcap as ng;
use serde_json::Value;
use serde_json::json;

/// The longest frame that a test run takes at tc.
const LONGEST: usize = 3520;
const ETHERNET: u32 = 1;
const RAW: u32 = 101;
const SLL: u32 = 113;
const SLL2: u32 = 276;

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("emptcp-replay{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn policy(&self, chains: &Value) -> PathBuf {
        let policy = json!({ "version": 1, "chains": chains });
        self.write("policy.json", policy.to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a call of emptcp ended.
struct Ran {
    ok: bool,
    out: String,
    errors: String,
}

impl Ran {
    #[track_caller]
    fn ok(self) -> Self {
        assert!(self.ok, "{}", self.errors);
        self
    }

    #[track_caller]
    fn refused(self, words: &[&str]) {
        assert!(!self.ok, "{}", self.out);
        for word in words {
            assert!(self.errors.contains(word), "no {word:?} in {}", self.errors);
        }
        assert!(!self.errors.contains("panicked"), "{}", self.errors);
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok().out).unwrap()
    }

    /// With --json --explain: packets, and the sums.
    #[track_caller]
    fn lines(self) -> (Vec<Value>, Value) {
        let lines = self.ok().out;
        let lines = lines.lines().map(|l| serde_json::from_str(l).unwrap());
        let mut lines: Vec<Value> = lines.collect();
        let sums = lines.pop().unwrap();
        (lines, sums)
    }
}

fn replay(policy: &Path, capture: &Path, more: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_emptcp"))
        .arg("replay")
        .args([policy, capture])
        .args(more)
        .output()
        .unwrap();
    Ran {
        ok: output.status.success(),
        out: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A pcap file; times in microseconds.
fn pcap<'a>(link: u32, packets: impl IntoIterator<Item = (u64, &'a [u8])>) -> Vec<u8> {
    let header: [u32; 6] = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 262_144, link];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for (time, packet) in packets {
        let (seconds, rest) = (time / 1_000_000, time % 1_000_000);
        let len = packet.len() as u32;
        let header = [seconds as u32, rest as u32, len, len];
        bytes.extend(header.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(packet);
    }
    bytes
}

/// Packets of a capture: nanoseconds since the epoch, bytes.
fn packets(path: &Path) -> (Format, Vec<(u64, Vec<u8>)>) {
    let (mut format, mut packets) = (None, Vec::new());
    file::read(path, &mut |record| {
        match record {
            Record::Start(found) => format = Some(found),
            Record::Interface(_) => {}
            Record::Packet(p) => packets.push((p.time.unwrap_or(0), p.data.into_owned())),
        }
        Ok(())
    })
    .unwrap();
    (format.unwrap(), packets)
}

fn tests_pcaps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pcaps")
}

fn captured(file: &str) -> Vec<Captured> {
    let all = captures::expected(&tests_pcaps()).unwrap();
    all.into_iter()
        .filter(|p| p.name.starts_with(&format!("{file} ")))
        .collect()
}

/// A chain for each of these selectors, at all interfaces; none edits.
fn looking(hook: &str, selectors: &[(&str, Value)]) -> Value {
    let chain = |(number, (module, params)): (usize, &(&str, Value))| {
        json!({ "name": format!("c{number}"), "hook": hook, "interfaces": ["nowhere*"],
            "select": { *module: params }, "act": [{ "record": {} }] })
    };
    selectors.iter().enumerate().map(chain).collect()
}

/// What the steps of a chain said of a packet.
fn outcome<'p>(packet: &'p Value, chain: &str, module: &str) -> Option<&'p str> {
    let mut steps = packet["steps"].as_array().unwrap().iter();
    steps
        .find(|s| s["chain"] == chain && s["module"] == module)
        .and_then(|s| s["outcome"].as_str())
}
