//! The few system calls that the tests need and no safe interface gives.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::ptr;

/// A socket that sends frames at an interface of the current namespace.
#[derive(Debug)]
pub(crate) struct Frames(OwnedFd);

impl Frames {
    pub(crate) fn open(ifindex: u32) -> Self {
        // SAFETY: no pointers; a new descriptor is ours.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        // SAFETY: the address has the length given and outlives the call.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(fd)
    }

    /// A socket that sees what arrives at an interface and what leaves it.
    pub(crate) fn listen(ifindex: u32) -> Self {
        let frames = Self::open(ifindex);
        // SAFETY: all zeros is a valid address, which has the length given and outlives the call.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = ifindex as i32;
            let len = size_of_val(&address) as u32;
            libc::bind(frames.0.as_raw_fd(), ptr::from_ref(&address).cast(), len)
        };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        // Who reads may have to wait for a CPU.
        let room: libc::c_int = 32 << 20;
        // SAFETY: the value has the length given and outlives the call.
        let set = unsafe {
            libc::setsockopt(
                frames.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                ptr::from_ref(&room).cast(),
                size_of_val(&room) as u32,
            )
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        frames
    }

    /// Two sockets that hear packets of IPv4 and IPv6 that come to the current namespace and have the
    /// keys of a connection, from their IP header on. MP_CAPABLE is looked for where Linux writes
    /// it: first of the options, or behind the timestamps (`tcp_options_write`).
    pub(crate) fn keys() -> [Self; 2] {
        [(libc::ETH_P_IP, false), (libc::ETH_P_IPV6, true)].map(|(protocol, v6)| {
            // SAFETY: no pointers; a new descriptor is ours. It hears nothing before it is bound.
            let fd =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            // SAFETY: as above.
            let frames = Self(unsafe { OwnedFd::from_raw_fd(fd) });
            let filter = has_keys(v6);
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            let room: libc::c_int = 8 << 20;
            for (option, value, len) in [
                (
                    libc::SO_ATTACH_FILTER,
                    ptr::from_ref(&program).cast(),
                    size_of_val(&program),
                ),
                (
                    libc::SO_RCVBUFFORCE,
                    ptr::from_ref(&room).cast(),
                    size_of_val(&room),
                ),
            ] {
                // SAFETY: the values have the lengths given, and outlive the call with the filter.
                let set = unsafe {
                    libc::setsockopt(
                        frames.0.as_raw_fd(),
                        libc::SOL_SOCKET,
                        option,
                        value,
                        len as u32,
                    )
                };
                assert_eq!(set, 0, "{}", io::Error::last_os_error());
            }
            // SAFETY: all zeros is a valid address, which has the length given and outlives the call.
            let bound = unsafe {
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = (protocol as u16).to_be();
                let len = size_of_val(&address) as u32;
                libc::bind(frames.0.as_raw_fd(), ptr::from_ref(&address).cast(), len)
            };
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            frames
        })
    }

    /// When the frame that `next` gave last was sent or received, by the kernel's clock, since 1970;
    /// what is asked for the first time has frames stamped from then on (`sock_gettstamp`).
    pub(crate) fn stamp(&self) -> std::time::Duration {
        /// `SIOCGSTAMPNS_OLD` of `asm-generic/sockios.h`.
        const SIOCGSTAMPNS: libc::c_ulong = 0x8907;
        let mut stamp = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the structure outlives the call; without a stamp it is left as it is.
        unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCGSTAMPNS, &raw mut stamp) };
        std::time::Duration::new(stamp.tv_sec as u64, stamp.tv_nsec as u32)
    }

    /// The next frame, or its first bytes; `None`: none came for so long.
    pub(crate) fn next(&self, limit: std::time::Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 256];
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, and a buffer of the length given, that outlive the calls.
        let got = unsafe {
            match libc::poll(&mut poll, 1, limit.as_millis() as i32) {
                1 => {
                    let at = buffer.as_mut_ptr().cast();
                    libc::recv(self.0.as_raw_fd(), at, buffer.len(), 0)
                }
                _ => return None,
            }
        };
        buffer.truncate(usize::try_from(got).unwrap_or(0));
        Some(buffer)
    }

    /// `false`: the interface had no room (or is down).
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: the buffer has the length given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent == frame.len() as isize
    }
}

/// A filter for sockets (`linux/filter.h`): TCP with MP_CAPABLE of 20 bytes or more.
fn has_keys(v6: bool) -> Vec<libc::sock_filter> {
    /// A jump to the end: the packet is not wanted.
    const END: u8 = u8::MAX;
    let code = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |condition: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        jt,
        jf,
        ..code(libc::BPF_JMP | condition, k)
    };
    let byte = |at: u32| code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at);
    // Of TCP, which begins at X.
    let of_tcp = |at: u32| code(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, at);
    let tcp = libc::IPPROTO_TCP as u32;
    let mut all = match v6 {
        false => vec![
            byte(9),
            jump(libc::BPF_JEQ, tcp, 0, END),
            // Not a later fragment.
            code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 6),
            jump(libc::BPF_JSET, 0x1fff, END, 0),
            code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        ],
        true => vec![
            byte(6),
            jump(libc::BPF_JEQ, tcp, 0, END),
            code(libc::BPF_LDX | libc::BPF_IMM, 40),
        ],
    };
    all.extend([
        // Words of the header: at least 20 bytes of options.
        of_tcp(12),
        jump(libc::BPF_JGE, 10 << 4, 0, END),
        of_tcp(20),
        jump(libc::BPF_JEQ, 30, 6, 0),
        // NOP, NOP, timestamps: what is behind them.
        jump(libc::BPF_JEQ, 1, 0, END),
        code(libc::BPF_MISC | libc::BPF_TXA, 0),
        code(libc::BPF_ALU | libc::BPF_ADD, 12),
        code(libc::BPF_MISC | libc::BPF_TAX, 0),
        of_tcp(20),
        jump(libc::BPF_JEQ, 30, 0, END),
        of_tcp(21),
        jump(libc::BPF_JGE, 20, 0, END),
        of_tcp(22),
        jump(libc::BPF_JSET, 0xf0, END, 0),
        code(libc::BPF_RET, u32::MAX),
        code(libc::BPF_RET, 0),
    ]);
    let last = all.len() - 1;
    for (at, code) in all.iter_mut().enumerate() {
        let end = last.saturating_sub(at + 1) as u8;
        for to in [&mut code.jt, &mut code.jf] {
            if *to == END {
                *to = end;
            }
        }
    }
    all
}

/// Attaches a program at TCX ingress of an interface of the current namespace.
pub(crate) fn tcx_ingress(program: &OwnedFd, ifindex: u32, first: bool) -> OwnedFd {
    let flags = if first { libbpf_sys::BPF_F_BEFORE } else { 0 };
    tcx_ingress_at(program, ifindex, flags, 0)
}

/// The same right before another program.
pub(crate) fn tcx_ingress_before(program: &OwnedFd, ifindex: u32, id: u32) -> OwnedFd {
    let flags = libbpf_sys::BPF_F_BEFORE | libbpf_sys::BPF_F_ID;
    tcx_ingress_at(program, ifindex, flags, id)
}

fn tcx_ingress_at(program: &OwnedFd, ifindex: u32, flags: u32, id: u32) -> OwnedFd {
    let mut opts = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        flags,
        ..Default::default()
    };
    opts.__bindgen_anon_1.tcx.relative_id = id;
    // SAFETY: the options outlive the call; a new descriptor is ours.
    unsafe {
        let fd = libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            ifindex as i32,
            libbpf_sys::BPF_TCX_INGRESS,
            &opts,
        );
        assert!(fd >= 0, "{}", io::Error::from_raw_os_error(-fd));
        OwnedFd::from_raw_fd(fd)
    }
}

/// Programs of emptcp that TCX runs at an interface of the current namespace.
pub(crate) fn count_tcx_entries(ifindex: u32) -> usize {
    let hooks = [libbpf_sys::BPF_TCX_INGRESS, libbpf_sys::BPF_TCX_EGRESS];
    hooks.map(|at| tcx_entries(ifindex, at).len()).iter().sum()
}

/// Ids of the programs of emptcp at TCX ingress, in their order.
pub(crate) fn tcx_ingress_entries(ifindex: u32) -> Vec<u32> {
    tcx_entries(ifindex, libbpf_sys::BPF_TCX_INGRESS)
}

fn tcx_entries(ifindex: u32, at: libbpf_sys::bpf_attach_type) -> Vec<u32> {
    let mut ids = [0u32; 64];
    let mut opts = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    opts.__bindgen_anon_1.count = ids.len() as u32;
    // SAFETY: `ids` has room for the count given, and outlives the call.
    let ret = unsafe { libbpf_sys::bpf_prog_query_opts(ifindex as i32, at, &mut opts) };
    if ret != 0 {
        return Vec::new();
    }
    ids.into_iter()
        .filter(|id| *id != 0 && is_entry(*id))
        .collect()
}

fn is_entry(id: u32) -> bool {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info` is `len` bytes long; a new descriptor is ours.
    unsafe {
        let fd = libbpf_sys::bpf_prog_get_fd_by_id(id);
        if fd < 0 {
            return false;
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let info = ptr::from_mut(&mut info).cast();
        libbpf_sys::bpf_obj_get_info_by_fd(fd.as_raw_fd(), info, &mut len);
    }
    let name: Vec<u8> = info.name.iter().map(|c| *c as u8).collect();
    name.starts_with(b"emptcp_entry")
}

/// Waits for a child that is stopped or has ended, which it leaves to be waited for. `true`: stopped.
pub(crate) fn wait_stopped(pid: u32) -> bool {
    loop {
        // SAFETY: all zeros is a valid value, and it outlives the call.
        let (ret, code) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let what = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
            (
                libc::waitid(libc::P_PID, pid, &mut info, what),
                info.si_code,
            )
        };
        if ret == 0 {
            return code == libc::CLD_STOPPED;
        }
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "{error}");
    }
}

/// Gives packets that arrive a VLAN tag beside their bytes, before other programs see them, as
/// drivers do. Ends with the link that is returned.
pub(crate) fn vlan_at_ingress(ifindex: u32, id: u16) -> OwnedFd {
    let insn = |code: u8, registers: u8, imm: i32| {
        let [a, b, c, d] = imm.to_ne_bytes();
        [code, registers, 0, 0, a, b, c, d]
    };
    // bpf_skb_vlan_push(skb, htons(ETH_P_8021Q), id), and on to the next program.
    let program = [
        insn(0xb7, 2, i32::from(0x8100u16.to_be())),
        insn(0xb7, 3, id.into()),
        insn(0x85, 0, 18),
        insn(0xb7, 0, -1),
        insn(0x95, 0, 0),
    ];
    // SAFETY: the program has as many instructions as said; a new descriptor is ours.
    let program = unsafe {
        let fd = libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SCHED_CLS,
            c"tag".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as _,
            ptr::null_mut(),
        );
        assert!(fd >= 0, "{}", io::Error::from_raw_os_error(-fd));
        OwnedFd::from_raw_fd(fd)
    };
    tcx_ingress(&program, ifindex, true)
}

/// Pins a program.
pub(crate) fn pin(program: &OwnedFd, path: &std::path::Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string that outlives the call.
    let ret = unsafe { libbpf_sys::bpf_obj_pin(program.as_raw_fd(), path.as_ptr()) };
    assert_eq!(ret, 0, "{}", io::Error::from_raw_os_error(-ret));
}

fn mptcp_socket(address: std::net::SocketAddr) -> (OwnedFd, libc::sockaddr_storage, u32) {
    // SAFETY: all zeros is a valid address.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let (family, len) = match address {
        std::net::SocketAddr::V4(v4) => {
            // SAFETY: the storage is large enough and aligned for every address.
            let sin = unsafe { &mut *ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>() };
            sin.sin_family = libc::AF_INET as u16;
            sin.sin_port = v4.port().to_be();
            sin.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            (libc::AF_INET, size_of::<libc::sockaddr_in>())
        }
        std::net::SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let sin = unsafe { &mut *ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>() };
            sin.sin6_family = libc::AF_INET6 as u16;
            sin.sin6_port = v6.port().to_be();
            sin.sin6_addr.s6_addr = v6.ip().octets();
            (libc::AF_INET6, size_of::<libc::sockaddr_in6>())
        }
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; a new descriptor is ours.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_MPTCP) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: as above.
    (unsafe { OwnedFd::from_raw_fd(fd) }, storage, len as u32)
}

/// A socket of Multipath TCP that listens.
pub(crate) fn mptcp_listener(address: std::net::IpAddr, port: u16) -> OwnedFd {
    let (fd, storage, len) = mptcp_socket(std::net::SocketAddr::new(address, port));
    let on = 1i32;
    // SAFETY: the pointers are to values of the lengths given that outlive the calls.
    unsafe {
        let value = ptr::from_ref(&on).cast();
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            value,
            4,
        );
        let address = ptr::from_ref(&storage).cast();
        let bound = libc::bind(fd.as_raw_fd(), address, len);
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        assert_eq!(libc::listen(fd.as_raw_fd(), 1), 0);
    }
    fd
}

/// A connection of Multipath TCP.
pub(crate) fn mptcp_connect(address: std::net::SocketAddr) -> OwnedFd {
    let (fd, storage, len) = mptcp_socket(address);
    // SAFETY: the address has the length given and outlives the call.
    let ret = unsafe { libc::connect(fd.as_raw_fd(), ptr::from_ref(&storage).cast(), len) };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
    fd
}

/// Congestion control of a connection and its subflows to come; who may not set it for a namespace
/// may do this.
pub(crate) fn set_congestion(socket: &std::net::TcpStream, name: &str) {
    // SAFETY: the pointer is to as many bytes as are given, which outlive the call.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as u32,
        )
    };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
}

/// Whether a connection is plain TCP by now (`MPTCP_INFO`, which the kernel refuses then, or the
/// flag in it).
pub(crate) fn mptcp_fell_back(socket: &std::net::TcpStream) -> bool {
    const SOL_MPTCP: i32 = 284;
    const MPTCP_INFO: i32 = 1;
    const FLAGS: usize = 8;
    let mut info = [0u8; 128];
    let mut len = info.len() as u32;
    // SAFETY: `info` is `len` bytes long.
    let ret = unsafe {
        let value = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), SOL_MPTCP, MPTCP_INFO, value, &mut len)
    };
    ret != 0 || info[FLAGS] & 1 != 0
}
