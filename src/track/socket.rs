//! A subflow, as its own host's kernel knows it.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

/// `MPTCP_SUBFLOW_FLAG_*` of include/uapi/linux/mptcp.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketFlags(pub(crate) u32);

impl SocketFlags {
    /// The other end has answered with MP_CAPABLE.
    pub(crate) const CAPABLE: u32 = 1 << 0;
    /// This end has asked with MP_CAPABLE.
    pub(crate) const ASKED_CAPABLE: u32 = 1 << 1;
    /// It joined the connection.
    pub(crate) const JOIN: u32 = 1 << 2;
    /// This end has asked with MP_JOIN.
    pub(crate) const ASKED_JOIN: u32 = 1 << 3;
    /// The other end asked this one to treat it as backup.
    pub(crate) const BACKUP_REMOTE: u32 = 1 << 4;
    /// This end asked the other one to do so.
    pub(crate) const BACKUP_LOCAL: u32 = 1 << 5;

    /// Whether one of these flags is set.
    pub(crate) fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }
}

/// What the kernel tells of the socket of a subflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) established: bool,
    pub(crate) flags: SocketFlags,
    /// Tokens of this end and the other; the kernel knows the other one's of some subflows only.
    pub(crate) token_local: Option<u32>,
    pub(crate) token_remote: Option<u32>,
    /// Address ids.
    pub(crate) id_local: u8,
    pub(crate) id_remote: u8,
    /// Window scales of this end and the other.
    pub(crate) wscales: Option<[u8; 2]>,
    /// Congestion window, in segments.
    pub(crate) cwnd: Option<u32>,
    /// Smoothed round-trip time, in microseconds.
    pub(crate) srtt: Option<u32>,
    /// Its mean deviation, in microseconds.
    pub(crate) rttvar: Option<u32>,
    /// Segments that were sent again.
    pub(crate) retransmits: Option<u32>,
    /// Size of a segment, in bytes of payload.
    pub(crate) mss: Option<u32>,
    /// Segments that are on their way and not acknowledged.
    pub(crate) in_flight: Option<u32>,
    /// Bytes that wait to be sent for the first time.
    pub(crate) unsent: Option<u32>,
}

impl Socket {
    /// Whether this end has sent the SYN.
    pub(crate) fn opened_here(&self) -> bool {
        self.flags
            .has(SocketFlags::ASKED_CAPABLE | SocketFlags::ASKED_JOIN)
    }
}

impl Default for Socket {
    fn default() -> Self {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Self {
            local: nowhere,
            remote: nowhere,
            established: false,
            flags: SocketFlags::default(),
            token_local: None,
            token_remote: None,
            id_local: 0,
            id_remote: 0,
            wscales: None,
            cwnd: None,
            srtt: None,
            rttvar: None,
            retransmits: None,
            mss: None,
            in_flight: None,
            unsent: None,
        }
    }
}
