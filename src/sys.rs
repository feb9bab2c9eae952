//! The few operations that libbpf-rs has no safe interface for. Nothing here
//! decides anything; with `abi` it is the only place of `unsafe`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::slice;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use fail::fail_point;
use libbpf_rs::AsRawLibbpf as _;
use libbpf_rs::MapType;
use libbpf_rs::OpenObject;

use crate::abi::SkBuff;
use crate::insn::Insn;

/// Records of debugging information that go with a program: raw, with their size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) size: u32,
}

impl Records {
    /// Those of instructions that were put into another order. `from`: for each instruction where
    /// it was; `functions`: where functions began, and where they begin. The first member of a
    /// record is the number of its instruction, from which on it holds.
    pub(crate) fn moved(&self, from: &[usize], functions: &[(usize, usize)]) -> Self {
        let size = self.size.max(4) as usize;
        let records: Vec<(usize, &[u8])> = self
            .bytes
            .chunks_exact(size)
            .map(|r| {
                let at = r.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
                (at as usize, r)
            })
            .collect();
        let mut moved = Self {
            size: self.size,
            ..Self::default()
        };
        let mut before = None;
        for (at, from) in from.iter().enumerate() {
            let holds = records.partition_point(|(start, _)| start <= from);
            let begins = functions.iter().any(|(_, here)| *here == at);
            if holds == 0 || (before == Some(holds) && !begins) {
                continue;
            }
            before = Some(holds);
            moved.bytes.extend((at as u32).to_ne_bytes());
            moved.bytes.extend(&records[holds - 1].1[4..]);
            moved.count += 1;
        }
        moved
    }

    /// As [`Records::moved`], of records for functions only.
    pub(crate) fn moved_functions(&self, functions: &[(usize, usize)]) -> Self {
        let mut moved = Self {
            size: self.size,
            ..Self::default()
        };
        for record in self.bytes.chunks_exact(self.size.max(4) as usize) {
            let at = record.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
            if let Some((_, here)) = functions.iter().find(|(from, _)| *from == at as usize) {
                moved.bytes.extend((*here as u32).to_ne_bytes());
                moved.bytes.extend(&record[4..]);
                moved.count += 1;
            }
        }
        moved
    }
}

/// A map as an object defines it, with the placeholder that libbpf created.
#[derive(Debug)]
pub(crate) struct PreparedMap {
    pub(crate) name: String,
    pub(crate) ty: MapType,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    /// First contents, for data sections.
    pub(crate) initial: Option<Vec<u8>>,
    /// Number by which the instructions refer to it.
    pub(crate) number: i32,
    /// The placeholder.
    pub(crate) fd: OwnedFd,
}

/// An object whose instructions are ready for the kernel, but for its maps.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) insns: Vec<Insn>,
    pub(crate) maps: Vec<PreparedMap>,
    pub(crate) btf: Option<OwnedFd>,
    pub(crate) func_info: Records,
    pub(crate) line_info: Records,
}

/// The result of a call of libbpf: a number, or minus an errno.
fn check(ret: i32) -> io::Result<i32> {
    if ret < 0 {
        Err(io::Error::from_raw_os_error(-ret))
    } else {
        Ok(ret)
    }
}

fn owned(ret: i32) -> io::Result<OwnedFd> {
    let fd = check(ret)?;
    // SAFETY: a call that returns a new file descriptor hands over its ownership.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path holds a NUL byte"))
}

/// Lets libbpf do all but load the one program of an object (`bpf_object__prepare`),
/// and takes the program out of it.
///
/// # Errors
///
/// What libbpf or the kernel says: no privilege, no memory, CO-RE relocations
/// that the kernel cannot satisfy.
pub(crate) fn prepare(object: OpenObject) -> io::Result<Prepared> {
    let raw = object.as_libbpf_object().as_ptr();
    // SAFETY: the object is open and ours alone.
    check(unsafe { libbpf_sys::bpf_object__prepare(raw) })?;

    // SAFETY: a null program asks for the first; the object lives as long as `object`.
    let program = unsafe { libbpf_sys::bpf_object__next_program(raw, ptr::null_mut()) };
    if program.is_null() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the object holds no program",
        ));
    }
    // SAFETY: the program belongs to a prepared object, whose instructions and records stay
    // until the object is closed; they are copied.
    let (name, insns, func_info, line_info) = unsafe {
        let name = CStr::from_ptr(libbpf_sys::bpf_program__name(program));
        let insns = slice::from_raw_parts(
            libbpf_sys::bpf_program__insns(program).cast::<u64>(),
            libbpf_sys::bpf_program__insn_cnt(program) as usize,
        );
        (
            name.to_string_lossy().into_owned(),
            insns.iter().copied().map(Insn).collect(),
            records(
                libbpf_sys::bpf_program__func_info(program).cast(),
                libbpf_sys::bpf_program__func_info_cnt(program),
                size_of::<libbpf_sys::bpf_func_info>(),
            ),
            records(
                libbpf_sys::bpf_program__line_info(program).cast(),
                libbpf_sys::bpf_program__line_info_cnt(program),
                size_of::<libbpf_sys::bpf_line_info>(),
            ),
        )
    };

    // SAFETY: as above; BTF of the object is valid while the object is open.
    let btf = unsafe {
        let btf = libbpf_sys::bpf_object__btf(raw);
        if btf.is_null() {
            -1
        } else {
            libbpf_sys::btf__fd(btf)
        }
    };
    let btf = if btf >= 0 {
        // SAFETY: libbpf keeps the descriptor open while the object is.
        Some(unsafe { BorrowedFd::borrow_raw(btf) }.try_clone_to_owned()?)
    } else {
        None
    };

    let mut maps = Vec::new();
    for map in object.maps() {
        let raw = map.as_libbpf_object().as_ptr();
        // SAFETY: the map belongs to the open object.
        let number = unsafe { libbpf_sys::bpf_map__fd(raw) };
        if number < 0 {
            continue;
        }
        // SAFETY: as above; the placeholder is open while the object is.
        let fd = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
        maps.push(PreparedMap {
            name: map.name().to_string_lossy().into_owned(),
            ty: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
            initial: map.initial_value().map(<[u8]>::to_vec),
            number,
            fd,
        });
    }
    Ok(Prepared {
        name,
        insns,
        maps,
        btf,
        func_info,
        line_info,
    })
}

/// # Safety
///
/// `start` is null or points to `count` records of `size` bytes.
unsafe fn records(start: *const u8, count: u32, size: usize) -> Records {
    if start.is_null() {
        return Records::default();
    }
    // SAFETY: as the caller promises.
    let bytes = unsafe { slice::from_raw_parts(start, count as usize * size) };
    Records {
        bytes: bytes.to_vec(),
        count,
        size: size as u32,
    }
}

/// What a program is loaded as.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    pub(crate) name: &'a str,
    pub(crate) xdp: bool,
    /// XDP that takes packets of several buffers.
    pub(crate) frags: bool,
    pub(crate) insns: &'a [Insn],
    pub(crate) btf: Option<BorrowedFd<'a>>,
    pub(crate) func_info: &'a Records,
    pub(crate) line_info: &'a Records,
    /// Ask for the verifier's log where it refuses.
    pub(crate) explain: bool,
}

/// The verifier said no.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: io::Error,
    /// The verifier's log; empty where the kernel gave none.
    pub(crate) log: String,
    /// Lines of the source, by instruction, ascending; empty without `-g`.
    pub(crate) lines: Vec<SourceLine>,
}

/// A line of the source that instructions come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceLine {
    /// The first instruction.
    pub(crate) insn: u32,
    /// As it was given to the compiler.
    pub(crate) file: String,
    pub(crate) line: u32,
    /// The line itself.
    pub(crate) text: String,
}

/// Bytes of a verifier log: a smaller buffer makes loads of valid programs fail.
const LOG_SIZE: usize = 16 << 20;

/// Loads a program; a refused one is tried again for the verifier's log, if that is wanted.
///
/// # Errors
///
/// The kernel's error, and the verifier's log.
pub(crate) fn prog_load(load: &Load<'_>) -> Result<OwnedFd, Refused> {
    match try_load(load, None) {
        Ok(fd) => Ok(fd),
        Err(error) if !load.explain => Err(Refused {
            error,
            log: String::new(),
            lines: Vec::new(),
        }),
        Err(first) => {
            let mut log = vec![0u8; LOG_SIZE];
            match try_load(load, Some(&mut log)) {
                Ok(fd) => Ok(fd),
                Err(_) => {
                    let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                    Err(Refused {
                        error: first,
                        log: log.to_string_lossy().into_owned(),
                        lines: source_lines(load),
                    })
                }
            }
        }
    }
}

/// The lines of a program, from the BTF that the kernel has of it.
fn source_lines(load: &Load<'_>) -> Vec<SourceLine> {
    let strings = load.btf.and_then(|fd| btf_strings(fd).ok());
    let size = load.line_info.size as usize;
    let Some(strings) = strings.filter(|_| size >= size_of::<libbpf_sys::bpf_line_info>()) else {
        return Vec::new();
    };
    let string = |at: u32| {
        let bytes = strings.get(at as usize..).unwrap_or_default();
        let text = CStr::from_bytes_until_nul(bytes).unwrap_or_default();
        text.to_string_lossy().into_owned()
    };
    let records = load.line_info.bytes.chunks_exact(size);
    records
        .filter_map(|record| {
            // As struct bpf_line_info: instruction, file, text, line << 10 | column.
            let number = |at: usize| Some(u32::from_ne_bytes(*record.get(at..)?.first_chunk()?));
            Some(SourceLine {
                insn: number(0)?,
                file: string(number(4)?),
                line: number(12)? >> 10,
                text: string(number(8)?),
            })
        })
        .collect()
}

/// The strings of BTF that is in the kernel.
fn btf_strings(btf: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // First to learn the size, then for the bytes.
    for _ in 0..2 {
        let mut info = libbpf_sys::bpf_btf_info {
            btf: bytes.as_mut_ptr() as u64,
            btf_size: bytes.len() as u32,
            ..Default::default()
        };
        let mut len = size_of::<libbpf_sys::bpf_btf_info>() as u32;
        // SAFETY: the structure is as long as said, and its buffer too.
        check(unsafe {
            libbpf_sys::bpf_btf_get_info_by_fd(btf.as_raw_fd(), &raw mut info, &raw mut len)
        })?;
        bytes.resize(info.btf_size as usize, 0u8);
    }
    // As struct btf_header: its length at 4, offset and length of the strings at 16 and 20.
    let number = |at: usize| -> Option<usize> {
        Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
    };
    let range = || {
        let start = number(4)?.checked_add(number(16)?)?;
        bytes.get(start..start.checked_add(number(20)?)?)
    };
    Ok(range().unwrap_or_default().to_vec())
}

fn try_load(load: &Load<'_>, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    let mut opts = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as _,
        attempts: 5,
        expected_attach_type: if load.xdp { libbpf_sys::BPF_XDP } else { 0 },
        prog_flags: if load.frags {
            libbpf_sys::BPF_F_XDP_HAS_FRAGS
        } else {
            0
        },
        ..Default::default()
    };
    if let Some(btf) = load.btf {
        opts.prog_btf_fd = btf.as_raw_fd() as u32;
        opts.func_info = load.func_info.bytes.as_ptr().cast();
        opts.func_info_cnt = load.func_info.count;
        opts.func_info_rec_size = load.func_info.size;
        if log.is_some() {
            opts.line_info = load.line_info.bytes.as_ptr().cast();
            opts.line_info_cnt = load.line_info.count;
            opts.line_info_rec_size = load.line_info.size;
        }
    }
    if let Some(log) = log {
        opts.log_level = 1;
        opts.log_size = log.len() as u32;
        opts.log_buf = log.as_mut_ptr().cast();
    }
    let name = CString::new(load.name).unwrap_or_default();
    let ty = if load.xdp {
        libbpf_sys::BPF_PROG_TYPE_XDP
    } else {
        libbpf_sys::BPF_PROG_TYPE_SCHED_CLS
    };
    // SAFETY: every pointer in the options and arguments is to memory of the given length that
    // outlives the call.
    owned(unsafe {
        libbpf_sys::bpf_prog_load(
            ty,
            name.as_ptr(),
            c"Dual BSD/GPL".as_ptr(),
            load.insns.as_ptr().cast(),
            load.insns.len() as _,
            &mut opts,
        )
    })
}

/// Pins a map, program or link (`BPF_OBJ_PIN`).
pub(crate) fn pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    fail_point!("pin", |_| Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    let path = c_path(path)?;
    // SAFETY: the path is a C string that outlives the call.
    check(unsafe { libbpf_sys::bpf_obj_pin(fd.as_fd().as_raw_fd(), path.as_ptr()) }).map(drop)
}

/// Opens what is pinned at a path (`BPF_OBJ_GET`).
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    fail_point!("open", |_| Err(io::Error::from_raw_os_error(libc::EMFILE)));
    let path = c_path(path)?;
    // SAFETY: as above.
    owned(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) })
}

/// Puts a program into a slot of a program array.
pub(crate) fn set_slot(array: impl AsFd, slot: u32, program: impl AsFd) -> io::Result<()> {
    let program = program.as_fd().as_raw_fd();
    // SAFETY: key and value are the 4 bytes that a program array has.
    check(unsafe {
        libbpf_sys::bpf_map_update_elem(
            array.as_fd().as_raw_fd(),
            ptr::from_ref(&slot).cast::<c_void>(),
            ptr::from_ref(&program).cast::<c_void>(),
            0,
        )
    })
    .map(drop)
}

/// Many entries of a map at once (`BPF_MAP_LOOKUP_BATCH`). libbpf-rs takes a call that gives fewer
/// than were asked for as the last one, which it need not be for a hash.
#[derive(Debug)]
pub(crate) struct Batches<'a> {
    map: BorrowedFd<'a>,
    sizes: [usize; 2],
    /// Where the kernel goes on: a key, or the number of a bucket.
    cursor: Option<Vec<u8>>,
    /// What was read last.
    keys: Vec<u8>,
    values: Vec<u8>,
    done: bool,
}

impl<'a> Batches<'a> {
    /// `key`, `value`: their sizes in bytes.
    pub(crate) fn new(map: &'a impl AsFd, key: usize, value: usize) -> Self {
        Self {
            map: map.as_fd(),
            sizes: [key, value],
            cursor: None,
            keys: Vec::new(),
            values: Vec::new(),
            done: false,
        }
    }

    /// Up to `count` more keys and values, one behind the other; `None` at the end.
    ///
    /// # Errors
    ///
    /// The kernel's: `ENOSPC` where a larger `count` is needed, 524 (`ENOTSUPP`) or `EINVAL` where
    /// this kernel cannot do so.
    pub(crate) fn next(&mut self, count: u32) -> io::Result<Option<(&[u8], &[u8])>> {
        if self.done {
            return Ok(None);
        }
        let [key, value] = self.sizes;
        for (bytes, size) in [(&mut self.keys, key), (&mut self.values, value)] {
            if bytes.len() < size * count as usize {
                // Zeros that the kernel gives: of a small map most are never touched.
                *bytes = vec![0; size * count as usize];
            }
        }
        let mut next = vec![0u8; key.max(size_of::<u32>())];
        let mut found = count;
        let opts = libbpf_sys::bpf_map_batch_opts {
            sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as _,
            ..Default::default()
        };
        let cursor = self
            .cursor
            .as_mut()
            .map_or(ptr::null_mut(), |cursor| cursor.as_mut_ptr());
        // SAFETY: keys and values have room for `count` of them; both cursors are as long as a key,
        // and at least 4 bytes. All outlive the call.
        let result = check(unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                self.map.as_raw_fd(),
                cursor.cast(),
                next.as_mut_ptr().cast(),
                self.keys.as_mut_ptr().cast(),
                self.values.as_mut_ptr().cast(),
                &mut found,
                &opts,
            )
        });
        match result {
            Ok(_) => self.cursor = Some(next),
            // The last ones come with it.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => self.done = true,
            Err(e) => return Err(e),
        }
        let ends = [key, value].map(|size| size * found as usize);
        let [keys, values] = [(&self.keys, ends[0]), (&self.values, ends[1])]
            .map(|(bytes, end)| bytes.get(..end).unwrap_or_default());
        Ok(Some((keys, values)))
    }
}

/// Nanoseconds since the machine began (`CLOCK_BOOTTIME`), as `bpf_ktime_get_boot_ns()` tells them.
pub(crate) fn boot_time() -> io::Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Where a link attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkAt {
    /// XDP with flags of `XDP_FLAGS_*` (mode).
    Xdp(u32),
    /// TCX ingress.
    TcxIngress(TcxPlace),
    /// TCX egress.
    TcxEgress(TcxPlace),
}

/// Place among the programs that TCX runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcxPlace {
    /// Before all that are there.
    First,
    /// Behind all that are there.
    Last,
    /// Before the program of this id.
    Before(u32),
    /// Right behind the program of this id.
    Behind(u32),
}

/// Attaches a program to an interface (`BPF_LINK_CREATE`).
pub(crate) fn link_create(program: impl AsFd, ifindex: u32, at: LinkAt) -> io::Result<OwnedFd> {
    let mut opts = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        ..Default::default()
    };
    let (ty, place) = match at {
        LinkAt::Xdp(flags) => {
            opts.flags = flags;
            (libbpf_sys::BPF_XDP, TcxPlace::Last)
        }
        LinkAt::TcxIngress(place) => (libbpf_sys::BPF_TCX_INGRESS, place),
        LinkAt::TcxEgress(place) => (libbpf_sys::BPF_TCX_EGRESS, place),
    };
    match place {
        TcxPlace::Last => {}
        TcxPlace::First => opts.flags = libbpf_sys::BPF_F_BEFORE,
        TcxPlace::Before(id) => {
            opts.flags = libbpf_sys::BPF_F_BEFORE | libbpf_sys::BPF_F_ID;
            opts.__bindgen_anon_1.tcx.relative_id = id;
        }
        TcxPlace::Behind(id) => {
            opts.flags = libbpf_sys::BPF_F_AFTER | libbpf_sys::BPF_F_ID;
            opts.__bindgen_anon_1.tcx.relative_id = id;
        }
    }
    // SAFETY: the options outlive the call.
    owned(unsafe {
        libbpf_sys::bpf_link_create(
            program.as_fd().as_raw_fd(),
            ifindex as i32,
            ty,
            ptr::from_ref(&opts),
        )
    })
}

/// Exchanges the program of a link (`BPF_LINK_UPDATE`): at no moment none or both run.
pub(crate) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    // SAFETY: null options are the defaults.
    check(unsafe {
        libbpf_sys::bpf_link_update(
            link.as_fd().as_raw_fd(),
            program.as_fd().as_raw_fd(),
            ptr::null(),
        )
    })
    .map(drop)
}

/// Detaches the program of a link at once (`BPF_LINK_DETACH`).
pub(crate) fn link_detach(link: impl AsFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libbpf_sys::bpf_link_detach(link.as_fd().as_raw_fd()) }).map(drop)
}

/// Opens a program by its id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })
}

/// Id and name of a program.
pub(crate) fn program_info(program: impl AsFd) -> io::Result<(u32, String)> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info` is `len` bytes long.
    check(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(
            program.as_fd().as_raw_fd(),
            ptr::from_mut(&mut info).cast(),
            &mut len,
        )
    })?;
    let name: Vec<u8> = info
        .name
        .iter()
        .map(|c| *c as u8)
        .take_while(|c| *c != 0)
        .collect();
    Ok((info.id, String::from_utf8_lossy(&name).into_owned()))
}

/// Ids of the programs that TCX runs on an interface, in order.
///
/// # Errors
///
/// `EINVAL`: this kernel has no TCX (before 6.6).
pub(crate) fn tcx_programs(ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut opts = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    opts.__bindgen_anon_1.count = ids.len() as u32;
    let ty = if egress {
        libbpf_sys::BPF_TCX_EGRESS
    } else {
        libbpf_sys::BPF_TCX_INGRESS
    };
    // SAFETY: `ids` has room for the count given, and outlives the call.
    check(unsafe { libbpf_sys::bpf_prog_query_opts(ifindex as i32, ty, &mut opts) })?;
    // SAFETY: both members of the union are this one number.
    let count = unsafe { opts.__bindgen_anon_1.count } as usize;
    Ok(ids[..count.min(ids.len())].to_vec())
}

/// Waits until every run of a program that began before has ended
/// (`membarrier(MEMBARRIER_CMD_GLOBAL)`: a grace period of the kernel).
pub(crate) fn grace_period() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Mounts a file system that needs no device at no place: its root. It goes away with the last
/// file that is open in it. Linux 5.2.
pub(crate) fn mount_nowhere(kind: &CStr) -> io::Result<OwnedFd> {
    const CLOEXEC: libc::c_uint = 1;
    const CREATE: libc::c_uint = 6;
    let none = ptr::null::<libc::c_char>();
    // SAFETY: the kernel reads the name, which ends with a zero; the other pointers are NULL, as
    // FSCONFIG_CMD_CREATE wants them. Each number that is returned is a file of our own.
    unsafe {
        let context = opened(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC))?;
        let fd = context.as_raw_fd();
        let ret = libc::syscall(libc::SYS_fsconfig, fd, CREATE, none, none, 0);
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        opened(libc::syscall(libc::SYS_fsmount, fd, CLOEXEC, 0))
    }
}

/// # Safety
///
/// The file belongs to the caller, who gives it away.
unsafe fn opened(fd: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(fd) {
        // SAFETY: see above.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Stores 8 bytes at an offset of the only value of an `BPF_F_MMAPABLE` array with one store, so
/// that a program reads either the old number or the new one.
pub(crate) fn store_u64(map: impl AsFd, offset: usize, number: u64) -> io::Result<()> {
    const PAGE: usize = 4096;
    debug_assert!(offset.is_multiple_of(8) && offset < PAGE);
    // SAFETY: a new shared mapping of the map's first page, which the kernel checks; unmapped
    // below, and used only in between, at an aligned offset inside the page.
    unsafe {
        let at = libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            map.as_fd().as_raw_fd(),
            0,
        );
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        AtomicU64::from_ptr(at.cast::<u8>().add(offset).cast()).store(number, Ordering::SeqCst);
        libc::munmap(at, PAGE);
    }
    Ok(())
}

/// The values of an `BPF_F_MMAPABLE` array, read without a system call.
#[derive(Debug)]
pub(crate) struct Mapped {
    at: *const AtomicU64,
    words: usize,
}

impl Mapped {
    /// Maps so many words of 8 bytes, of an array that has as many.
    pub(crate) fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping, whose length the kernel checks against that of the array.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                words * 8,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = at.cast_const().cast();
        Ok(Self { at, words })
    }

    /// The word of this number; `None` behind the last one.
    pub(crate) fn word(&self, number: usize) -> Option<u64> {
        if number >= self.words {
            return None;
        }
        // SAFETY: inside of the mapping, which lives as long as self and begins with a page.
        let word = unsafe { &*self.at.add(number) };
        Some(word.load(Ordering::Relaxed))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by new() with this length; nothing that was borrowed from it is left.
        unsafe {
            libc::munmap(self.at.cast_mut().cast(), self.words * 8);
        }
    }
}

/// Outcome of a test run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned.
    pub verdict: i32,
    /// The packet as it came out.
    pub packet: Vec<u8>,
    /// Mark of the packet afterwards (tc).
    pub mark: u32,
    /// When the packet is to leave (tc; CLOCK_MONOTONIC, ns), 0 for now.
    pub departure: u64,
    /// Mean duration of a run, in nanoseconds.
    pub nanoseconds: u32,
}

/// What a packet at tc has beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Its mark.
    pub mark: u32,
    /// When it is to leave (CLOCK_MONOTONIC, ns), 0 for now.
    pub departure: u64,
    /// Bytes on the wire, where it stands for several packets; 0: as long as it is.
    pub wire_len: u32,
    /// Bytes of TCP payload of each of these packets (`gso_size`); 0: it is one alone.
    pub segment_size: u32,
    /// How many they are (`gso_segs`); 0 as the kernel has it of packets that a guest made.
    pub segments: u32,
}

/// As [`test_run_with`], with nothing but a mark.
///
/// # Errors
///
/// As there.
pub(crate) fn test_run(
    program: impl AsFd,
    packet: &[u8],
    mark: Option<u32>,
    repeat: u32,
) -> io::Result<TestRun> {
    let beside = mark.map(|mark| Beside {
        mark,
        ..Beside::default()
    });
    test_run_with(program, packet, beside, repeat)
}

/// Runs a program on a packet (`BPF_PROG_TEST_RUN`). `beside`: for tc programs.
///
/// # Errors
///
/// The kernel's: packets shorter than an Ethernet header are refused.
pub(crate) fn test_run_with(
    program: impl AsFd,
    packet: &[u8],
    beside: Option<Beside>,
    repeat: u32,
) -> io::Result<TestRun> {
    let mut out = vec![0u8; packet.len() + 512];
    // Bytes, not the structure: the kernel wants its padding zero too.
    const MARK: usize = offset_of!(SkBuff, mark);
    const DEPARTURE: usize = offset_of!(SkBuff, tstamp);
    const WIRE_LEN: usize = offset_of!(SkBuff, wire_len);
    const SEGMENT_SIZE: usize = offset_of!(SkBuff, gso_size);
    const SEGMENTS: usize = offset_of!(SkBuff, gso_segs);
    let mut ctx = [0u8; size_of::<SkBuff>()];
    let given = beside.unwrap_or_default();
    ctx[MARK..MARK + 4].copy_from_slice(&given.mark.to_ne_bytes());
    ctx[DEPARTURE..DEPARTURE + 8].copy_from_slice(&given.departure.to_ne_bytes());
    ctx[WIRE_LEN..WIRE_LEN + 4].copy_from_slice(&given.wire_len.to_ne_bytes());
    ctx[SEGMENT_SIZE..SEGMENT_SIZE + 4].copy_from_slice(&given.segment_size.to_ne_bytes());
    ctx[SEGMENTS..SEGMENTS + 4].copy_from_slice(&given.segments.to_ne_bytes());
    let before = ctx;
    let mut opts = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        data_out: out.as_mut_ptr().cast(),
        data_size_out: out.len() as u32,
        repeat: repeat as i32,
        ..Default::default()
    };
    if beside.is_some() {
        opts.ctx_in = before.as_ptr().cast();
        opts.ctx_size_in = size_of_val(&before) as u32;
        opts.ctx_out = ctx.as_mut_ptr().cast();
        opts.ctx_size_out = size_of_val(&ctx) as u32;
    }
    // SAFETY: all buffers have the lengths given, and outlive the call.
    check(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_fd().as_raw_fd(), &mut opts) })?;
    out.truncate(opts.data_size_out as usize);
    Ok(TestRun {
        verdict: opts.retval as i32,
        packet: out,
        mark: ctx[MARK..]
            .first_chunk()
            .map_or(0, |b| u32::from_ne_bytes(*b)),
        departure: ctx[DEPARTURE..]
            .first_chunk()
            .map_or(0, |b| u64::from_ne_bytes(*b)),
        nanoseconds: opts.duration,
    })
}

/// Lets the network stack receive a frame as if it had come in by an interface, behind XDP
/// (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`). `program`: an XDP program that returns
/// `XDP_PASS`; it runs once.
///
/// # Errors
///
/// The kernel's. Those before 5.18 do not know the flag, and some send nothing in silence.
pub(crate) fn receive_frame(program: impl AsFd, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    let context = libbpf_sys::xdp_md {
        data_end: frame.len() as u32,
        ingress_ifindex: ifindex,
        ..Default::default()
    };
    let mut opts = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        ctx_in: ptr::from_ref(&context).cast(),
        ctx_size_in: size_of_val(&context) as u32,
        repeat: 1,
        batch_size: 1,
        flags: libbpf_sys::BPF_F_TEST_XDP_LIVE_FRAMES,
        ..Default::default()
    };
    // SAFETY: both buffers have the lengths given, and outlive the call.
    check(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_fd().as_raw_fd(), &mut opts) })?;
    Ok(())
}

/// A socket to send frames with (`packet(7)`); it receives nothing.
///
/// # Errors
///
/// The kernel's: `EPERM` without CAP_NET_RAW.
pub(crate) fn frame_socket() -> io::Result<OwnedFd> {
    Ok(nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Packet,
        nix::sys::socket::SockType::Raw,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Sends a frame by an interface, through its hook tc egress and its queueing discipline.
/// `protocol`: its EtherType.
///
/// # Errors
///
/// The kernel's: `ENETDOWN`, `ENOBUFS`.
pub(crate) fn send_frame(
    socket: impl AsFd,
    ifindex: u32,
    protocol: u16,
    frame: &[u8],
) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: frame and address have the lengths given, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The cookie of the calling process's network namespace, unique while the machine runs;
/// `None` on kernels before 5.14.
pub(crate) fn netns_cookie() -> Option<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
    let mut cookie = 0u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: `cookie` is `len` bytes long.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &mut len,
        )
    };
    (ret == 0).then_some(cookie)
}

/// Whether the kernel leaves checksums of packets that an interface sends to be completed later.
pub(crate) fn completes_checksums_later(interface: &str) -> io::Result<bool> {
    const ETHTOOL_GTXCSUM: u32 = 0x16;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // `struct ethtool_value`
    let mut value = [ETHTOOL_GTXCSUM, 0];
    let mut name = [0; libc::IFNAMSIZ];
    // The last byte stays 0.
    for (to, from) in name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: value.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the request has a name that ends, and points to as much as the command writes.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) })?;
    Ok(value[1] != 0)
}

/// Gives SIGPIPE its default effect back, which Rust takes from it.
pub(crate) fn default_sigpipe() {
    // SAFETY: the default action of a signal is always valid.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Makes a command begin as a process that may do nothing of what this one may: without
/// capabilities and without a way to get any by what it runs (`no_new_privs`), with no signal held
/// back, and ended with this process. Ids are the command's own.
pub(crate) fn without_privileges(command: &mut Command) {
    /// `struct __user_cap_header_struct` and `__user_cap_data_struct` of
    /// include/uapi/linux/capability.h.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let begin = || {
        let header = Header {
            version: VERSION_3,
            pid: 0,
        };
        // Effective, permitted, inheritable; twice 32 bits.
        let none = [0_u32; 6];
        // SAFETY: system calls on values that outlive them; a zeroed set of signals is valid, and
        // is made empty.
        let results = unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut signals);
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_CLEAR_ALL,
                    0,
                    0,
                    0,
                ),
                libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) as i32,
                // Behind the change of ids, which resets it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM),
                libc::sigprocmask(libc::SIG_SETMASK, &signals, ptr::null_mut()),
            ]
        };
        match results.iter().all(|result| *result == 0) {
            true => Ok(()),
            false => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: what runs between fork and exec only makes system calls.
    unsafe {
        command.pre_exec(begin);
    }
}

/// Groups of the process at the other end of a Unix socket, but for its first one (`SO_PEERGROUPS`).
pub(crate) fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut size = size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: the buffer has the size given.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut size,
            )
        };
        let count = size as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}
