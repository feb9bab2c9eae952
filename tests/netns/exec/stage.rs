// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//! What the tests of programs share: policies, programs, clients of the socket, connections.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::raw;
use crate::reader::Reader;
use crate::rig::Rig;
use crate::rig::Tc;
use crate::secrets::heard;

pub(super) const PORT: u16 = 5001;
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// A subflow that is not there.
pub(super) const NONE: &str = "192.0.2.1:1-192.0.2.2:2";

/// What all programs of these tests begin with. What they are told is kept, to be searched for keys
/// (`secrets.rs`); of one that may not write there it is not.
const PRELUDE: &str = r#"
import json, os, sys, time
class Told:
    def __init__(self, lines, copy):
        self.lines, self.copy = lines, copy
    def readline(self):
        line = self.lines.readline()
        print(line, end="", file=self.copy, flush=True)
        return line
    def __iter__(self):
        return iter(self.readline, "")
    def __getattr__(self, name):
        return getattr(self.lines, name)
sys.stdin = Told(sys.stdin, open(os.path.dirname(sys.argv[0]) + "/told", "a"))
def say(**command):
    print(json.dumps(command), flush=True)
def log(*words):
    print(*words, file=sys.stderr, flush=True)
"#;

pub(super) fn rig() -> Rig {
    let rig = Rig::new(2, Tc::Tcx);
    for netns in [&rig.near, &rig.far] {
        netns.sh(
            "sysctl -qw net.mptcp.enabled=1 && ip mptcp limits set subflow 4 add_addr_accepted 4",
        );
    }
    rig.far
        .sh("ip mptcp endpoint flush; ip mptcp endpoint add 10.77.1.1 id 9 signal");
    rig
}

/// Tables that programs fill, and chains that go by them.
pub(super) fn policy(rig: &Rig) {
    let text = json!({ "version": 1, "track": ["p0", "p1"],
        "tables": {
            "marks": { "type": "subflow", "value": "u32" },
            "window": { "type": "subflow", "value": "bytes" },
            "lasting": { "type": "addr", "value": "u32", "timeout": "1h" },
            "fixed": { "type": "port", "elements": [80] },
        },
        "chains": [
            { "name": "mark", "hook": "tc-egress", "interfaces": ["p0", "p1"],
              "select": { "subflow": { "table": "marks" } },
              "act": [{ "set_mark": { "value": { "table": "marks" } } }] },
            { "name": "window", "hook": "tc-egress", "interfaces": ["p0", "p1"],
              "select": { "subflow": { "table": "window" } },
              "act": [{ "set_recv_win": { "bytes": { "table": "window" }, "wscale": 7 } }] },
        ] });
    let path = rig.folder.write("exec.json", text.to_string());
    rig.run(&["apply", path.to_str().unwrap()]).ok();
}

/// Writes a program that everybody may run.
pub(super) fn program(rig: &Rig, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;

    let text = format!("#!/usr/bin/env python3\n{PRELUDE}{text}");
    let path = rig.folder.write(name, text);
    let mode = |path: &PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&path, 0o755);
    let told = rig.folder.0.join("told");
    if !told.exists() {
        rig.folder.write("told", "");
        mode(&told, 0o666);
    }
    path
}

/// `emptcp run`, with arguments.
pub(super) fn run(rig: &Rig, args: &[&str]) -> Reader {
    Reader::start(rig, "run", &[&["run"], args].concat())
}

/// What `emptcp run` has said so far.
pub(super) fn said(rig: &Rig) -> String {
    std::fs::read_to_string(rig.folder.0.join("run.err")).unwrap()
}

pub(super) fn table(rig: &Rig, name: &str) -> Value {
    rig.run(&["--json", "table", "show", name]).ok().json()["elements"].take()
}

pub(super) fn socket(rig: &Rig) -> PathBuf {
    rig.folder.0.join("socket")
}

/// A client of the socket.
pub(super) struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn connect(rig: &Rig) -> Self {
        let stream = UnixStream::connect(socket(rig)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut client = Self { stream, lines };
        let hello = client.next();
        assert_eq!(
            (&hello["emptcp"], &hello["event"]),
            (&json!(1), &json!("hello"))
        );
        client
    }

    pub(super) fn say(&mut self, line: &str) {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    pub(super) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        heard(&line);
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    /// The answer to a command; what comes before it is passed over.
    pub(super) fn ask(&mut self, mut command: Value) -> Value {
        command["id"] = json!("asked");
        self.say(&command.to_string());
        loop {
            let line = self.next();
            if line["id"] == "asked" {
                return line;
            }
        }
    }

    pub(super) fn add(&mut self, table: &str, key: &str, value: Value) -> Value {
        self.ask(json!({ "cmd": "table_add", "table": table, "key": key, "value": value }))
    }
}

#[track_caller]
pub(super) fn ok(answer: &Value) {
    assert_eq!(answer["ok"], true, "{answer}");
}

#[track_caller]
pub(super) fn refused(answer: &Value, words: &[&str]) {
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(words.iter().all(|word| error.contains(word)), "{answer}");
}

/// A connection with two subflows; `near` is the client.
pub(super) struct Connection {
    pub(super) near: TcpStream,
    pub(super) far: TcpStream,
    _listener: TcpListener,
}

impl Connection {
    pub(super) fn open(rig: &Rig) -> Self {
        let any = "0.0.0.0".parse().unwrap();
        let listener = rig
            .far
            .within(|| TcpListener::from(raw::mptcp_listener(any, PORT)));
        let to: SocketAddr = format!("10.77.0.1:{PORT}").parse().unwrap();
        let near = rig.near.within(|| TcpStream::from(raw::mptcp_connect(to)));
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        let mut connection = Self {
            near,
            far,
            _listener: listener,
        };
        connection.exchange(4096);
        connection
    }

    pub(super) fn exchange(&mut self, bytes: usize) {
        pass(&mut self.near, &mut self.far, bytes);
        pass(&mut self.far, &mut self.near, bytes);
    }
}

pub(super) fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let mut got = vec![0; bytes];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![7; bytes]).unwrap());
        to.read_exact(&mut got).unwrap();
    });
    assert!(got.iter().all(|byte| *byte == 7));
}
