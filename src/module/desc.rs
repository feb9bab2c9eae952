//! What a module says of itself: the description that BTF of its object holds.
//!
//! Everything the rest of the program knows of a module is here; no name of a
//! module stands anywhere in `src/`.

use std::fmt;

use super::EventFact;

/// Major and minor number of a kernel release, as in `5.10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion(pub u16, pub u16);

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl std::str::FromStr for KernelVersion {
    type Err = String;

    /// Takes `5.10`, and what `uname -r` prints (`6.12.48+deb13-amd64`).
    fn from_str(s: &str) -> Result<Self, String> {
        let mut parts = s.split(|c: char| !c.is_ascii_digit());
        let mut number = || parts.next().and_then(|p| p.parse::<u16>().ok());
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self(major, minor)),
            _ => Err(format!(
                "expected a kernel version such as 5.10, found {s:?}"
            )),
        }
    }
}

/// A place where the kernel runs a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Before the kernel allocates a socket buffer.
    Xdp,
    /// Traffic control, packets received.
    TcIngress,
    /// Traffic control, packets sent.
    TcEgress,
}

impl Hook {
    /// Every hook, in the order in which a packet that passes a machine meets them.
    pub const ALL: [Hook; 3] = [Hook::Xdp, Hook::TcIngress, Hook::TcEgress];

    /// The name in JSON, on the command line and in the tags of a module.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Xdp => "xdp",
            Hook::TcIngress => "tc-ingress",
            Hook::TcEgress => "tc-egress",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Hook {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Hook::ALL
            .into_iter()
            .find(|h| h.name() == s)
            .ok_or_else(|| format!("expected xdp, tc-ingress or tc-egress, found {s:?}"))
    }
}

/// Selector (which packets) or actor (what is done to them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Tests a packet.
    Selector,
    /// Treats a packet.
    Actor,
}

impl Kind {
    /// The word in JSON output and in the tags of a module.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Selector => "selector",
            Kind::Actor => "actor",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Properties that the engine must know of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The result does not depend on the packet and the parameters alone: such
    /// a step is never reordered, and never shared with an equal one.
    pub impure: bool,
    /// Changes bytes of the packet.
    pub edits: bool,
    /// An actor that changes nothing that a selector may see: what tests said before it
    /// still holds behind it.
    pub observes: bool,
    /// Ends emptcp's part at this hook (accept, drop, redirect).
    pub ends: bool,
    /// Reads or writes words of the chain context.
    pub context: bool,
    /// Gives packets a time to leave, which needs the queueing discipline fq.
    pub fq: bool,
    /// Is a part of the tracker.
    pub tracks: bool,
    /// Goes by what the tracker remembers, which therefore comes before it.
    pub tracked: bool,
    /// Goes by the bytes of connections, which the tracker then keeps up with each packet.
    pub totals: bool,
}

/// A module, as its object describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Name in JSON; also that of its file, program and fixture.
    pub name: String,
    /// Another name in JSON.
    pub alias: Option<String>,
    /// Selector or actor.
    pub kind: Kind,
    /// Hooks that it can run on, ascending.
    pub hooks: Vec<Hook>,
    /// Oldest kernel that loads it.
    pub since: KernelVersion,
    /// One line for people.
    pub doc: String,
    /// What the engine must know.
    pub flags: Flags,
    /// Parameters in the order of the C structure.
    pub params: Vec<Param>,
    /// Size of the C structure of the parameters, in bytes.
    pub params_size: usize,
    /// Has no function beside its own one, so that its steps can be joined with others.
    pub joinable: bool,
    /// What is told to whoever puts it in force: what the packets that it treats get past, and
    /// the like.
    pub warns: Option<String>,
}

impl Module {
    /// Whether JSON means it by this name.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.alias.as_deref() == Some(name)
    }

    /// Whether events can be asked what it asks of packets.
    pub fn asks_events(&self) -> bool {
        let is_asked = |param: &Param| {
            let fact = param.event;
            matches!(
                fact,
                Some(EventFact::Is(_) | EventFact::Least(_) | EventFact::Most(_))
            )
        };
        self.kind == Kind::Selector && self.params.iter().any(is_asked)
    }

    /// Whether a step goes by what the tracker remembers, by which parameters are given in it.
    pub fn is_tracked(&self, is_given: impl Fn(&str) -> bool) -> bool {
        let mut without = self.params.iter().filter(|param| param.tracked_unless);
        self.flags.tracked || without.any(|param| !is_given(&param.name))
    }
}

/// One parameter of a module: a member of its `struct <name>_params`.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// JSON key and C member.
    pub name: String,
    /// One line for people.
    pub doc: String,
    /// What it holds.
    pub ty: Type,
    /// Place in the structure of the parameters, in bytes.
    pub offset: usize,
    /// Must be given.
    pub required: bool,
    /// As it would be written in JSON (a bare word for a string), when it is
    /// not given. Without a default an absent parameter is all zero bytes.
    pub default: Option<String>,
    /// Smallest value, written as in JSON.
    pub min: Option<String>,
    /// Largest value, written as in JSON.
    pub max: Option<String>,
    /// The table that a selector looks up (`EMPTCP_LOOKUP`): stands in the place of the
    /// parameters that are required, and its values go to the actors behind.
    pub lookup: bool,
    /// Must be given where another parameter has this value (`EMPTCP_REQUIRED_IF`).
    pub required_if: Option<(String, String)>,
    /// A module that edits does so only where this parameter is not zero (`EMPTCP_EDITS_IF`).
    pub edits_if: bool,
    /// An interface by which packets leave past routing (`EMPTCP_LEAVES_BY`).
    pub leaves_by: bool,
    /// Without it the step goes by what the tracker remembers (`EMPTCP_TRACKED_UNLESS`); its bits
    /// are all set then.
    pub tracked_unless: bool,
    /// What of an event it is compared with (`EMPTCP_EVENT_FACT`).
    pub event: Option<EventFact>,
}

/// The vocabulary of parameter types (`include/emptcp/types.h`).
///
/// Integers are in the byte order of the machine, addresses in that of the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `emptcp_bytes`: `__u64`, bytes. JSON: number or `"64KiB"`.
    Bytes,
    /// `emptcp_rate`: `__u64`, bit/s. JSON: number or `"20Mbit"`.
    Rate,
    /// `emptcp_time`: `__u64`, nanoseconds. JSON: `"100ms"`.
    Time,
    /// `emptcp_ratio`: `__u32`, the ratio times 2^32, rounded, at most 2^32 - 1.
    /// JSON: number 0 to 1, `"10%"` or `"1/16"`.
    Ratio,
    /// `struct emptcp_addr` (16 bytes): IPv6, or IPv4 as `::ffff:a.b.c.d`.
    Addr,
    /// `struct emptcp_prefix` (32 bytes): `addr` (already masked) and `mask`,
    /// both 16 bytes; IPv4 as `::ffff:a.b.c.d` with 96 more bits of mask.
    Prefix,
    /// `emptcp_port`: `__u16`.
    Port,
    /// `struct emptcp_port_range`: `__u16 first, last`. JSON: number, `"22"`, `"8000-8010"`.
    PortRange,
    /// `emptcp_token`: `__u32`. JSON: number or `"0x1a2b3c4d"`.
    Token,
    /// `emptcp_ifindex`: `__u32`, resolved from an interface's name at `apply`.
    Interface,
    /// `struct emptcp_cgroup` (16 bytes): id and level of a cgroup, resolved from its path at
    /// `apply`.
    Cgroup,
    /// `struct emptcp_text` (16 bytes): up to 15 printable characters of ASCII, then zeros.
    Text,
    /// `emptcp_bool`: `__u8`, 0 or 1.
    Bool,
    /// `__u8` … `__u64`: size in bytes. JSON: number or `"0x…"`.
    Uint(usize),
    /// `__s8` … `__s64`: size in bytes.
    Int(usize),
    /// A C enum: one of its names. Names are the enumerators without their
    /// common prefix, in lower case.
    Enum {
        /// Size in bytes (4 or 8).
        size: usize,
        /// Name and value.
        values: Vec<(String, i64)>,
    },
    /// `EMPTCP_SET(enum)`: `__u64`, bit n set for the name of value n. JSON: array of names.
    Set {
        /// Name and number of the bit.
        values: Vec<(String, i64)>,
    },
    /// `EMPTCP_LIST(type, max)`: `__u32 count`, then `max` items. JSON: array,
    /// or one bare item.
    List {
        /// Type of the items; never a list.
        of: Box<Type>,
        /// How many fit in the parameters. A longer list becomes an anonymous
        /// table where `table` is set, else is an error.
        max: usize,
        /// Offset of the first item from the start of the list, in bytes.
        items_offset: usize,
        /// Size of one item, in bytes.
        item_size: usize,
        /// Name of the module's map that takes a longer list.
        table: Option<String>,
    },
    /// A tagged map of the module (no bytes in the parameters; `offset` is 0):
    /// reference to a table of the policy. JSON: the table's name.
    Table {
        /// Kind of the keys.
        key: TableKey,
        /// Type of the values, if it takes one.
        value: Option<Box<Type>>,
    },
}

impl fmt::Display for Type {
    /// In the words of the documentation: `bytes`, `list of prefix (8)`, `set of fin, syn`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |values: &[(String, i64)]| {
            values
                .iter()
                .map(|(n, _)| n.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match self {
            Type::Bytes => f.write_str("bytes"),
            Type::Rate => f.write_str("rate"),
            Type::Time => f.write_str("time"),
            Type::Ratio => f.write_str("ratio"),
            Type::Addr => f.write_str("address"),
            Type::Prefix => f.write_str("prefix"),
            Type::Port => f.write_str("port"),
            Type::PortRange => f.write_str("port range"),
            Type::Token => f.write_str("token"),
            Type::Interface => f.write_str("interface"),
            Type::Cgroup => f.write_str("cgroup"),
            Type::Text => f.write_str("text"),
            Type::Bool => f.write_str("bool"),
            Type::Uint(size) => write!(f, "u{}", size * 8),
            Type::Int(size) => write!(f, "s{}", size * 8),
            Type::Enum { values, .. } => write!(f, "one of {}", names(values)),
            Type::Set { values } => write!(f, "set of {}", names(values)),
            Type::List { of, max, table, .. } => match table {
                Some(_) => write!(f, "list of {of}"),
                None => write!(f, "list of {of} (at most {max})"),
            },
            Type::Table { key, value } => {
                write!(f, "table of {}", format!("{key:?}").to_lowercase())?;
                value
                    .as_ref()
                    .map_or(Ok(()), |value| write!(f, " to {value}"))
            }
        }
    }
}

/// What a table is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKey {
    /// Longest matching prefix.
    Prefix,
    /// An address.
    Addr,
    /// Addresses and ports of a subflow.
    Subflow,
    /// An MPTCP token.
    Token,
    /// A port.
    Port,
}
