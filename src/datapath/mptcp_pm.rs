//! The path managers of the kernel (generic netlink `mptcp_pm`, include/uapi/linux/mptcp_pm.h).

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use fail::fail_point;
use netlink_packet_core::NLA_F_NESTED;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::Socket;
use netlink_sys::SocketAddr as NetlinkAddr;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::attribute;

/// How many paths a connection of this network namespace gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MptcpLimits {
    /// Subflows beside the first.
    pub(crate) subflows: u32,
    /// Addresses announced by the other end that are used.
    pub(crate) add_addr_accepted: u32,
}

/// Family of the controller of generic netlink (`GENL_ID_CTRL`).
const CONTROLLER: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const MPTCP_PM_CMD_ADD_ADDR: u8 = 1;
const MPTCP_PM_CMD_DEL_ADDR: u8 = 2;
const MPTCP_PM_CMD_GET_ADDR: u8 = 3;
const MPTCP_PM_CMD_GET_LIMITS: u8 = 6;
const MPTCP_PM_CMD_SUBFLOW_CREATE: u8 = 10;
const MPTCP_PM_ATTR_ADDR: u16 = 1;
const MPTCP_PM_ATTR_RCV_ADD_ADDRS: u16 = 2;
const MPTCP_PM_ATTR_SUBFLOWS: u16 = 3;
const MPTCP_PM_ATTR_TOKEN: u16 = 4;
const MPTCP_PM_ATTR_ADDR_REMOTE: u16 = 6;
const MPTCP_PM_ADDR_ATTR_FAMILY: u16 = 1;
const MPTCP_PM_ADDR_ATTR_ID: u16 = 2;
const MPTCP_PM_ADDR_ATTR_ADDR4: u16 = 3;
const MPTCP_PM_ADDR_ATTR_ADDR6: u16 = 4;
const MPTCP_PM_ADDR_ATTR_PORT: u16 = 5;
const MPTCP_PM_ADDR_ATTR_FLAGS: u16 = 6;
const MPTCP_PM_ADDR_ATTR_IF_IDX: u16 = 7;
const MPTCP_PM_ADDR_FLAG_SIGNAL: u32 = 1 << 0;
const MPTCP_PM_ADDR_FLAG_SUBFLOW: u32 = 1 << 1;
const MPTCP_PM_ADDR_FLAG_BACKUP: u32 = 1 << 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Header of netlink.
const HEADER: usize = 16;
/// With that of generic netlink.
const HEADERS: usize = HEADER + 4;

/// The limits of the current network namespace.
///
/// # Errors
///
/// The kernel's, such as that it has no MPTCP.
pub(crate) fn mptcp_limits() -> Result<MptcpLimits> {
    PathManager::open()?.limits()
}

/// An endpoint of the kernel's own path manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) id: u8,
    flags: u32,
    /// Everything that the kernel tells of it, as attributes: it takes it back like that.
    attributes: Vec<u8>,
}

impl Endpoint {
    /// Of these attributes; `None`: without an address.
    fn parse(attributes: &[u8]) -> Option<Self> {
        let address = match attribute(attributes, MPTCP_PM_ADDR_ATTR_ADDR4) {
            Some(v4) => IpAddr::from(*v4.first_chunk::<4>()?),
            None => {
                let v6 = attribute(attributes, MPTCP_PM_ADDR_ATTR_ADDR6)?;
                IpAddr::from(*v6.first_chunk::<16>()?).to_canonical()
            }
        };
        let id = attribute(attributes, MPTCP_PM_ADDR_ATTR_ID)?;
        Some(Self {
            address,
            id: *id.first()?,
            flags: word(attributes, MPTCP_PM_ADDR_ATTR_FLAGS).unwrap_or(0),
            attributes: attributes.to_vec(),
        })
    }

    /// Whether subflows are opened from it, and nothing else is done with it.
    pub(crate) fn only_joins(&self) -> bool {
        let kinds = MPTCP_PM_ADDR_FLAG_SUBFLOW | MPTCP_PM_ADDR_FLAG_SIGNAL;
        self.flags & kinds == MPTCP_PM_ADDR_FLAG_SUBFLOW
    }

    /// Command and attributes, with an acknowledgement.
    fn message(&self, family: u16, command: u8) -> Vec<u8> {
        let nested = [(MPTCP_PM_ATTR_ADDR | NLA_F_NESTED, &self.attributes[..])];
        message(family, command, NLM_F_ACK, &nested)
    }
}

/// What the own end of a subflow is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) address: IpAddr,
    pub(crate) id: u8,
    pub(crate) backup: bool,
    /// Index of the interface by which it goes; 0: by routes.
    pub(crate) interface: u32,
}

/// What became of an endpoint that was to be removed and added again.
#[derive(Debug)]
pub(crate) enum Again {
    /// It is as before.
    Done,
    /// It is as before, and was never removed.
    Kept(io::Error),
    /// It is gone.
    Gone(io::Error),
}

/// The path managers of the current network namespace.
#[derive(Debug)]
pub(crate) struct PathManager {
    socket: Socket,
    family: u16,
}

impl PathManager {
    /// # Errors
    ///
    /// The kernel's, such as that it has no MPTCP.
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        let name = [(CTRL_ATTR_FAMILY_NAME, b"mptcp_pm\0".as_slice())];
        socket.send(&message(CONTROLLER, CTRL_CMD_GETFAMILY, 0, &name), 0)?;
        let family = attribute(&answer(&socket)?, CTRL_ATTR_FAMILY_ID)
            .and_then(|v| Some(u16::from_ne_bytes(*v.first_chunk()?)))
            .context("the kernel does not number mptcp_pm")?;
        Ok(Self { socket, family })
    }

    fn limits(&self) -> Result<MptcpLimits> {
        let request = message(self.family, MPTCP_PM_CMD_GET_LIMITS, 0, &[]);
        self.socket.send(&request, 0)?;
        let answer = answer(&self.socket)?;
        let number = |kind| word(&answer, kind).context("the kernel does not tell a limit");
        Ok(MptcpLimits {
            subflows: number(MPTCP_PM_ATTR_SUBFLOWS)?,
            add_addr_accepted: number(MPTCP_PM_ATTR_RCV_ADD_ADDRS)?,
        })
    }

    /// The endpoints of the kernel's own path manager.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let request = message(self.family, MPTCP_PM_CMD_GET_ADDR, NLM_F_DUMP, &[]);
        self.socket.send(&request, 0)?;
        let mut found = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while let Some(length) = length(rest) {
                match kind(rest) {
                    Some(NLMSG_DONE) => return Ok(found),
                    Some(NLMSG_ERROR) => {
                        acknowledged(rest)?;
                        return Ok(found);
                    }
                    _ => {}
                }
                let told = rest.get(HEADERS..length).unwrap_or_default();
                found.extend(attribute(told, MPTCP_PM_ATTR_ADDR).and_then(Endpoint::parse));
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// Has a connection whose path manager is in user space open a subflow
    /// (`mptcp_pm_nl_subflow_create_doit()` of net/mptcp/pm_userspace.c). `token`: of this end.
    ///
    /// # Errors
    ///
    /// The kernel's: EINVAL where it manages the paths of the connection itself, EOPNOTSUPP where
    /// none is managed in user space (before Linux 5.19).
    pub(crate) fn create_subflow(
        &self,
        token: u32,
        local: &Local,
        remote: SocketAddr,
    ) -> io::Result<()> {
        let mut flags = MPTCP_PM_ADDR_FLAG_SUBFLOW;
        if local.backup {
            flags |= MPTCP_PM_ADDR_FLAG_BACKUP;
        }
        let mut here = address_attributes(local.address);
        put(&mut here, MPTCP_PM_ADDR_ATTR_ID, &[local.id]);
        put(&mut here, MPTCP_PM_ADDR_ATTR_FLAGS, &flags.to_ne_bytes());
        if local.interface != 0 {
            let index = local.interface.to_ne_bytes();
            put(&mut here, MPTCP_PM_ADDR_ATTR_IF_IDX, &index);
        }
        let mut there = address_attributes(remote.ip());
        let port = remote.port().to_ne_bytes();
        put(&mut there, MPTCP_PM_ADDR_ATTR_PORT, &port);
        let attributes = [
            (MPTCP_PM_ATTR_TOKEN, &token.to_ne_bytes()[..]),
            (MPTCP_PM_ATTR_ADDR | NLA_F_NESTED, &here),
            (MPTCP_PM_ATTR_ADDR_REMOTE | NLA_F_NESTED, &there),
        ];
        let command = MPTCP_PM_CMD_SUBFLOW_CREATE;
        let request = message(self.family, command, NLM_F_ACK, &attributes);
        self.socket.send(&request, 0)?;
        acknowledged(&self.socket.recv_from_full()?.0)
    }

    /// Removes an endpoint and adds it again as it was: all connections of this network namespace
    /// that can open a subflow from it do. Both are one system call, so that a death of this process
    /// leaves none without the other.
    ///
    /// # Errors
    ///
    /// Nothing could be sent, or nothing is known of what became of it.
    pub(crate) fn add_again(&self, endpoint: &Endpoint) -> io::Result<Again> {
        let mut both = endpoint.message(self.family, MPTCP_PM_CMD_DEL_ADDR);
        both.extend(endpoint.message(self.family, add_addr()));
        self.socket.send(&both, 0)?;
        // Answers come in the order of what they answer.
        let removed = acknowledged(&self.socket.recv_from_full()?.0);
        let added = acknowledged(&self.socket.recv_from_full()?.0);
        Ok(match (removed, added) {
            (Err(error), _) => Again::Kept(error),
            (_, Err(error)) => Again::Gone(error),
            _ => Again::Done,
        })
    }

    /// Adds an endpoint that has been there.
    ///
    /// # Errors
    ///
    /// The kernel's; EEXIST or EBUSY where somebody else was faster.
    pub(crate) fn add(&self, endpoint: &Endpoint) -> io::Result<()> {
        let request = endpoint.message(self.family, add_addr());
        self.socket.send(&request, 0)?;
        acknowledged(&self.socket.recv_from_full()?.0)
    }
}

/// The command that adds an endpoint; of tests one that the kernel does not know.
fn add_addr() -> u8 {
    fail_point!("endpoint", |_| u8::MAX);
    MPTCP_PM_CMD_ADD_ADDR
}

/// A request.
fn message(family: u16, command: u8, flags: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    for (kind, value) in attributes {
        put(&mut body, *kind, value);
    }
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    // Sequence and port.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Appends an attribute.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Family and address of one end.
fn address_attributes(address: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (family, kind, octets): (_, _, &[u8]) = match &address {
        IpAddr::V4(v4) => (libc::AF_INET, MPTCP_PM_ADDR_ATTR_ADDR4, &v4.octets()),
        IpAddr::V6(v6) => (libc::AF_INET6, MPTCP_PM_ADDR_ATTR_ADDR6, &v6.octets()),
    };
    put(
        &mut bytes,
        MPTCP_PM_ADDR_ATTR_FAMILY,
        &(family as u16).to_ne_bytes(),
    );
    put(&mut bytes, kind, octets);
    bytes
}

/// Length and type in a header of netlink; `None`: there is none.
fn length(message: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(*message.first_chunk()?) as usize;
    (length >= HEADER && length <= message.len()).then_some(length)
}

fn kind(message: &[u8]) -> Option<u16> {
    let bytes = message.get(4..6)?;
    Some(u16::from_ne_bytes(*bytes.first_chunk()?))
}

/// The error that an answer tells, if it does.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let code = answer.get(HEADER..).and_then(|b| b.first_chunk());
    match (kind(answer), code.map(|b| i32::from_ne_bytes(*b))) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The attributes of the answer to a command.
fn answer(socket: &Socket) -> Result<Vec<u8>> {
    let (answer, _) = socket.recv_from_full()?;
    if kind(&answer) == Some(NLMSG_ERROR) {
        acknowledged(&answer)?;
        bail!("the kernel tells nothing");
    }
    Ok(answer.get(HEADERS..).unwrap_or_default().to_vec())
}

/// The value of an attribute of four bytes.
fn word(bytes: &[u8], wanted: u16) -> Option<u32> {
    let value = attribute(bytes, wanted)?;
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}
