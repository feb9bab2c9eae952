//! What an event tells of what selectors look at, with what the tracker has of its subflow and
//! connection where the event itself does not tell.

use std::net::IpAddr;

use anyhow::Result;

use crate::abi::DIRECTION_UNKNOWN;
use crate::abi::TrackConn;
use crate::abi::TrackFlags;
use crate::abi::TrackKind;
use crate::abi::TrackSubflow;
use crate::abi::TrackWay;
use crate::abi::WayFlags;
use crate::abi::fallback_name;
use crate::abi::kind_name;
use crate::event::Change;
use crate::event::Detail;
use crate::event::Event;
use crate::event::Side;
use crate::module::Fact;
use crate::track::has;

/// A value of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Address(IpAddr),
    Number(u64),
    Word(String),
}

/// What is known of a fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Values that it has.
    pub(super) values: Vec<Value>,
    /// It has no others.
    pub(super) whole: bool,
}

impl Known {
    fn all(values: impl IntoIterator<Item = Value>) -> Self {
        Self {
            values: values.into_iter().collect(),
            whole: true,
        }
    }

    fn one(value: Value) -> Self {
        Self::all([value])
    }

    fn number(value: impl Into<u64>) -> Self {
        Self::one(Value::Number(value.into()))
    }

    fn word(value: impl Into<String>) -> Self {
        Self::one(Value::Word(value.into()))
    }

    /// Values of several places; where one of these does not tell, there may be others.
    fn of_each(places: impl IntoIterator<Item = Option<u64>>) -> Self {
        let places: Vec<_> = places.into_iter().collect();
        Self {
            whole: places.iter().all(Option::is_some),
            values: places.into_iter().flatten().map(Value::Number).collect(),
        }
    }
}

/// Which way something is counted (parameters `direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Both,
    /// From the client of the connection.
    Up,
    /// To it.
    Down,
    /// From the source of the event.
    Packet,
    /// To it.
    Reply,
}

impl Way {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "both" => Self::Both,
            "up" => Self::Up,
            "down" => Self::Down,
            "packet" => Self::Packet,
            "reply" => Self::Reply,
            _ => return None,
        })
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) fact: Fact,
    /// Of the connection, where the fact is one of both.
    pub(super) of_connection: bool,
    pub(super) way: Way,
    /// Source and destination are exchanged.
    pub(super) turned: bool,
}

/// What can be asked.
pub(super) trait Facts {
    /// # Errors
    ///
    /// The tracker cannot be read.
    fn tell(&mut self, ask: &Ask) -> Result<Known>;
}

/// Tells nothing.
pub(super) struct Nothing;

impl Facts for Nothing {
    fn tell(&mut self, _: &Ask) -> Result<Known> {
        Ok(Known::default())
    }
}

/// What the tracker has of an event's subflow and connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The subflow, and the direction of the event's source in it.
    pub(crate) subflow: Option<(TrackSubflow, u8)>,
    /// The connection.
    pub(crate) connection: Option<TrackConn>,
}

/// An event, and what the tracker has.
pub(super) struct EventFacts<'e> {
    event: &'e Event,
    look: &'e dyn Fn(&Event) -> Result<Seen>,
    seen: Option<Seen>,
}

impl<'e> EventFacts<'e> {
    pub(super) fn new(event: &'e Event, look: &'e dyn Fn(&Event) -> Result<Seen>) -> Self {
        Self {
            event,
            look,
            seen: None,
        }
    }

    fn seen(&mut self) -> Result<&Seen> {
        let seen = match self.seen.take() {
            Some(seen) => seen,
            None => (self.look)(self.event)?,
        };
        Ok(self.seen.insert(seen))
    }

    /// A fact of the subflow that the tracker has.
    fn of_subflow(&mut self, tell: impl Fn(&TrackSubflow, u8) -> Known) -> Result<Known> {
        let seen = self.seen()?.subflow.as_ref();
        Ok(seen.map_or_else(Known::default, |(sub, from)| tell(sub, *from)))
    }

    /// A fact of the connection that the tracker has.
    fn of_connection(&mut self, tell: impl Fn(&TrackConn) -> Known) -> Result<Known> {
        let seen = self.seen()?.connection.as_ref();
        Ok(seen.map_or_else(Known::default, tell))
    }

    fn sender(&mut self, of_connection: bool) -> Result<Known> {
        let side = match &self.event.detail {
            _ if of_connection => self.event.side,
            // Who opened the connection opened its first subflow.
            Detail::Subflow {
                kind: "initial", ..
            } => self.event.side,
            _ => None,
        };
        if let Some(side) = side {
            return Ok(Known::word(side_name(side == Side::Client)));
        }
        self.of_subflow(|sub, from| {
            let client = if of_connection {
                sub.client
            } else {
                sub.opener
            };
            match client {
                DIRECTION_UNKNOWN => Known::default(),
                client => Known::word(side_name(client & 1 == from)),
            }
        })
    }

    fn kind(&mut self) -> Result<Known> {
        if let Detail::Subflow { kind, .. } = self.event.detail
            && is_kind(kind)
        {
            return Ok(Known::word(kind));
        }
        self.of_subflow(|sub, _| match kind_name(sub.kind) {
            kind if is_kind(kind) => Known::word(kind),
            _ => Known::default(),
        })
    }

    fn index(&mut self) -> Result<Known> {
        match self.event.detail {
            // A later one has a number where its connection is known.
            Detail::Subflow { kind, index, .. }
                if kind == "initial" || self.event.client_token.is_some() =>
            {
                Ok(Known::number(index))
            }
            _ => self.of_subflow(|sub, _| {
                let first =
                    kind_name(sub.kind) == kind_name(TrackKind::EMPTCP_TRACK_INITIAL.0 as u8);
                match first || has(sub, TrackFlags::EMPTCP_TRACK_TIED) {
                    true => Known::number(sub.index),
                    false => Known::default(),
                }
            }),
        }
    }

    fn backup(&mut self) -> Result<Known> {
        match &self.event.detail {
            Detail::Prio { backup } => Ok(Known::number(*backup)),
            Detail::Subflow { ends, .. } => Ok(Known::number(ends.iter().any(|end| end.backup))),
            _ => self.of_subflow(|sub, _| {
                let asks = WayFlags::EMPTCP_WAY_ASKS_BACKUP;
                Known::number(sub.way.iter().any(|way| way_has(way, asks)))
            }),
        }
    }

    fn fallback(&mut self) -> Result<Known> {
        if let Detail::Fallback { cause, .. } = self.event.detail {
            return Ok(Known::word(cause));
        }
        self.of_subflow(|sub, _| match sub.fallback {
            0 => Known::all([]),
            cause => Known::word(fallback_name(cause)),
        })
    }

    fn version(&mut self) -> Result<Known> {
        let word = |version: u8| Known::word(format!("v{version}"));
        match self.event.detail {
            Detail::Connection { version, .. } | Detail::Subflow { version, .. } => {
                Ok(word(version))
            }
            _ => self.of_subflow(|sub, _| word(sub.version)),
        }
    }

    fn addr_id(&mut self) -> Result<Known> {
        match &self.event.detail {
            Detail::AddAddr { addr_id, .. } => Ok(Known::number(*addr_id)),
            Detail::RemoveAddr { addr_ids, count } => Ok(Known {
                values: addr_ids
                    .iter()
                    .map(|id| Value::Number((*id).into()))
                    .collect(),
                whole: addr_ids.len() >= usize::from(*count),
            }),
            Detail::Subflow { ends, .. } => Ok(Known::of_each(
                ends.iter().map(|end| end.addr_id.map(u64::from)),
            )),
            _ => self.of_subflow(|sub, _| {
                let id = |way: &TrackWay| {
                    let known = way_has(way, WayFlags::EMPTCP_WAY_HAS_ID);
                    known.then_some(way.addr_id.into())
                };
                Known::of_each(sub.way.iter().map(id))
            }),
        }
    }

    fn count(&mut self) -> Result<Known> {
        match self.event.detail {
            Detail::Connection {
                change: Change::Closed(_),
                ..
            } => Ok(Known::number(0_u32)),
            _ => self.of_connection(|conn| Known::number(conn.live)),
        }
    }

    fn subflow_bytes(&mut self, way: Way, turned: bool) -> Result<Known> {
        let side = self.event.side;
        if let Detail::Subflow {
            change: Change::Closed(_),
            ends,
            ..
        } = &self.event.detail
        {
            let sent = ends.map(|end| end.bytes.saturating_sub(end.retransmitted));
            let client = side.map(|side| usize::from(side == Side::Server));
            return Ok(counted(sent, client, usize::from(turned), way));
        }
        self.of_subflow(|sub, from| {
            let sent = sub.way.each_ref();
            let sent = sent.map(|way| way.bytes.saturating_sub(way.retransmitted));
            let client = match sub.client {
                DIRECTION_UNKNOWN => None,
                client => Some(usize::from(client & 1)),
            };
            counted(
                sent,
                client,
                usize::from(from & 1) ^ usize::from(turned),
                way,
            )
        })
    }

    fn conn_bytes(&mut self, way: Way, turned: bool) -> Result<Known> {
        let source = match self.event.side {
            Some(side) => usize::from((side == Side::Server) != turned),
            // Nobody's packet: nothing is known of its direction.
            None if matches!(way, Way::Packet | Way::Reply) => return Ok(Known::default()),
            None => 0,
        };
        match self.event.detail {
            Detail::Connection {
                change: Change::Closed(_),
                bytes,
                ..
            } => Ok(counted(bytes, Some(0), source, way)),
            _ => self.of_connection(|conn| counted(conn.bytes, Some(0), source, way)),
        }
    }

    fn age(&mut self, of_connection: bool) -> Result<Known> {
        let now = self.event.boot_time;
        let since = |created: u64| match created {
            0 => Known::default(),
            created => Known::number(now.saturating_sub(created)),
        };
        match self.event.detail {
            Detail::Connection { duration, .. } if of_connection => Ok(Known::number(duration)),
            Detail::Subflow { duration, .. } if !of_connection => Ok(Known::number(duration)),
            _ if of_connection => self.of_connection(|conn| since(conn.created)),
            _ => self.of_subflow(|sub, _| since(sub.created)),
        }
    }
}

impl Facts for EventFacts<'_> {
    fn tell(&mut self, ask: &Ask) -> Result<Known> {
        let event = self.event;
        let [src, dst] = match ask.turned {
            false => [event.src, event.dst],
            true => [event.dst, event.src],
        };
        match ask.fact {
            Fact::Src => Ok(Known::one(Value::Address(src.ip()))),
            Fact::Dst => Ok(Known::one(Value::Address(dst.ip()))),
            Fact::Sport => Ok(Known::number(src.port())),
            Fact::Dport => Ok(Known::number(dst.port())),
            Fact::Token => {
                let tokens = [event.token, event.client_token];
                Ok(Known::of_each(tokens.map(|token| token.map(u64::from))))
            }
            Fact::Sender => {
                let known = self.sender(ask.of_connection)?;
                Ok(if ask.turned { other_side(known) } else { known })
            }
            Fact::Kind => self.kind(),
            Fact::Index => self.index(),
            Fact::Count => self.count(),
            Fact::Backup => self.backup(),
            Fact::Fallback => self.fallback(),
            Fact::Version => self.version(),
            Fact::AddrId => self.addr_id(),
            Fact::Announced => Ok(match event.detail {
                Detail::AddAddr { addr, .. } => Known::one(Value::Address(addr)),
                _ => Known::default(),
            }),
            Fact::AnnouncedPort => Ok(match event.detail {
                Detail::AddAddr { port, .. } => {
                    Known::all(port.map(|port| Value::Number(port.into())))
                }
                _ => Known::default(),
            }),
            Fact::Echo => Ok(match event.detail {
                Detail::AddAddr { echo, .. } => Known::word(if echo { "yes" } else { "no" }),
                _ => Known::default(),
            }),
            Fact::SubflowBytes => self.subflow_bytes(ask.way, ask.turned),
            Fact::ConnBytes => self.conn_bytes(ask.way, ask.turned),
            Fact::Age => self.age(ask.of_connection),
        }
    }
}

fn side_name(client: bool) -> &'static str {
    if client { "client" } else { "server" }
}

fn other_side(known: Known) -> Known {
    let turn = |value| match value {
        Value::Word(word) => Value::Word(side_name(word != side_name(true)).to_owned()),
        other => other,
    };
    Known {
        values: known.values.into_iter().map(turn).collect(),
        ..known
    }
}

fn is_kind(name: &str) -> bool {
    let kinds = [
        TrackKind::EMPTCP_TRACK_INITIAL,
        TrackKind::EMPTCP_TRACK_JOINED,
    ];
    kinds.iter().any(|kind| kind_name(kind.0 as u8) == name)
}

fn way_has(way: &TrackWay, flag: WayFlags) -> bool {
    u32::from(way.flags) & flag.0 != 0
}

/// Bytes one way. `client`: in which of both its client sends; `source`: that of the event.
fn counted(sent: [u64; 2], client: Option<usize>, source: usize, way: Way) -> Known {
    let in_way = |of: usize| Known::number(sent[of & 1]);
    match (way, client) {
        (Way::Both, _) => Known::number(sent[0].saturating_add(sent[1])),
        (Way::Packet, _) => in_way(source),
        (Way::Reply, _) => in_way(source ^ 1),
        (Way::Up, Some(client)) => in_way(client),
        (Way::Down, Some(client)) => in_way(client ^ 1),
        (Way::Up | Way::Down, None) => Known::default(),
    }
}
