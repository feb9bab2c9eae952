//! Two network namespaces with links between them, a BPF file system, and the
//! `emptcp` binary inside a namespace. All of it goes away with the value, also
//! when a test panics.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use emptcp_lab::Lab;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde_json::Value;

use super::raw;
use super::secrets;
use super::secrets::Taps;

/// A number that no other test of this process has.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A folder that goes away.
#[derive(Debug)]
pub(crate) struct TempDir(pub(crate) PathBuf, Mutex<BTreeSet<PathBuf>>);

impl TempDir {
    pub(crate) fn new() -> Self {
        let name = format!("emptcp-t{}-{}", std::process::id(), unique());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path, Mutex::default())
    }

    /// Writes a file, and says where. With an empty text it is one for others to write to.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, &text).unwrap();
        if !text.as_ref().is_empty() {
            self.1.lock().unwrap().insert(path.clone());
        }
        path
    }

    /// What others have written into files here.
    pub(crate) fn outputs(&self) -> Vec<Vec<u8>> {
        let own = self.1.lock().unwrap();
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files
            .filter(|file| file.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|file| file.path())
            .filter(|path| !own.contains(path))
            .filter_map(|path| fs::read(path).ok())
            .collect()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A BPF file system of the test's own.
#[derive(Debug)]
pub(crate) struct BpfFs {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl BpfFs {
    pub(crate) fn new(read_only: bool) -> Self {
        let folder = TempDir::new();
        let path = folder.0.join("bpf");
        fs::create_dir(&path).unwrap();
        let flags = if read_only {
            MsFlags::MS_RDONLY
        } else {
            MsFlags::empty()
        };
        nix::mount::mount(Some("bpf"), &path, Some("bpf"), flags, None::<&str>).unwrap();
        Self {
            path,
            _folder: folder,
        }
    }

    /// Paths of all pins and folders, without the number of the generation and the
    /// inode of the namespace.
    pub(crate) fn tree(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        // What the kernel put beside it is not ours.
        let ours = self.path.join("emptcp");
        if ours.exists() {
            walk(&self.path, &ours, &mut found);
        }
        found
    }
}

fn walk(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_string_lossy();
        let parts = name.split('/').enumerate().map(|(depth, part)| match part {
            _ if depth == 2 => "NETNS",
            _ if part.starts_with("gen-") => "gen-N",
            _ => part,
        });
        let name = parts.collect::<Vec<_>>().join("/");
        assert!(found.insert(name), "two generations: {path:?}");
        if path.is_dir() {
            walk(root, &path, found);
        }
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// A network namespace that `ip netns` knows.
#[derive(Debug)]
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let name = format!("emptcp-t{}-{}", std::process::id(), unique());
        sh(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.sh("ip link set lo up");
        netns
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        command.arg("--").arg(program);
        command
    }

    /// Runs a line of shell inside; its standard output.
    pub(crate) fn sh(&self, line: &str) -> String {
        let mut command = self.command("sh");
        checked(command.arg("-c").arg(line), line)
    }

    /// Runs a function on a thread inside.
    pub(crate) fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                f()
            });
            thread.join().unwrap()
        })
    }

    /// Moves the current thread inside.
    pub(crate) fn enter(&self) {
        let netns = File::open(self.path()).unwrap();
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
    }

    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        let line = format!("cat /proc/net/dev >/dev/null; ip -j link show dev {name}");
        let links: Value = serde_json::from_str(&self.sh(&line)).unwrap();
        links[0]["ifindex"].as_u64().unwrap() as u32
    }
}

impl Netns {
    /// How many programs run at the interfaces: all at XDP, and those of emptcp at tc.
    pub(crate) fn attached(&self) -> usize {
        // bpftool does not know TCX everywhere.
        let all = self.sh("bpftool net show");
        let xdp = all.matches(" driver id ").count() + all.matches(" generic id ").count();
        let filters = all.matches("emptcp_entry").count() - all.matches("tcx/").count();
        let links: Value = serde_json::from_str(&self.sh("ip -j link show")).unwrap();
        let links = links.as_array().unwrap().iter();
        let tcx = self.within(|| {
            let indices = links.map(|l| l["ifindex"].as_u64().unwrap() as u32);
            indices.map(raw::count_tcx_entries).sum::<usize>()
        });
        xdp + filters + tcx
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .stderr(Stdio::null())
            .status();
    }
}

/// Runs a line of shell; its standard output.
pub(crate) fn sh(line: &str) -> String {
    checked(Command::new("sh").arg("-c").arg(line), line)
}

fn checked(command: &mut Command, what: &str) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a run of `emptcp` gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        secrets::heard(&output.stdout);
        secrets::heard(&output.stderr);
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// It succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }

    /// It failed, with all of these words on standard error.
    #[track_caller]
    pub(crate) fn fails(self, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tc {
    Tcx,
    /// As on kernels before 6.6.
    Clsact,
}

impl Tc {
    pub(crate) const ALL: [Tc; 2] = [Tc::Tcx, Tc::Clsact];
}

/// Two namespaces, `far` that sends and `near` where the policy is; links p0, p1, …
/// between them; addresses 10.77.<link>.1 (far) and .2, fd77:<link>::1 and ::2.
#[derive(Debug)]
pub(crate) struct Rig {
    /// First, for its sockets keep the namespaces.
    taps: Taps,
    pub(crate) far: Netns,
    pub(crate) near: Netns,
    pub(crate) bpffs: BpfFs,
    pub(crate) folder: TempDir,
    pub(crate) tc: Tc,
    pub(crate) modules: Option<PathBuf>,
    /// A command that emptcp is run by: words in front of its own.
    pub(crate) under: Vec<String>,
    /// Calls of one run, where they are not those that the kernel makes; each step costs one.
    pub(crate) calls: Option<u32>,
}

impl Rig {
    pub(crate) fn new(links: usize, tc: Tc) -> Self {
        let (far, near) = (Netns::new(), Netns::new());
        let rig = Self {
            taps: Taps::new(&[&far, &near]),
            far,
            near,
            bpffs: BpfFs::new(false),
            folder: TempDir::new(),
            tc,
            modules: None,
            under: Vec::new(),
            calls: None,
        };
        for link in 0..links {
            rig.add_link(link);
        }
        rig
    }

    /// Two hosts of a lab, which owns their namespaces: drop it first.
    pub(crate) fn in_lab(lab: &Lab, near: &str, far: &str) -> Self {
        let netns = |host| Netns {
            name: lab.netns(host).to_owned(),
        };
        let (far, near) = (netns(far), netns(near));
        Self {
            taps: Taps::new(&[&far, &near]),
            far,
            near,
            bpffs: BpfFs::new(false),
            folder: TempDir::new(),
            tc: Tc::Tcx,
            modules: None,
            under: Vec::new(),
            calls: None,
        }
    }

    /// Matches of the steps of a module, in all chains.
    pub(crate) fn matched(&self, module: &str) -> u64 {
        let status = self.status();
        let chains = status["chains"].as_array().unwrap();
        let steps = chains.iter().flat_map(|c| c["steps"].as_array().unwrap());
        let steps = steps.filter(|s| s["module"] == module);
        steps.map(|s| s["matched"].as_u64().unwrap()).sum()
    }

    pub(crate) fn add_link(&self, link: usize) {
        sh(&format!(
            "ip link add p{link} netns {} address 02:00:00:00:00:01 type veth \
             peer name p{link} netns {} address 02:00:00:00:00:02",
            self.far.name, self.near.name
        ));
        for (netns, host) in [(&self.far, 1), (&self.near, 2)] {
            netns.sh(&format!(
                "ip addr add 10.77.{link}.{host}/24 dev p{link} && \
                 ip addr add fd77:{link}::{host}/64 dev p{link} nodad && \
                 ip link set p{link} up"
            ));
        }
    }

    /// The command, with arguments, where the policy is.
    pub(crate) fn emptcp(&self, args: &[&str]) -> Command {
        self.emptcp_in(&self.near, args)
    }

    pub(crate) fn emptcp_in(&self, netns: &Netns, args: &[&str]) -> Command {
        let mut words = self.under.iter().map(String::as_str);
        let emptcp = env!("CARGO_BIN_EXE_emptcp");
        let mut command = netns.command(words.next().unwrap_or(emptcp));
        if !self.under.is_empty() {
            command.args(words).arg(emptcp);
        }
        if let Some(modules) = &self.modules {
            command.arg("--modules").arg(modules);
        }
        command.args(args).env("EMPTCP_BPFFS", &self.bpffs.path);
        if self.tc == Tc::Clsact {
            command.env("EMPTCP_NO_TCX", "1");
        }
        if let Some(calls) = self.calls {
            command.env("EMPTCP_CALLS", calls.to_string());
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.emptcp(args).output().unwrap().into()
    }

    /// Runs a verb with a text as its standard input.
    pub(crate) fn feed(&self, args: &[&str], text: &str) -> Ran {
        let mut command = self.emptcp(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Writes a policy with these chains; its path.
    pub(crate) fn policy(&self, name: &str, chains: &Value) -> String {
        let text = serde_json::json!({ "version": 1, "chains": chains });
        let path = self.folder.write(name, text.to_string());
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn apply(&self, chains: &Value) -> Ran {
        let path = self.policy("policy.json", chains);
        self.run(&["apply", &path])
    }

    pub(crate) fn status(&self) -> Value {
        self.run(&["--json", "status"]).ok().json()
    }

    /// How many programs run at the interfaces of `near`: all at XDP, and those of emptcp at tc.
    pub(crate) fn attached(&self) -> usize {
        self.near.attached()
    }

    /// A policy leaves nothing behind.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_nothing_left_but(0);
    }

    /// Nothing but so many XDP programs of others.
    #[track_caller]
    pub(crate) fn assert_nothing_left_but(&self, foreign: usize) {
        assert_eq!(self.bpffs.tree(), ["emptcp/v1".to_owned()].into());
        assert_eq!(self.attached(), foreign);
    }
}

impl Rig {
    /// How outputs until now show keys of connections: nothing else may show any later.
    pub(crate) fn shown_keys(&self) -> Vec<String> {
        self.taps.look(&self.folder)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let found = self.taps.last_look(&self.folder);
        if std::thread::panicking() {
            return;
        }
        // Each once.
        let places = found.iter().collect::<BTreeSet<_>>();
        let count = found.len();
        assert_eq!(
            count, 0,
            "outputs that show keys of connections: {places:#?}"
        );
    }
}

/// Packets that a chain counted; `None` where there is no such chain.
pub(crate) fn chain_packets(status: &Value, chain: &str) -> Option<u64> {
    let chains = status["chains"].as_array().unwrap();
    let mut found = chains.iter().filter(|c| c["name"] == chain).peekable();
    found.peek()?;
    Some(found.map(|c| c["packets"].as_u64().unwrap()).sum())
}

/// A process that is killed when the test is over.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often a test does the same: `few` times, and `many` times where `EMPTCP_THOROUGH` is set
/// (`make thorough`).
pub(crate) fn often<T>(few: T, many: T) -> T {
    match std::env::var_os("EMPTCP_THOROUGH") {
        Some(_) => many,
        None => few,
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_for(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
