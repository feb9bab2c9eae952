//! What processes of some cgroups send, and what becomes of a policy when cgroups come and go.

use std::fs;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::mount::MntFlags;
use nix::mount::MsFlags;
use serde_json::Value;
use serde_json::json;

use super::mptcp;
use super::rig::Rig;
use super::rig::Tc;
use super::rig::TempDir;
use super::rig::chain_packets;

/// A mount of the hierarchy of cgroups, and a cgroup of the test's own in it.
pub(super) struct Cgroups {
    root: File,
    folder: TempDir,
}

impl Cgroups {
    pub(super) fn new() -> Self {
        let folder = TempDir::new();
        let mount = folder.0.join("cgroup");
        fs::create_dir(&mount).unwrap();
        let none = None::<&str>;
        nix::mount::mount(Some("x"), &mount, Some("cgroup2"), MsFlags::empty(), none).unwrap();
        let root = File::open(&mount).unwrap();
        let cgroups = Self { root, folder };
        cgroups.add("");
        cgroups
    }

    /// From now on nobody finds this mount.
    fn hide(&self) {
        let _ = nix::mount::umount2(&self.folder.0.join("cgroup"), MntFlags::MNT_DETACH);
    }

    /// The path of a cgroup below that of the test, as in a policy.
    pub(super) fn path(&self, name: &str) -> String {
        let own = self.folder.0.file_name().unwrap();
        format!("/{}{name}", own.to_str().unwrap())
    }

    /// The same with the mount point.
    fn mounted(&self, name: &str) -> String {
        format!("{}/cgroup{}", self.folder.0.display(), self.path(name))
    }

    /// Its folder, also for other processes, and when it is hidden.
    fn place(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd());
        PathBuf::from(root + &self.path(name))
    }

    pub(super) fn add(&self, name: &str) {
        fs::create_dir(self.place(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_dir(self.place(name)).unwrap();
    }

    /// Does something while this process is in a cgroup: one test at a time.
    pub(super) fn inside<T>(&self, name: &str, something: impl FnOnce() -> T) -> T {
        static MOVED: Mutex<()> = Mutex::new(());
        let _moved = MOVED.lock().unwrap_or_else(PoisonError::into_inner);
        let home = own_cgroup(self);
        fs::write(self.place(name).join("cgroup.procs"), "0").unwrap();
        let done = something();
        fs::write(home.join("cgroup.procs"), "0").unwrap();
        done
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove_all(&self.place(""));
        self.hide();
    }
}

/// The files of a cgroup cannot be removed, its folder can.
fn remove_all(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_all(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Counts what leaves for `far`, by cgroup.
fn chain(name: &str, cgroups: &Value) -> Value {
    json!({ "name": name, "hook": "tc-egress", "interfaces": ["p*"],
        "select": { "cgroup": { "in": cgroups } }, "act": [{ "record": {} }] })
}

/// A shell in `near` that moves into a cgroup, connects to `far` and sends a little.
fn talk(rig: &Rig, folder: &Path, port: u16) {
    let line = format!(
        "echo $$ >{}/cgroup.procs && exec bash -c 'exec 3<>/dev/tcp/10.77.0.1/{port} && echo x >&3'",
        folder.display()
    );
    rig.near.sh(&line);
}

fn packets(rig: &Rig, chain: &str) -> u64 {
    chain_packets(&rig.status(), chain).unwrap()
}

#[test]
fn root_only_what_a_cgroup_sends_is_matched() {
    for tc in Tc::ALL {
        let rig = Rig::new(1, tc);
        let cgroups = Cgroups::new();
        for name in ["/web", "/web/worker", "/mail"] {
            cgroups.add(name);
        }
        let (web, mail) = (cgroups.path("/web"), cgroups.path("/mail"));
        rig.apply(&json!([
            chain("web", &json!(web)),
            chain("mail", &json!([mail])),
            chain("worker", &json!(cgroups.mounted("/web/worker"))),
            chain("both", &json!([mail, web])),
            chain("all", &json!("/")),
        ]))
        .ok();
        let counts = || ["web", "mail", "worker", "both", "all"].map(|c| packets(&rig, c));
        let listener = rig
            .far
            .within(|| TcpListener::bind(("10.77.0.1", 5001)).unwrap());
        let accept = std::thread::spawn(move || while listener.accept().is_ok() {});

        talk(&rig, &cgroups.place("/mail"), 5001);
        let [web, mail, worker, both, all] = counts();
        assert!(mail >= 3, "{mail}");
        assert_eq!([web, worker, both, all], [0, 0, mail, mail], "{tc:?}");
        // What is below belongs to it.
        talk(&rig, &cgroups.place("/web/worker"), 5001);
        let [web, after, below, both, _] = counts();
        assert!(below >= 3, "{below}");
        assert_eq!([after, web, both], [mail, below, mail + below], "{tc:?}");
        drop(accept);
        rig.run(&["delete"]).ok();
        rig.assert_nothing_left();
    }
}

/// The server's cgroup holds for its answers from the SYN/ACK on, and that of the client for every
/// subflow.
#[test]
fn root_all_subflows_are_of_the_cgroup_of_their_connection() {
    let rig = Rig::new(2, Tc::Tcx);
    let cgroups = Cgroups::new();
    cgroups.add("/app");
    rig.apply(
        &json!([{ "name": "app", "hook": "tc-egress", "interfaces": ["p*"],
        "select": { "cgroup": { "in": cgroups.path("/app") } }, "act": [{ "record": {} }] }]),
    )
    .ok();
    rig.far.sh("ip mptcp endpoint add 10.77.1.1 dev p1 signal");
    rig.near
        .sh("ip mptcp limits set add_addr_accepted 2 subflow 2");
    rig.far.sh("ip mptcp limits set subflow 2");
    let done = cgroups.inside("/app", || {
        mptcp::transfer(&rig.near, &rig.far, "10.77.0.1".parse().unwrap(), || {})
    });
    assert_eq!((done.subflows, done.fell_back), (2, false));
    let state = rig.run(&["--json", "status", "--state"]).ok().json();
    let records = &state["state"][0]["entries"];
    let records = records.as_array().unwrap();
    let of = |dst: &str| records.iter().find(|r| r["dst"] == dst).unwrap();
    // Both SYNs too: the first packets are the cgroup's.
    for dst in ["10.77.0.1", "10.77.1.1"] {
        assert!(of(dst)["packets"].as_u64().unwrap() > 10, "{records:?}");
    }
}

/// The cgroup that this process was in.
fn own_cgroup(cgroups: &Cgroups) -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
    let root = format!("/proc/self/fd/{}", cgroups.root.as_raw_fd());
    PathBuf::from(root + own)
}

#[test]
fn root_cgroups_come_and_go() {
    let rig = Rig::new(1, Tc::Tcx);
    let cgroups = Cgroups::new();
    let path = cgroups.path("/app");
    let policy = json!([chain("app", &json!(path))]);
    // Not there: apply refuses, check warns.
    rig.apply(&policy).fails(&[
        "policy.json:1:",
        "chains[0].select.cgroup.in: there is no cgroup",
        &path,
    ]);
    let file = rig.policy("policy.json", &policy);
    let checked = rig.run(&["check", &file]).ok();
    assert!(
        checked.err.contains("warning: there is no cgroup"),
        "{}",
        checked.err
    );
    rig.run(&["check", "--kernel", "5.10", &file]).ok();
    assert_eq!(rig.run(&["check", "--kernel", "5.10", &file]).err, "");
    assert_eq!(rig.attached(), 0);

    cgroups.add("/app");
    assert_eq!(rig.run(&["check", &file]).ok().err, "");
    rig.apply(&policy).ok();
    assert!(rig.apply(&policy).ok().err.contains("nothing to change"));
    let shown = rig.run(&["--json", "show"]).ok().json();
    assert_eq!(shown["chains"][0]["select"], policy[0]["select"], "{shown}");
    let drift = || rig.status()["drift"].clone();
    assert_eq!(drift(), json!([]));

    cgroups.remove("/app");
    assert!(
        drift()[0].as_str().unwrap().contains("there is no cgroup"),
        "{}",
        drift()
    );
    cgroups.add("/app");
    assert!(
        drift()[0].as_str().unwrap().contains("was made anew"),
        "{}",
        drift()
    );
    let listener = rig
        .far
        .within(|| TcpListener::bind(("10.77.0.1", 5001)).unwrap());
    talk(&rig, &cgroups.place("/app"), 5001);
    assert_eq!(packets(&rig, "app"), 0);
    let dry = rig.run(&["apply", "--dry-run", &file]);
    assert_eq!(dry.code, Some(3), "{}{}", dry.out, dry.err);
    rig.apply(&policy).ok();
    assert_eq!(drift(), json!([]));
    talk(&rig, &cgroups.place("/app"), 5001);
    assert!(packets(&rig, "app") >= 3);
    drop(listener);
}

/// `ip netns exec` hides what is mounted below /sys.
#[test]
fn root_cgroups_are_found_in_ip_netns_exec() {
    let rig = Rig::new(1, Tc::Tcx);
    let cgroups = Cgroups::new();
    cgroups.add("/app");
    // What is left is below /sys.
    cgroups.hide();
    let chains = json!([chain("app", &json!(cgroups.path("/app")))]);
    let policy = rig.policy("policy.json", &chains);
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        &rig.near.name,
        env!("CARGO_BIN_EXE_emptcp"),
    ]);
    command
        .args(["apply", &policy])
        .env("EMPTCP_BPFFS", &rig.bpffs.path);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(rig.status()["drift"], json!([]));
    let _listener = rig
        .far
        .within(|| TcpListener::bind(("10.77.0.1", 5001)).unwrap());
    talk(&rig, &cgroups.place("/app"), 5001);
    assert!(packets(&rig, "app") >= 3);
}
