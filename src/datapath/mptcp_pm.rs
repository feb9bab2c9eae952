//! What the path manager of the kernel says of itself (generic netlink `mptcp_pm`).

use std::io;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::Socket;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_GENERIC;

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
const MPTCP_PM_CMD_GET_LIMITS: u8 = 6;
const MPTCP_PM_ATTR_RCV_ADD_ADDRS: u16 = 2;
const MPTCP_PM_ATTR_SUBFLOWS: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// Headers of netlink and of generic netlink.
const HEADERS: usize = 16 + 4;

/// The limits of the current network namespace.
///
/// # Errors
///
/// The kernel's, such as that it has no MPTCP.
pub(crate) fn mptcp_limits() -> Result<MptcpLimits> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = [(CTRL_ATTR_FAMILY_NAME, b"mptcp_pm\0".as_slice())];
    let answer = ask(&socket, CONTROLLER, CTRL_CMD_GETFAMILY, &name)?;
    let family = attribute(&answer, CTRL_ATTR_FAMILY_ID)
        .and_then(|v| Some(u16::from_ne_bytes(*v.first_chunk()?)))
        .context("the kernel does not number mptcp_pm")?;
    let answer = ask(&socket, family, MPTCP_PM_CMD_GET_LIMITS, &[])?;
    let number = |kind| {
        attribute(&answer, kind)
            .and_then(|v| Some(u32::from_ne_bytes(*v.first_chunk()?)))
            .context("the kernel does not tell a limit")
    };
    Ok(MptcpLimits {
        subflows: number(MPTCP_PM_ATTR_SUBFLOWS)?,
        add_addr_accepted: number(MPTCP_PM_ATTR_RCV_ADD_ADDRS)?,
    })
}

/// The attributes of the answer to a command.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[(u16, &[u8])]) -> Result<Vec<u8>> {
    let mut body = vec![command, 1, 0, 0];
    for (kind, value) in attributes {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port.
    message.extend([0; 8]);
    message.extend(body);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer
        .get(4..6)
        .and_then(|b| Some(u16::from_ne_bytes(*b.first_chunk()?)));
    if kind == Some(NLMSG_ERROR) {
        let code = answer.get(16..).and_then(|b| b.first_chunk());
        let code = code.map_or(0, |b| i32::from_ne_bytes(*b));
        bail!(io::Error::from_raw_os_error(-code));
    }
    Ok(answer.get(HEADERS..).unwrap_or_default().to_vec())
}

/// The value of an attribute.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}
