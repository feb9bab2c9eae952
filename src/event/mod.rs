//! Events of connections (`include/emptcp/ring_events.h`): records of the ring, which
//! of them are wanted, and what is written of them. Pure.

mod filter;
mod notice;
mod select;
mod text;

pub(crate) use self::filter::Filter;
pub(crate) use self::notice::HeldChange;
#[cfg(test)]
pub(crate) use self::notice::LinkChange;
#[cfg(test)]
pub(crate) use self::notice::LinkState;
pub(crate) use self::notice::Notice;
pub(crate) use self::notice::link_changes;
pub(crate) use self::select::Seen;
pub(crate) use self::select::Selection;
pub(crate) use self::select::select;
pub(crate) use self::text::line;
pub(crate) use self::text::lost;
pub(crate) use self::text::object;
pub(crate) use self::text::seconds;

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use clap::ValueEnum;

use crate::abi;
use crate::module::Hook;

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Type {
    /// A connection began or ended.
    Connection,
    /// A subflow began or ended.
    Subflow,
    /// A connection went on as plain TCP.
    Fallback,
    /// An address was announced.
    AddAddr,
    /// Addresses were withdrawn.
    RemoveAddr,
    /// A subflow became backup, or is it no more.
    Prio,
    /// A step of the policy tells of a subflow.
    Threshold,
    /// A quota of the policy is used up.
    Quota,
    /// A network interface came, went, or is up or down now.
    Link,
    /// Packets that could not be treated, by reason.
    Reason,
    /// The SYN of a further subflow was held until its client gave up.
    HeldJoin,
}

impl Type {
    /// As on the command line, and in JSON.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// Whether something began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It began.
    Opened,
    /// It ended, so: `fin`, `rst`, `data_fin`, `fastclose`.
    Closed(&'static str),
}

/// One end of a subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Payload that it sent, with what was sent again.
    pub bytes: u64,
    /// Of that what was sent again.
    pub retransmitted: u64,
    /// Its address id, where that is known.
    pub addr_id: Option<u8>,
    /// It asked the other end to treat the subflow as backup.
    pub backup: bool,
}

/// What an event says beside subflow and connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A connection.
    Connection {
        /// Began or ended.
        change: Change,
        /// Of Multipath TCP: 0, 1.
        version: u8,
        /// Payload without what was sent again: from the client, from the server.
        bytes: [u64; 2],
        /// Nanoseconds since it began.
        duration: u64,
        /// Subflows that it had.
        subflows: u32,
    },
    /// A subflow.
    Subflow {
        /// Began or ended.
        change: Change,
        /// `initial`, `joined`, `unknown`.
        kind: &'static str,
        /// Of Multipath TCP: 0, 1.
        version: u8,
        /// Number in its connection; the first is 0.
        index: u8,
        /// Nanoseconds since it began.
        duration: u64,
        /// Source and destination.
        ends: [End; 2],
    },
    /// A fallback to plain TCP.
    Fallback {
        /// Of `enum emptcp_fallback`.
        cause: &'static str,
        /// Sequence number of the packet that showed it.
        seq: u32,
    },
    /// ADD_ADDR.
    AddAddr {
        /// What is announced.
        addr: IpAddr,
        /// Its port, where it has one.
        port: Option<u16>,
        /// Its address id.
        addr_id: u8,
        /// The answer to an announcement.
        echo: bool,
    },
    /// REMOVE_ADDR.
    RemoveAddr {
        /// The first eight at most.
        addr_ids: Vec<u8>,
        /// Ids in the packet.
        count: u8,
    },
    /// MP_PRIO.
    Prio {
        /// Whether the source wants the subflow treated as backup.
        backup: bool,
    },
    /// What a step of the policy tells of.
    Threshold {
        /// What the policy calls it.
        name: String,
        /// Payload of the subflow so far: from the source, from the destination.
        bytes: [u64; 2],
    },
    /// A quota is used up.
    Quota {
        /// What the policy calls it.
        name: String,
        /// Payload that was used.
        bytes: u64,
        /// What the policy allows.
        limit: u64,
        /// After how many nanoseconds it begins anew; 0: never.
        period: u64,
    },
}

/// Who sends from the source of an event's subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who opened the connection.
    Client,
    /// Who accepted it.
    Server,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds since 1970 (UTC).
    pub time: u64,
    /// The same on the clock of the tracker: nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_time: u64,
    /// Number of the step that told it.
    pub step: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// Zone of the chain.
    pub zone: u32,
    /// Where the chain runs.
    pub hook: Hook,
    /// Of the server, where it is known.
    pub token: Option<u32>,
    /// Of the client, where it is known.
    pub client_token: Option<u32>,
    /// The subflow, as the packet has it, or from the end that opened it.
    pub src: SocketAddr,
    /// Its other end.
    pub dst: SocketAddr,
    /// Who sends from `src`, where that is known.
    pub side: Option<Side>,
    /// What it says.
    pub detail: Detail,
}

/// A structure from the begin of a record.
fn read<T: plain::Plain + Default>(record: &[u8]) -> Option<T> {
    let mut raw = T::default();
    plain::copy_from_bytes(&mut raw, record).ok()?;
    Some(raw)
}

fn address(addr: &abi::Addr) -> IpAddr {
    let mut octets = [0; 16];
    for (to, word) in octets.chunks_exact_mut(4).zip(addr.w) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Up to the first zero.
fn text(bytes: [u8; 16]) -> String {
    let end = bytes.iter().position(|c| *c == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn change(what: u8, end: u8) -> Change {
    if what == abi::EVENT_OPENED {
        return Change::Opened;
    }
    Change::Closed(abi::end_name(end))
}

impl Event {
    /// A record of the ring; `None` where it is of another type, or cannot be read. `epoch`: when
    /// `CLOCK_BOOTTIME` was 0, in nanoseconds since 1970.
    pub(crate) fn parse(record: &[u8], epoch: u64) -> Option<Self> {
        let event: abi::Event = read(record)?;
        let head = &event.head;
        if head.version != abi::RING_VERSION {
            return None;
        }
        let detail = detail(head.r#type, record.get(..head.size.into())?)?;
        let has = |flag: u8| event.flags & flag != 0;
        let sides = [
            (abi::EVENT_FROM_CLIENT, Side::Client),
            (abi::EVENT_FROM_SERVER, Side::Server),
        ];
        Some(Self {
            time: epoch.wrapping_add(head.time),
            boot_time: head.time,
            step: head.step,
            ifindex: head.ifindex,
            zone: head.zone,
            hook: abi::hook_of(head.hook)?,
            token: has(abi::EVENT_HAS_TOKEN).then_some(event.token),
            client_token: has(abi::EVENT_HAS_CLIENT_TOKEN).then_some(event.client_token),
            src: SocketAddr::new(address(&event.subflow.src), event.subflow.sport),
            dst: SocketAddr::new(address(&event.subflow.dst), event.subflow.dport),
            side: sides.into_iter().find(|(f, _)| has(*f)).map(|(_, s)| s),
            detail,
        })
    }

    pub(crate) fn r#type(&self) -> Type {
        match self.detail {
            Detail::Connection { .. } => Type::Connection,
            Detail::Subflow { .. } => Type::Subflow,
            Detail::Fallback { .. } => Type::Fallback,
            Detail::AddAddr { .. } => Type::AddAddr,
            Detail::RemoveAddr { .. } => Type::RemoveAddr,
            Detail::Prio { .. } => Type::Prio,
            Detail::Threshold { .. } => Type::Threshold,
            Detail::Quota { .. } => Type::Quota,
        }
    }
}

fn detail(r#type: u8, record: &[u8]) -> Option<Detail> {
    Some(match r#type {
        abi::RING_CONNECTION => {
            let raw: abi::EventConnection = read(record)?;
            Detail::Connection {
                change: change(raw.what, raw.end),
                version: raw.version,
                bytes: raw.bytes,
                duration: raw.duration,
                subflows: raw.subflows,
            }
        }
        abi::RING_SUBFLOW => {
            let raw: abi::EventSubflow = read(record)?;
            let end = |at: usize, has_id: u8, backup: u8| End {
                bytes: raw.bytes[at],
                retransmitted: raw.retransmitted[at],
                addr_id: (raw.flags & has_id != 0).then_some(raw.addr_id[at]),
                backup: raw.flags & backup != 0,
            };
            Detail::Subflow {
                change: change(raw.what, raw.end),
                kind: abi::kind_name(raw.kind),
                version: raw.version,
                index: raw.index,
                duration: raw.duration,
                ends: [
                    end(0, abi::EVENT_SRC_HAS_ID, abi::EVENT_SRC_ASKS_BACKUP),
                    end(1, abi::EVENT_DST_HAS_ID, abi::EVENT_DST_ASKS_BACKUP),
                ],
            }
        }
        abi::RING_FALLBACK => {
            let raw: abi::EventFallback = read(record)?;
            Detail::Fallback {
                cause: abi::fallback_name(raw.cause),
                seq: raw.seq,
            }
        }
        abi::RING_ADD_ADDR => {
            let raw: abi::EventAddAddr = read(record)?;
            Detail::AddAddr {
                addr: address(&raw.addr),
                port: (raw.flags & abi::EVENT_HAS_PORT != 0).then_some(raw.port),
                addr_id: raw.addr_id,
                echo: raw.flags & abi::EVENT_ECHO != 0,
            }
        }
        abi::RING_REMOVE_ADDR => {
            let raw: abi::EventRemoveAddr = read(record)?;
            let ids = raw.addr_id.into_iter().take(raw.count.into());
            Detail::RemoveAddr {
                addr_ids: ids.collect(),
                count: raw.count,
            }
        }
        abi::RING_PRIO => {
            let raw: abi::EventPrio = read(record)?;
            Detail::Prio {
                backup: raw.backup != 0,
            }
        }
        abi::RING_THRESHOLD => {
            let raw: abi::EventThreshold = read(record)?;
            Detail::Threshold {
                name: text(raw.name.bytes.map(|c| c as u8)),
                bytes: raw.bytes,
            }
        }
        abi::RING_QUOTA => {
            let raw: abi::EventQuota = read(record)?;
            Detail::Quota {
                name: text(raw.name.bytes.map(|c| c as u8)),
                bytes: raw.bytes,
                limit: raw.limit,
                period: raw.period,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
