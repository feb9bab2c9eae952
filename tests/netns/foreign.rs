//! Programs that are not emptcp's, compiled by the test.

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::Object;
use libbpf_rs::ObjectBuilder;

use super::raw;
use super::rig::Netns;
use super::rig::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn compile(source: &Path, object: &Path, define: &str) {
    let mut builder = SkeletonBuilder::new();
    if let Some(clang) = std::env::var_os("CLANG") {
        builder.clang(clang);
    } else if Path::new("/usr/bin/clang-19").exists() {
        builder.clang("clang-19");
    }
    let include = format!("-I{}", root().join("include").display());
    let arch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let args = [
        "-Wall",
        "-Werror",
        "-mcpu=v3",
        define,
        &include,
        "-idirafter",
        &arch,
    ];
    builder.clang_args(args).source(source).obj(object);
    builder.build().unwrap();
}

/// A folder with the modules of tests/modules-src, for `--modules`.
pub(crate) fn modules(folder: &TempDir) -> PathBuf {
    let modules = folder.0.join("modules");
    std::fs::create_dir(&modules).unwrap();
    for (name, family, define) in [
        ("torn", "tc", "-DEMPTCP_TC"),
        ("tally", "tc", "-DEMPTCP_TC"),
        ("solo", "tc", "-DEMPTCP_TC"),
        ("solo", "xdp", "-DEMPTCP_XDP"),
    ] {
        let source = root().join(format!("tests/modules-src/{name}.bpf.c"));
        compile(&source, &modules.join(format!("{name}.{family}.o")), define);
    }
    modules
}

/// Where a judge stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    TcxFirst,
    TcxLast,
    /// A filter of this priority.
    Filter(u16),
}

/// What a judge has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) total: u64,
    pub(crate) untreated: u64,
    pub(crate) mixed: u64,
    pub(crate) mark: u32,
    pub(crate) window: u32,
}

/// A counting program at tc ingress.
#[derive(Debug)]
pub(crate) struct Judge {
    object: Object,
    _link: Option<OwnedFd>,
}

impl Judge {
    /// `end`: takes the counted packets away.
    pub(crate) fn new(netns: &Netns, interface: &str, at: At, end: bool) -> Self {
        let object = load();
        let name = if end { "judge_end" } else { "judge_pass" };
        let index = netns.ifindex(interface);
        let program = program(&object, name);
        let link = netns.within(|| match at {
            At::TcxFirst => Some(raw::tcx_ingress(&program, index, true)),
            At::TcxLast => Some(raw::tcx_ingress(&program, index, false)),
            At::Filter(priority) => {
                filter(&program, index, priority);
                None
            }
        });
        Self {
            object,
            _link: link,
        }
    }

    pub(crate) fn read(&self) -> Judged {
        let map = self.object.maps().find(|m| m.name() == "judged").unwrap();
        let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).unwrap();
        let bytes = bytes.unwrap();
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let short = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        Judged {
            total: long(0),
            untreated: long(8),
            mixed: long(16),
            mark: short(24),
            window: short(28),
        }
    }
}

/// Attaches a filter at ingress of an interface of the current namespace.
pub(crate) fn filter(program: &OwnedFd, ifindex: u32, priority: u16) {
    let mut hook = libbpf_rs::TcHookBuilder::new(program.as_fd())
        .ifindex(ifindex as i32)
        .handle(1)
        .priority(priority.into())
        .hook(libbpf_rs::TC_INGRESS);
    let _ = hook.create();
    hook.attach().unwrap();
}

/// Loads the judges; each has a map of its own.
pub(crate) fn load() -> Object {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let folder = TempDir::new();
        let object = folder.0.join("judge.o");
        compile(&root().join("tests/bpf/judge.bpf.c"), &object, "-DJUDGE");
        std::fs::read(object).unwrap()
    });
    libbpf_rs::set_print(None);
    let mut builder = ObjectBuilder::default();
    builder.open_memory(bytes).unwrap().load().unwrap()
}

pub(crate) fn program(object: &Object, name: &str) -> OwnedFd {
    let program = object.progs().find(|p| p.name() == name).unwrap();
    assert!(program.as_fd().as_raw_fd() >= 0);
    program.as_fd().try_clone_to_owned().unwrap()
}
