//! What rtnetlink says of interfaces and filters of the current network namespace.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;

use anyhow::Context as _;
use anyhow::Result;
use netlink_packet_core::Emitable;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_core::NetlinkDeserializable;
use netlink_packet_core::NetlinkHeader;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_core::NetlinkSerializable;
use netlink_packet_core::NlasIterator;
use netlink_packet_core::parse_ip;
use netlink_packet_core::parse_string;
use netlink_packet_core::parse_u32;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::link::LinkLayerType;
use netlink_packet_route::tc::TcHandle;
use netlink_packet_route::tc::TcHeader;
use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::interface::Interface;
use crate::interface::Interfaces;
use crate::module::Hook;

/// `enum` of `linux/if_link.h` that libc has not.
const IFLA_XDP_PROG_ID: u16 = 4;

/// The interfaces of the current network namespace.
///
/// # Errors
///
/// The kernel's.
pub fn interfaces() -> Result<Interfaces> {
    let links = dump(libc::RTM_GETLINK, &LinkHeader::default());
    let links = links.context("cannot list the network interfaces")?;
    let interfaces = links.iter().map(|link| interface(link));
    Ok(Interfaces(interfaces.collect::<Result<_>>()?))
}

fn interface(link: &[u8]) -> Result<Interface> {
    let (header, attributes) = (LinkHeader::parse(link)?, behind::<LinkHeader>(link));
    let mut interface = Interface {
        index: header.index,
        name: String::new(),
        altnames: Vec::new(),
        mtu: 0,
        up: header.flags.contains(LinkFlags::Running),
        kind: None,
        raw_ip: !matches!(
            header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Eether | LinkLayerType::Loopback
        ),
        xdp_program: None,
    };
    for (kind, value) in attributes_of(attributes) {
        match kind {
            libc::IFLA_IFNAME => interface.name = parse_string(value)?,
            libc::IFLA_MTU => interface.mtu = parse_u32(value)?,
            libc::IFLA_PROP_LIST => {
                for (kind, value) in attributes_of(value) {
                    if kind == libc::IFLA_ALT_IFNAME {
                        interface.altnames.push(parse_string(value)?);
                    }
                }
            }
            libc::IFLA_LINKINFO => {
                let kind = attribute(value, libc::IFLA_INFO_KIND);
                interface.kind = kind.map(parse_string).transpose()?;
            }
            libc::IFLA_XDP => {
                let id = attribute(value, IFLA_XDP_PROG_ID).map(parse_u32);
                interface.xdp_program = id.transpose()?.filter(|id| *id != 0);
            }
            _ => {}
        }
    }
    Ok(interface)
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
    for link in dump(libc::RTM_GETLINK, &LinkHeader::default())? {
        states.insert(LinkHeader::parse(&link)?.index, port_state(&link)?);
    }
    for address in dump(libc::RTM_GETADDR, &AddressHeader::default())? {
        let header = AddressHeader::parse(&address)?;
        if header.family == AddressFamily::Inet
            && header.scope == AddressScope::Universe
            && let Some(state) = states.get_mut(&header.index)
        {
            state.ipv4 = true;
        }
    }
    for (index, qdiscs) in qdiscs()? {
        if let Some(state) = states.get_mut(&index) {
            state.qdiscs.extend(qdiscs.into_iter().map(|q| q.kind));
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
    for message in dump(libc::RTM_GETADDR, &AddressHeader::default())? {
        let attributes = behind::<AddressHeader>(&message);
        // IFA_LOCAL of IPv4 is this end's; IFA_ADDRESS may be the other one of a tunnel.
        let address = attribute(attributes, libc::IFA_LOCAL);
        if let Some(address) = address.or_else(|| attribute(attributes, libc::IFA_ADDRESS)) {
            let interfaces = all.entry(parse_ip(address)?).or_default();
            interfaces.insert(AddressHeader::parse(&message)?.index);
        }
    }
    Ok(all)
}

fn port_state(link: &[u8]) -> Result<PortState> {
    let attributes = behind::<LinkHeader>(link);
    let elsewhere = attribute(attributes, libc::IFLA_LINK_NETNSID).is_some();
    let peer = attribute(attributes, libc::IFLA_LINK).map(parse_u32);
    Ok(PortState {
        up: LinkHeader::parse(link)?.flags.contains(LinkFlags::Up),
        peer: peer.transpose()?.filter(|peer| !elsewhere && *peer != 0),
        ..PortState::default()
    })
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
    let qdiscs = dump(libc::RTM_GETQDISC, &TcHeader::default());
    for qdisc in qdiscs.context("cannot list the queueing disciplines")? {
        let header = TcHeader::parse(&qdisc)?;
        let kind = attribute(behind::<TcHeader>(&qdisc), libc::TCA_KIND);
        found.entry(header.index as u32).or_default().push(Qdisc {
            kind: kind.map(parse_string).transpose()?.unwrap_or_default(),
            handle: header.handle.into(),
            parent: header.parent.into(),
        });
    }
    Ok(found)
}

/// The filters that a clsact qdisc of the interface has: hook, priority, handle (of a classifier
/// without filters 0).
pub(super) fn clsact_filters(ifindex: u32) -> Result<Vec<(Hook, u32, u32)>> {
    let mut filters = Vec::new();
    for (hook, minor) in [(Hook::TcIngress, 0xfff2), (Hook::TcEgress, 0xfff3)] {
        let request = TcHeader {
            index: ifindex as i32,
            parent: TcHandle {
                major: 0xffff,
                minor,
            },
            ..TcHeader::default()
        };
        let answers = dump(libc::RTM_GETTFILTER, &request);
        for filter in answers.context("cannot list the filters of an interface")? {
            let header = TcHeader::parse(&filter)?;
            filters.push((hook, header.info >> 16, u32::from(header.handle)));
        }
    }
    Ok(filters)
}

/// Sets up an interface of the current network namespace.
pub(super) fn set_up(index: u32) -> Result<()> {
    let header = LinkHeader {
        index,
        flags: LinkFlags::Up,
        change_mask: LinkFlags::Up,
        ..LinkHeader::default()
    };
    ask_of(
        NETLINK_ROUTE,
        Routed::new(libc::RTM_SETLINK, &header),
        NLM_F_ACK,
        |_| (),
    )
}

/// A message of rtnetlink. Of attributes each reader takes those that it needs: the library's own
/// messages have all that there are, which makes a large program, and know how long each is, which
/// may change with the kernel.
struct Routed {
    kind: u16,
    payload: Vec<u8>,
}

impl Routed {
    fn new(kind: u16, header: &impl Emitable) -> Self {
        let mut payload = vec![0; header.buffer_len()];
        header.emit(&mut payload);
        Self { kind, payload }
    }
}

impl NetlinkSerializable for Routed {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Routed {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            payload: payload.to_vec(),
        })
    }
}

impl From<Routed> for NetlinkPayload<Routed> {
    fn from(message: Routed) -> Self {
        NetlinkPayload::InnerMessage(message)
    }
}

/// All answers to a request of type `RTM_GET…`: header and attributes of each.
fn dump(kind: u16, header: &impl Emitable) -> Result<Vec<Vec<u8>>> {
    let mut answers = Vec::new();
    let request = Routed::new(kind, header);
    ask_of(NETLINK_ROUTE, request, NLM_F_DUMP, |answer: Routed| {
        // RTM_NEW… is two below it.
        if answer.kind + 2 == kind {
            answers.push(answer.payload);
        }
    })?;
    Ok(answers)
}

/// The attributes of a message that begins with this header.
fn behind<H: Emitable + Default>(message: &[u8]) -> &[u8] {
    message.get(H::default().buffer_len()..).unwrap_or_default()
}

/// Types and values of attributes, up to one that is damaged.
fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .filter_map(|attribute| {
            let (kind, length) = (attribute.kind(), attribute.length().into());
            Some((kind, attribute.into_inner().get(4..length)?))
        })
}

/// The value of an attribute.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes_of(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
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
