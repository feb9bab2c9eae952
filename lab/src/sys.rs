//! Calls into the kernel for which no safe wrapper exists. All `unsafe` of this crate is here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Level of MPTCP socket options.
const SOL_MPTCP: libc::c_int = 284;
const MPTCP_INFO: libc::c_int = 1;
const MPTCP_FULL_INFO: libc::c_int = 4;

/// Makes `tun` (an open `/dev/net/tun`) the TAP device `name` of the calling thread's network
/// namespace.
pub(crate) fn tun_set_iff(tun: &File, name: &str) -> io::Result<()> {
    nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);

    // SAFETY: ifreq is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads one ifreq, whose name ends with zero.
    unsafe { tunsetiff(tun.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Gives the calling thread SCHED_FIFO priority `priority`, not inherited by its children.
pub(crate) fn set_real_time(priority: i32) -> io::Result<()> {
    // SAFETY: sched_param is plain old data, for which all zeroes is a value.
    let mut parameters: libc::sched_param = unsafe { mem::zeroed() };
    parameters.sched_priority = priority;
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: reads one sched_param; 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    Errno::result(done)?;
    Ok(())
}

/// `struct mptcp_info` as far as this program reads it (linux/mptcp.h). The kernel fills in what
/// it knows, the rest stays zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MptcpInfo {
    pub(crate) subflows: u8,
    pub(crate) add_addr_signal: u8,
    pub(crate) add_addr_accepted: u8,
    pub(crate) subflows_max: u8,
    pub(crate) add_addr_signal_max: u8,
    pub(crate) add_addr_accepted_max: u8,
    pub(crate) flags: u32,
    pub(crate) token: u32,
    pub(crate) write_seq: u64,
    pub(crate) snd_una: u64,
    pub(crate) rcv_nxt: u64,
    pub(crate) local_addr_used: u8,
    pub(crate) local_addr_max: u8,
    pub(crate) csum_enabled: u8,
    pub(crate) retransmits: u32,
    pub(crate) bytes_retrans: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_acked: u64,
    pub(crate) subflows_total: u8,
    pub(crate) reserved: [u8; 3],
    pub(crate) last_data_sent: u32,
    pub(crate) last_data_recv: u32,
    pub(crate) last_ack_recv: u32,
}

/// `struct tcp_info` as far as this program reads it (linux/tcp.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpInfo {
    pub(crate) state: u8,
    pub(crate) ca_state: u8,
    pub(crate) small: [u8; 6],
    pub(crate) rto: u32,
    pub(crate) ato: u32,
    pub(crate) snd_mss: u32,
    pub(crate) rcv_mss: u32,
    pub(crate) unacked: u32,
    pub(crate) sacked: u32,
    pub(crate) lost: u32,
    pub(crate) retrans: u32,
    pub(crate) fackets: u32,
    pub(crate) ages: [u32; 4],
    pub(crate) pmtu: u32,
    pub(crate) rcv_ssthresh: u32,
    pub(crate) rtt: u32,
    pub(crate) rttvar: u32,
    pub(crate) snd_ssthresh: u32,
    pub(crate) snd_cwnd: u32,
    pub(crate) advmss: u32,
    pub(crate) reordering: u32,
    pub(crate) rcv_rtt: u32,
    pub(crate) rcv_space: u32,
    pub(crate) total_retrans: u32,
    pub(crate) pacing_rate: u64,
    pub(crate) max_pacing_rate: u64,
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
}

/// `struct mptcp_subflow_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SubflowInfo {
    id: u32,
    local: SockAddrStorage,
    remote: SockAddrStorage,
}

/// `struct __kernel_sockaddr_storage` inside `struct mptcp_subflow_addrs`, aligned as a pointer.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct SockAddrStorage([u8; 128]);

/// `struct mptcp_full_info`.
#[repr(C)]
struct FullInfo {
    size_tcpinfo_kernel: u32,
    size_tcpinfo_user: u32,
    size_sfinfo_kernel: u32,
    size_sfinfo_user: u32,
    num_subflows: u32,
    size_arrays_user: u32,
    subflow_info: u64,
    tcp_info: u64,
    mptcp_info: MptcpInfo,
}

const _: () = {
    assert!(mem::offset_of!(MptcpInfo, bytes_acked) == 72);
    assert!(mem::offset_of!(TcpInfo, rtt) == 68);
    assert!(mem::offset_of!(TcpInfo, bytes_received) == 128);
    assert!(mem::size_of::<SubflowInfo>() == 8 + 2 * 128);
    assert!(mem::offset_of!(FullInfo, mptcp_info) == 40);
};

/// A subflow as the kernel reports it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubflowState {
    pub(crate) id: u32,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) tcp: TcpInfo,
}

/// Reads a socket option into plain old data that starts as all zeroes.
///
/// # Safety
///
/// `T` must be valid for every bit pattern, and every pointer in `value` must be valid for what
/// the option makes of it.
unsafe fn getsockopt<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`; the caller vouches for T.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Structures for which all zeroes is a value.
///
/// # Safety
///
/// They must consist of integers only.
unsafe trait Integers: Sized {}

// SAFETY: all fields are integers.
unsafe impl Integers for MptcpInfo {}
// SAFETY: all fields are integers.
unsafe impl Integers for TcpInfo {}
// SAFETY: all fields are integers, or arrays of them.
unsafe impl Integers for SubflowInfo {}
// SAFETY: an array of integers is integers.
unsafe impl<T: Integers, const N: usize> Integers for [T; N] {}

fn zeroed<T: Integers>() -> T {
    // SAFETY: integers may be zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// MPTCP_INFO. Fails with EOPNOTSUPP (IPv4) or ENOPROTOOPT (IPv6) on plain TCP.
pub(crate) fn mptcp_info(socket: BorrowedFd<'_>) -> io::Result<MptcpInfo> {
    let mut info: MptcpInfo = zeroed();
    // SAFETY: MptcpInfo consists of integers.
    unsafe { getsockopt(socket, SOL_MPTCP, MPTCP_INFO, &mut info) }?;
    Ok(info)
}

/// TCP_INFO.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info: TcpInfo = zeroed();
    // SAFETY: TcpInfo consists of integers.
    unsafe { getsockopt(socket, libc::SOL_TCP, libc::TCP_INFO, &mut info) }?;
    Ok(info)
}

/// MPTCP_FULL_INFO (Linux 6.5): all subflows that live, read at once.
pub(crate) fn mptcp_full_info(socket: BorrowedFd<'_>) -> io::Result<Vec<SubflowState>> {
    /// More than the kernel allows (8 additional ones).
    const ROOM: usize = 32;
    let mut addresses: [SubflowInfo; ROOM] = zeroed();
    let mut states: [TcpInfo; ROOM] = zeroed();
    let mut full = FullInfo {
        size_tcpinfo_kernel: 0,
        size_tcpinfo_user: mem::size_of::<TcpInfo>() as u32,
        size_sfinfo_kernel: 0,
        size_sfinfo_user: mem::size_of::<SubflowInfo>() as u32,
        num_subflows: 0,
        size_arrays_user: ROOM as u32,
        subflow_info: (&raw mut addresses) as u64,
        tcp_info: (&raw mut states) as u64,
        mptcp_info: zeroed(),
    };
    // SAFETY: FullInfo consists of integers; its two pointers lead to arrays of
    // `size_arrays_user` elements of the stated sizes, which outlive the call.
    unsafe { getsockopt(socket, SOL_MPTCP, MPTCP_FULL_INFO, &mut full) }?;
    let count = (full.num_subflows as usize).min(ROOM);
    Ok(addresses
        .iter()
        .zip(&states)
        .take(count)
        .filter_map(|(info, tcp)| {
            Some(SubflowState {
                id: info.id,
                local: socket_address(&info.local)?,
                remote: socket_address(&info.remote)?,
                tcp: *tcp,
            })
        })
        .collect())
}

/// Reads a sockaddr_in or sockaddr_in6; IPv4-mapped addresses become IPv4.
fn socket_address(storage: &SockAddrStorage) -> Option<SocketAddr> {
    let bytes = &storage.0;
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?)),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?);
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_socket_addresses() {
        let mut storage = SockAddrStorage([0; 128]);
        assert_eq!(socket_address(&storage), None);
        storage.0[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        storage.0[2..8].copy_from_slice(&[0x13, 0x89, 10, 0, 1, 2]);
        assert_eq!(
            socket_address(&storage).unwrap().to_string(),
            "10.0.1.2:5001"
        );
        storage.0[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        storage.0[4..8].fill(0);
        storage.0[8..24].copy_from_slice(&"fd00:1::2".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(
            socket_address(&storage).unwrap().to_string(),
            "[fd00:1::2]:5001"
        );
    }
}
