//! What is known of a machine.

use std::path::PathBuf;

use crate::datapath::Leftovers;
use crate::datapath::MptcpLimits;
use crate::interface::Interface;
use crate::module::KernelVersion;

/// A fact, or why it could not be looked at.
pub(super) type Known<T> = Result<T, String>;

/// All that the checks judge.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `uname -r`
    pub(super) release: String,
    /// `uname -m`
    pub(super) machine: String,
    /// Modules with the oldest kernel that they run on.
    pub(super) modules: Vec<(String, KernelVersion)>,
    /// Whether the process is in the first user namespace.
    pub(super) first_user_namespace: Known<bool>,
    /// Effective capabilities.
    pub(super) capabilities: Known<u64>,
    /// Types of programs and maps that the kernel was asked for.
    pub(super) bpf: Vec<(&'static str, Known<bool>)>,
    /// Most bytes of locked memory; `None`: no limit.
    pub(super) memlock: Known<Option<u64>>,
    /// `net.core.bpf_jit_enable`
    pub(super) jit: Known<u32>,
    /// `net.core.bpf_jit_harden`
    pub(super) jit_harden: Known<u32>,
    /// The kernel describes its types.
    pub(super) btf: bool,
    /// Where pins are, and whether a BPF file system is mounted there; or why they have no place.
    pub(super) bpffs: Known<Result<(PathBuf, bool), String>>,
    /// State of pins and policy.
    pub(super) leftovers: Known<Leftovers>,
    /// `net.mptcp.enabled`; `None`: the kernel has no MPTCP.
    pub(super) mptcp: Known<Option<bool>>,
    /// `kernel` or `userspace`.
    pub(super) path_manager: Known<String>,
    /// Limits of the path manager of the kernel.
    pub(super) limits: Known<MptcpLimits>,
    /// The kernel has TCX.
    pub(super) tcx: Known<bool>,
    /// The interfaces.
    pub(super) ports: Known<Vec<Port>>,
}

impl Facts {
    /// Version of the kernel, as far as it can be read from its name.
    pub(super) fn kernel(&self) -> Option<KernelVersion> {
        self.release.parse().ok()
    }

    /// Whether the process has a capability; true where nothing is known.
    pub(super) fn may(&self, capability: u32) -> bool {
        let held = self.capabilities.as_ref();
        held.map_or(true, |held| held & (1 << capability) != 0)
    }
}

/// An interface by which packets leave past routing.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    /// As other parts see it.
    pub(super) interface: Interface,
    /// `net.ipv4.conf.*.rp_filter`
    pub(super) rp_filter: Known<u32>,
    /// What its driver can at XDP, if packets come from there.
    pub(super) xdp: Option<Known<u64>>,
}

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// As other parts see it.
    pub(super) interface: Interface,
    /// It is up.
    pub(super) up: bool,
    /// It has an IPv4 address that others can reach.
    pub(super) ipv4: bool,
    /// Kinds of its queueing disciplines, the root first.
    pub(super) qdiscs: Vec<String>,
    /// What its driver can at XDP (`NETDEV_XDP_ACT_*`).
    pub(super) xdp: Known<u64>,
    /// Packets that its other end sends have complete checksums.
    pub(super) peer_completes_checksums: Known<bool>,
    /// `net.ipv4.conf.*.rp_filter`
    pub(super) rp_filter: Known<u32>,
}
