//! What rtnetlink says of interfaces and filters of the current network namespace.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context as _;
use anyhow::Result;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_core::NetlinkDeserializable;
use netlink_packet_core::NetlinkHeader;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_core::NetlinkSerializable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::InfoKind;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::link::LinkInfo;
use netlink_packet_route::link::LinkLayerType;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::link::LinkXdp;
use netlink_packet_route::link::Prop;
use netlink_packet_route::tc::TcAttribute;
use netlink_packet_route::tc::TcHandle;
use netlink_packet_route::tc::TcMessage;
use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::interface::Interface;
use crate::interface::Interfaces;
use crate::module::Hook;

/// The interfaces of the current network namespace.
///
/// # Errors
///
/// The kernel's.
pub fn interfaces() -> Result<Interfaces> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut found = Vec::new();
    for message in dump(request).context("cannot list the network interfaces")? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            found.push(interface(link));
        }
    }
    Ok(Interfaces(found))
}

fn interface(link: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        altnames: Vec::new(),
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Running),
        kind: None,
        raw_ip: !matches!(
            link.header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Eether | LinkLayerType::Loopback
        ),
        xdp_program: None,
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::PropList(props) => {
                interface
                    .altnames
                    .extend(props.into_iter().filter_map(|p| match p {
                        Prop::AltIfName(name) => Some(name),
                        _ => None,
                    }));
            }
            LinkAttribute::LinkInfo(infos) => {
                interface.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind),
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(xdp) => {
                interface.xdp_program = xdp.into_iter().find_map(|x| match x {
                    LinkXdp::ProgId(id) if id != 0 => Some(id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

/// What the plan of a policy does not ask of an interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortState {
    /// It is up.
    pub(crate) up: bool,
    /// It has an IPv4 address of global scope.
    pub(crate) ipv4: bool,
    /// Index of its other end, where that is in this network namespace.
    pub(crate) peer: Option<u32>,
    /// Kinds of its queueing disciplines.
    pub(crate) qdiscs: Vec<String>,
}

/// More of the interfaces of the current network namespace, by index.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn port_states() -> Result<BTreeMap<u32, PortState>> {
    let mut states = BTreeMap::new();
    for message in dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            states.insert(link.header.index, port_state(&link));
        }
    }
    for message in dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(address) = message
            && address.header.family == AddressFamily::Inet
            && address.header.scope == AddressScope::Universe
            && let Some(state) = states.get_mut(&address.header.index)
        {
            state.ipv4 = true;
        }
    }
    for message in dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))? {
        if let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message
            && let Some(state) = states.get_mut(&(qdisc.header.index as u32))
        {
            let kinds = qdisc.attributes.into_iter().filter_map(|a| match a {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            });
            state.qdiscs.extend(kinds);
        }
    }
    Ok(states)
}

/// Addresses of the current network namespace, and the interfaces that have them, by index.
///
/// # Errors
///
/// The kernel's.
pub(super) fn addresses() -> Result<BTreeMap<IpAddr, BTreeSet<u32>>> {
    let mut all: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
    for message in dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        // IFA_LOCAL of IPv4 is this end's; IFA_ADDRESS may be the other one of a tunnel.
        let has = |local: bool| {
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) if local => Some(*address),
                    AddressAttribute::Address(address) if !local => Some(*address),
                    _ => None,
                })
        };
        if let Some(address) = has(true).or_else(|| has(false)) {
            all.entry(address).or_default().insert(message.header.index);
        }
    }
    Ok(all)
}

fn port_state(link: &LinkMessage) -> PortState {
    let attributes = &link.attributes;
    let elsewhere = attributes
        .iter()
        .any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
    PortState {
        up: link.header.flags.contains(LinkFlags::Up),
        peer: attributes.iter().find_map(|a| match a {
            LinkAttribute::Link(peer) if !elsewhere && *peer != 0 => Some(*peer),
            _ => None,
        }),
        ..PortState::default()
    }
}

/// A queueing discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Qdisc {
    /// Its kind: `fq`, `mq` …
    pub(super) kind: String,
    /// What those below it name as their parent, with the number of a class.
    pub(super) handle: u32,
    /// What it is attached to.
    pub(super) parent: u32,
}

impl Qdisc {
    /// Parent of what the interface itself has (`TC_H_ROOT`).
    pub(super) const ROOT: u32 = 0xffff_ffff;
}

/// The queueing disciplines of the interfaces of the current network namespace, by index.
///
/// # Errors
///
/// The kernel's.
pub(super) fn qdiscs() -> Result<BTreeMap<u32, Vec<Qdisc>>> {
    let mut found: BTreeMap<u32, Vec<Qdisc>> = BTreeMap::new();
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    for message in dump(request).context("cannot list the queueing disciplines")? {
        if let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message {
            let kind = qdisc.attributes.iter().find_map(|a| match a {
                TcAttribute::Kind(kind) => Some(kind.clone()),
                _ => None,
            });
            let of = found.entry(qdisc.header.index as u32).or_default();
            of.push(Qdisc {
                kind: kind.unwrap_or_default(),
                handle: qdisc.header.handle.into(),
                parent: qdisc.header.parent.into(),
            });
        }
    }
    Ok(found)
}

/// The filters that a clsact qdisc of the interface has: hook, priority, handle (of a classifier
/// without filters 0).
pub(super) fn clsact_filters(ifindex: u32) -> Result<Vec<(Hook, u32, u32)>> {
    let mut filters = Vec::new();
    for (hook, minor) in [(Hook::TcIngress, 0xfff2), (Hook::TcEgress, 0xfff3)] {
        let mut message = TcMessage::with_index(ifindex as i32);
        message.header.parent = TcHandle {
            major: 0xffff,
            minor,
        };
        let answers = dump(RouteNetlinkMessage::GetTrafficFilter(message))
            .context("cannot list the filters of an interface")?;
        filters.extend(answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(filter) => Some((
                hook,
                filter.header.info >> 16,
                u32::from(filter.header.handle),
            )),
            _ => None,
        }));
    }
    Ok(filters)
}

/// Sets up an interface of the current network namespace.
pub(super) fn set_up(index: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(|_| ())
}

/// All answers to a request.
fn dump(request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
    ask(request, NLM_F_DUMP)
}

/// Answers to a request, up to the last one or the acknowledgement.
fn ask(request: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
    let mut answers = Vec::new();
    ask_of(NETLINK_ROUTE, request, flags, |answer| answers.push(answer))?;
    Ok(answers)
}

/// Takes the answers to a request of a protocol, up to the last one or the acknowledgement.
pub(super) fn ask_of<M>(
    protocol: isize,
    request: M,
    flags: u16,
    mut take: impl FnMut(M),
) -> Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<M>: From<M>,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags | NLM_F_REQUEST;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(request));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest)
                .context("an answer of the kernel cannot be read")?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(e) if e.code.is_none() => return Ok(()),
                NetlinkPayload::Error(e) => return Err(e.to_io().into()),
                NetlinkPayload::InnerMessage(answer) => take(answer),
                _ => {}
            }
            if length == 0 {
                break;
            }
            // Messages are aligned to 4 bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
