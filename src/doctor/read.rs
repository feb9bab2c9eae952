//! Reads the facts. Nothing here fails: what cannot be read is a fact too.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::path::PathBuf;

use libbpf_rs::MapType;
use libbpf_rs::ProgramType;
use libbpf_rs::Xdp;
use libbpf_rs::XdpFlags;
use nix::sched::CloneFlags;
use nix::sched::setns;

use super::Verdict;
use super::facts::Facts;
use super::facts::Known;
use super::facts::Leaving;
use super::facts::Port;
use crate::datapath::interfaces;
use crate::datapath::leftovers;
use crate::datapath::mptcp_limits;
use crate::datapath::port_states;
use crate::interface::Interface;
use crate::module::Hook;
use crate::module::Module;
use crate::pin::Home;
use crate::sys;

const PROGRAMS: [(&str, ProgramType); 2] = [
    ("programs of tc", ProgramType::SchedCls),
    ("programs of XDP", ProgramType::Xdp),
];
const MAPS: [(&str, MapType); 5] = [
    ("maps of type prog_array", MapType::ProgArray),
    ("maps of type percpu_array", MapType::PercpuArray),
    ("maps of type hash", MapType::Hash),
    ("maps of type lru_hash", MapType::LruHash),
    ("maps of type lpm_trie", MapType::LpmTrie),
];

/// Looks at the machine and the current network namespace.
pub(super) fn facts(modules: &[Module]) -> Facts {
    let name = nix::sys::utsname::uname();
    let name = |field: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        let name = name
            .as_ref()
            .map(|n| field(n).to_string_lossy().into_owned());
        name.unwrap_or_default()
    };
    let mut facts = Facts {
        release: name(|n| n.release()),
        machine: name(|n| n.machine()),
        modules: modules.iter().map(|m| (m.name.clone(), m.since)).collect(),
        first_user_namespace: text("/proc/self/uid_map").map(|map| {
            // Maps every id to itself.
            map.split_whitespace().eq(["0", "0", "4294967295"])
        }),
        capabilities: text("/proc/self/status").and_then(|status| {
            let field = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
            let held = field.and_then(|f| u64::from_str_radix(f.trim(), 16).ok());
            held.ok_or_else(|| "/proc/self/status tells no capabilities".to_owned())
        }),
        bpf: Vec::new(),
        memlock: text("/proc/self/limits").map(|limits| {
            let line = limits
                .lines()
                .find_map(|l| l.strip_prefix("Max locked memory"));
            line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        }),
        jit: of_first_namespace("/proc/sys/net/core/bpf_jit_enable"),
        jit_harden: of_first_namespace("/proc/sys/net/core/bpf_jit_harden"),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        bpffs: bpffs(),
        leftovers: leftovers().map_err(|e| format!("{e:#}")),
        mptcp: match fs::read_to_string("/proc/sys/net/mptcp/enabled") {
            Ok(enabled) => Ok(Some(enabled.trim() == "1")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("/proc/sys/net/mptcp/enabled: {e}")),
        },
        path_manager: path_manager(),
        limits: mptcp_limits().map_err(|e| format!("{e:#}")),
        tcx: Err(NO_PRIVILEGE.to_owned()),
        ports: Err(String::new()),
    };
    // Without privilege every type would seem to be missing.
    let privilege = [super::machine::capabilities, super::machine::user_namespace];
    let may = privilege
        .iter()
        .flat_map(|check| check(&facts))
        .all(|f| f.verdict == Verdict::Ok);
    facts.bpf = probes(may);
    facts.ports = ports();
    if may && let Ok(first) = &facts.ports.as_ref().map(|p| p.first()) {
        facts.tcx = match first.map(|p| sys::tcx_programs(p.interface.index, false)) {
            Some(Ok(_)) => Ok(true),
            Some(Err(_)) => Ok(false),
            None => Err("there is no interface".to_owned()),
        };
    }
    facts
}

const NO_PRIVILEGE: &str = "cannot be seen without the capabilities";

fn text(path: &str) -> Known<String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

fn number(path: &str) -> Known<u32> {
    let text = text(path)?;
    text.trim()
        .parse()
        .map_err(|_| format!("{path}: {text:?} is no number"))
}

/// A setting that only the first network namespace shows.
fn of_first_namespace(path: &'static str) -> Known<u32> {
    if Path::new(path).exists() {
        return number(path);
    }
    // A thread has a network namespace of its own, and takes it along when it ends.
    let read = move || {
        let entered = File::open("/proc/1/ns/net")
            .and_then(|first| Ok(setns(first, CloneFlags::CLONE_NEWNET)?));
        entered.map_err(|e| format!("{path} is in the first network namespace: {e}"))?;
        number(path)
    };
    let read = std::thread::spawn(read).join();
    read.unwrap_or_else(|_| Err("a thread has failed".to_owned()))
}

fn probes(may: bool) -> Vec<(&'static str, Known<bool>)> {
    let known = |supported: libbpf_rs::Result<bool>| match may {
        true => supported.map_err(|e| e.to_string()),
        false => Err(NO_PRIVILEGE.to_owned()),
    };
    let programs = PROGRAMS
        .iter()
        .map(|(name, t)| (*name, known(t.is_supported())));
    let maps = MAPS
        .iter()
        .map(|(name, t)| (*name, known(t.is_supported())));
    programs.chain(maps).collect()
}

fn bpffs() -> Known<Result<(PathBuf, bool), String>> {
    let denied = |e: &anyhow::Error| {
        let io = e.chain().filter_map(|e| e.downcast_ref::<io::Error>());
        io.into_iter()
            .any(|e| e.kind() == io::ErrorKind::PermissionDenied)
    };
    match Home::look() {
        Ok(found) => Ok(Ok(found)),
        Err(e) if denied(&e) => Err(format!("{e:#}")),
        Err(e) => Ok(Err(format!("{e:#}"))),
    }
}

fn path_manager() -> Known<String> {
    // Linux 6.15; before it a number; before 5.19 there was one path manager.
    if let Ok(name) = text("/proc/sys/net/mptcp/path_manager") {
        return Ok(name.trim().to_owned());
    }
    let path = "/proc/sys/net/mptcp/pm_type";
    match Path::new(path).exists() && number(path)? != 0 {
        true => Ok("userspace".to_owned()),
        false => Ok("kernel".to_owned()),
    }
}

/// Looks at an interface by which packets of this hook leave.
pub(super) fn leaving(interface: &Interface, hook: Hook) -> Leaving {
    let all = number(RP_FILTER_OF_ALL);
    Leaving {
        interface: interface.clone(),
        rp_filter: rp_filter(interface, &all),
        xdp: (hook == Hook::Xdp).then(|| xdp_features(interface.index)),
    }
}

const RP_FILTER_OF_ALL: &str = "/proc/sys/net/ipv4/conf/all/rp_filter";

/// The kernel takes the stricter of the two; 2 is loose.
fn rp_filter(interface: &Interface, all: &Known<u32>) -> Known<u32> {
    let path = format!("/proc/sys/net/ipv4/conf/{}/rp_filter", interface.name);
    Ok(number(&path)?.max(all.clone()?))
}

fn ports() -> Known<Vec<Port>> {
    let interfaces = interfaces().map_err(|e| format!("{e:#}"))?.0;
    let states = port_states().map_err(|e| format!("{e:#}"))?;
    let all = number(RP_FILTER_OF_ALL);
    let port = |interface: &Interface| {
        let state = states.get(&interface.index).cloned().unwrap_or_default();
        let peer = state
            .peer
            .and_then(|peer| interfaces.iter().find(|i| i.index == peer));
        Port {
            interface: interface.clone(),
            up: state.up,
            ipv4: state.ipv4,
            qdiscs: state.qdiscs,
            xdp: xdp_features(interface.index),
            peer_completes_checksums: peer
                .ok_or_else(|| "its other end is elsewhere".to_owned())
                .and_then(|peer| {
                    let later = sys::completes_checksums_later(&peer.name);
                    later.map(|later| !later).map_err(|e| e.to_string())
                }),
            rp_filter: rp_filter(interface, &all),
        }
    };
    Ok(interfaces.iter().map(port).collect())
}

fn xdp_features(ifindex: u32) -> Known<u64> {
    let stdin = io::stdin();
    // The program is not used to ask.
    let asked = Xdp::new(stdin.as_fd()).query(ifindex as i32, XdpFlags::NONE);
    asked
        .map(|told| told.feature_flags)
        .map_err(|e| e.to_string())
}
