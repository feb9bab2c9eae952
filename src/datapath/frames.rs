//! Sends frames of the subflows that the tracker knows.

use std::cell::OnceCell;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use nix::fcntl::Flock;

use super::netlink::interfaces;
use super::table_edit::Lock;
use super::track::TrackMaps;
use super::track::maps_in_force;
use crate::abi::TrackSubflow;
use crate::frame;
use crate::frame::Frame;
use crate::frame::Opt;
use crate::frame::Place;
use crate::insn::Insn;
use crate::interface::Interfaces;
use crate::module::KernelVersion;
use crate::sys;
use crate::sys::Load;
use crate::sys::Records;
use crate::track::Ends;
use crate::track::Track;

/// `XDP_PASS`.
const XDP_PASS: i32 = 2;
/// The first kernel that takes live frames; those before may ignore that without a word.
const LIVE_FRAMES: KernelVersion = KernelVersion(5, 18);
/// EtherTypes of packets without a link-layer header.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The subflows of the policy in force, and what frames are sent with.
#[derive(Debug)]
pub(crate) struct Frames {
    maps: TrackMaps,
    interfaces: Interfaces,
    kernel: KernelVersion,
    /// Passes all frames; loaded for the first one that arrives.
    pass: OnceCell<OwnedFd>,
    /// Sends those that leave. To close it takes longer than to send.
    socket: OnceCell<OwnedFd>,
    /// No apply or delete takes the maps away.
    _lock: Flock<File>,
}

impl Frames {
    /// # Errors
    ///
    /// No policy, or one without the tracker; no privilege; the kernel's.
    pub(crate) fn open(kernel: KernelVersion) -> Result<Self> {
        Self::open_with(kernel, Lock::Shared)
    }

    /// The same, perhaps for one who changes something.
    ///
    /// # Errors
    ///
    /// As for [`Frames::open`].
    pub(crate) fn open_with(kernel: KernelVersion, lock: Lock) -> Result<Self> {
        let (maps, lock) = maps_in_force(lock)?;
        Ok(Self {
            maps,
            interfaces: interfaces()?,
            kernel,
            pass: OnceCell::new(),
            socket: OnceCell::new(),
            _lock: lock,
        })
    }

    /// All that the tracker knows.
    pub(crate) fn track(&self) -> Result<Track> {
        self.maps.read()
    }

    /// A subflow as it is now, if its handshake is proven.
    pub(crate) fn subflow(&self, ends: &Ends) -> Result<Option<TrackSubflow>> {
        TrackMaps::subflow(&self.maps.subflows, ends)
    }

    /// The frame for a direction of a subflow, as it is now.
    ///
    /// # Errors
    ///
    /// What is not known of it, or that the frame would harm the connection.
    pub(crate) fn frame(&self, ends: &Ends, direction: usize) -> Result<Frame> {
        self.made(ends, direction, frame::frame)
    }

    /// The same for a data ACK, which may be the first one of its direction.
    ///
    /// # Errors
    ///
    /// As for [`Frames::frame`].
    pub(crate) fn frame_of_data_ack(&self, ends: &Ends, direction: usize) -> Result<Frame> {
        self.made(ends, direction, frame::frame_of_data_ack)
    }

    fn made(
        &self,
        ends: &Ends,
        direction: usize,
        make: impl FnOnce(&Ends, &TrackSubflow, usize, &Interfaces, u64) -> Result<Frame>,
    ) -> Result<Frame> {
        let sub = self.subflow(ends)?;
        let sub = sub.ok_or_else(|| anyhow!("{} has ended", frame::name(ends)))?;
        let frame = make(ends, &sub, direction, &self.interfaces, sys::boot_time()?)?;
        if matches!(frame.place, Place::Arrives { .. }) && self.kernel < LIVE_FRAMES {
            bail!(
                "the frame would have to arrive at {}, which needs Linux {LIVE_FRAMES}; this is {}",
                frame.place.interface(),
                self.kernel
            );
        }
        Ok(frame)
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// The option does not fit; the kernel's.
    pub(crate) fn send(&self, frame: &Frame, option: &Opt) -> Result<()> {
        let bytes = frame.ack.bytes(option)?;
        match &frame.place {
            Place::Arrives { ifindex, interface } => {
                sys::receive_frame(self.pass()?, *ifindex, &bytes)
                    .with_context(|| format!("cannot let a frame arrive at {interface}"))
            }
            Place::Leaves { ifindex, interface } => {
                let protocol = match frame.ack.l2.get(12..14) {
                    Some(ether) => u16::from_be_bytes([ether[0], ether[1]]),
                    None if frame.ack.to.is_ipv4() => IPV4,
                    None => IPV6,
                };
                sys::send_frame(self.socket()?, *ifindex, protocol, &bytes)
                    .with_context(|| format!("cannot send a frame by {interface}"))
            }
        }
    }

    fn socket(&self) -> Result<&OwnedFd> {
        if let Some(socket) = self.socket.get() {
            return Ok(socket);
        }
        let socket = sys::frame_socket().map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => anyhow!(
                "frames that leave are sent with a packet socket, which needs CAP_NET_RAW: run it \
                 as root, or with that capability too"
            ),
            _ => anyhow!(error).context("cannot open a packet socket"),
        })?;
        Ok(self.socket.get_or_init(|| socket))
    }

    fn pass(&self) -> Result<&OwnedFd> {
        if let Some(program) = self.pass.get() {
            return Ok(program);
        }
        let program = sys::prog_load(&Load {
            name: "emptcp_pass",
            xdp: true,
            frags: false,
            insns: &Insn::returns(XDP_PASS),
            btf: None,
            func_info: &Records::default(),
            line_info: &Records::default(),
            explain: false,
        });
        let program = program.map_err(|refused| {
            anyhow!(refused.error).context("cannot load the program that passes frames")
        })?;
        Ok(self.pass.get_or_init(|| program))
    }
}
