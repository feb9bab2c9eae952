//! Network interfaces, as the rest of the program sees them. Pure: `datapath` asks
//! the kernel for them.

use crate::params::InterfaceResolver;

/// Largest MTU that fits into one page with what XDP puts around a packet.
pub(crate) const ONE_BUFFER_MTU: u32 = 3498;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index in its network namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Up, and with a carrier where it can have one (`IFF_RUNNING`).
    pub up: bool,
    /// Kind, as `ip -d link` prints it (`veth`, `tun`); `None` for hardware.
    pub kind: Option<String>,
    /// Packets begin with an IP header.
    pub raw_ip: bool,
    /// Id of the XDP program that is there, if one is.
    pub xdp_program: Option<u32>,
}

impl Interface {
    /// Name and alternative names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.altnames.iter().map(String::as_str))
    }

    /// Whether packets here may have a checksum that is still to be completed, which XDP
    /// programs cannot see: both ends are of this machine, or a guest hands them over.
    pub fn hides_partial_checksums(&self) -> bool {
        matches!(
            self.kind.as_deref(),
            Some("veth" | "tun" | "netkit" | "ifb" | "bridge")
        ) || self.name == "lo"
    }
}

/// The interfaces of a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Interfaces(pub Vec<Interface>);

impl Interfaces {
    /// The interface of an index.
    pub fn by_index(&self, index: u32) -> Option<&Interface> {
        self.0.iter().find(|i| i.index == index)
    }
}

impl InterfaceResolver for Interfaces {
    fn index(&self, name: &str) -> Option<u32> {
        self.0
            .iter()
            .find(|i| i.names().any(|n| n == name))
            .map(|i| i.index)
    }

    fn name(&self, index: u32) -> Option<String> {
        self.by_index(index).map(|i| i.name.clone())
    }

    fn names(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|i| i.names().map(str::to_owned))
            .collect()
    }
}
