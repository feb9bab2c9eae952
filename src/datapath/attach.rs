//! Entry programs at interfaces: TCX where the kernel has it, else clsact; XDP
//! by link. What others attached stays, and runs before and behind ours.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::ErrorKind;
use libbpf_rs::TC_EGRESS;
use libbpf_rs::TC_INGRESS;
use libbpf_rs::TcHook;
use libbpf_rs::TcHookBuilder;
use libbpf_rs::Xdp;
use libbpf_rs::XdpFlags;
use libbpf_rs::query::LinkInfo;
use libbpf_rs::query::LinkTypeInfo;

use super::netlink;
use super::netlink::interfaces;
use super::stored::StoredAttachment;
use super::stored::Via;
use super::stored::attachment_id;
use crate::interface::Interface;
use crate::interface::Interfaces;
use crate::module::Hook;
use crate::pin;
use crate::pin::Home;
use crate::plan::MOST_PARTS;
use crate::policy::Position;
use crate::policy::XdpMode;
use crate::policy::XdpOptions;
use crate::sys;
use crate::sys::LinkAt;
use crate::sys::TcxPlace;

/// Name of the entry program, as the kernel cuts it.
const ENTRY_NAME: &str = "emptcp_entry_ru";
/// Handle of our filters.
const HANDLE: u32 = 0xe;
/// Priority of our filters: behind those with a smaller one.
const PRIORITY: u32 = 50_000;
/// Priority where a policy wants to be first.
const PRIORITY_FIRST: u32 = 1;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of the uapi.
const XDP_GENERIC: u32 = 1 << 1;
const XDP_NATIVE: u32 = 1 << 2;

/// One attachment that is wanted.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) interface: &'a Interface,
    pub(super) hook: Hook,
    /// Which of the programs that the policy is split over here.
    pub(super) part: usize,
    pub(super) xdp: XdpOptions,
    pub(super) position: &'a Position,
    /// Another part, which decides more than the position does.
    pub(super) neighbour: Option<Neighbour>,
}

/// Where a part belongs at TCX: next to the program of this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    Behind(u32),
    Before(u32),
}

impl Wanted<'_> {
    /// Identity of the attachment: see [`StoredAttachment::id`].
    pub(super) fn id(&self) -> String {
        attachment_id(
            self.interface.index,
            self.hook.name(),
            self.part,
            &self.options(),
        )
    }

    /// What cannot be changed at an attachment that is there.
    pub(super) fn options(&self) -> String {
        match self.hook {
            Hook::Xdp => format!("{:?}", self.xdp.mode),
            _ => format!("{:?}", self.position),
        }
    }
}

/// What attaching did.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) via: Via,
    /// How to take it back.
    pub(super) undo: Undo,
}

/// Takes an exchange of programs back.
#[derive(Debug)]
pub(super) enum Undo {
    /// Detach what was not there before.
    Detach(At),
    /// The program that was there before.
    Exchange(At, OwnedFd),
    /// The XDP program that was there before, in its mode.
    Reattach(At, OwnedFd, Box<StoredAttachment>),
}

impl Undo {
    pub(super) fn run(self) -> Result<()> {
        match self {
            Undo::Detach(at) => at.detach(),
            Undo::Exchange(at, program) => at.exchange(&program),
            Undo::Reattach(at, program, before) => {
                at.detach()?;
                reattach_xdp(&at, &program, &before)
            }
        }
    }
}

/// A place that has a program of ours.
#[derive(Clone, Debug)]
pub(super) enum At {
    /// A link that is pinned there.
    Link(PathBuf),
    Filter {
        ifindex: u32,
        hook: Hook,
        priority: u32,
    },
}

impl At {
    pub(super) fn exchange(&self, program: impl AsFd) -> Result<()> {
        match self {
            At::Link(pin) => {
                let link = sys::open_pin(pin)
                    .with_context(|| format!("cannot open the link {}", pin.display()))?;
                sys::link_update(&link, &program)
                    .with_context(|| format!("cannot exchange the program of {}", pin.display()))
            }
            At::Filter {
                ifindex,
                hook,
                priority,
            } => {
                filter(program.as_fd(), *ifindex, *hook, *priority)
                    .replace(true)
                    .attach()
                    .context("cannot exchange the program of a filter")?;
                Ok(())
            }
        }
    }

    pub(super) fn detach(&self) -> Result<()> {
        match self {
            At::Link(pin) => {
                if let Ok(link) = sys::open_pin(pin) {
                    // Now: what goes with its last reference goes later, and XDP would be taken. An
                    // error says that the interface has gone.
                    let _ = sys::link_detach(&link);
                }
                pin::remove(pin)
            }
            At::Filter {
                ifindex,
                hook,
                priority,
            } => {
                if interfaces()?.by_index(*ifindex).is_none() {
                    return Ok(());
                }
                match filter_of_any(*ifindex, *hook, *priority).detach() {
                    Err(e) if !is_absent(&e) => Err(e).context("cannot remove a filter"),
                    _ => Ok(()),
                }
            }
        }
    }
}

fn filter(program: BorrowedFd<'_>, ifindex: u32, hook: Hook, priority: u32) -> TcHook {
    let point = if hook == Hook::TcEgress {
        TC_EGRESS
    } else {
        TC_INGRESS
    };
    TcHookBuilder::new(program)
        .ifindex(ifindex as i32)
        .handle(HANDLE)
        .priority(priority)
        .hook(point)
}

/// A filter to ask for or to remove: [`TcHook`] wants a program there too, and uses none.
fn filter_of_any(ifindex: u32, hook: Hook, priority: u32) -> TcHook {
    filter(io::stderr().as_fd(), ifindex, hook, priority)
}

/// Folder of the pins of links, by the ids of their attachments.
pub(super) const LINKS: &str = "links";

/// The place of an attachment in force.
pub(super) fn place(home: &Home, stored: &StoredAttachment) -> Result<At> {
    let hook: Hook = stored.hook.parse().map_err(|e: String| anyhow!(e))?;
    Ok(match stored.via {
        Via::Tcx | Via::Xdp => At::Link(home.join(LINKS).join(stored.id())),
        Via::Clsact => At::Filter {
            ifindex: stored.ifindex,
            hook,
            priority: priority(&stored.options, stored.part),
        },
    })
}

/// Parts have consecutive priorities.
fn priority(options: &str, part: usize) -> u32 {
    let first = if options == "First" {
        PRIORITY_FIRST
    } else {
        PRIORITY
    };
    first + part as u32
}

/// Whether filters of ours may have this priority.
fn is_our_priority(priority: u32) -> bool {
    [PRIORITY, PRIORITY_FIRST]
        .into_iter()
        .any(|first| (first..first + MOST_PARTS as u32).contains(&priority))
}

/// Id of the program of ours that really runs at an attachment; `None` if none does. `here`: the
/// interfaces of this network namespace.
///
/// # Errors
///
/// It cannot be known: no descriptor left, no memory.
pub(super) fn running(
    home: &Home,
    stored: &StoredAttachment,
    here: &Interfaces,
) -> Result<Option<u32>> {
    let Some(interface) = here.by_index(stored.ifindex) else {
        return Ok(None);
    };
    match place(home, stored)? {
        At::Link(pin) => {
            let link = match sys::open_pin(&pin) {
                Ok(link) => link,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e).with_context(|| format!("cannot open {}", pin.display())),
            };
            let info = LinkInfo::from_fd(link.as_fd())?;
            // Of an interface that is gone the link stays, without it; with one that is in another
            // network namespace now it has gone there, where the index may be the same.
            let id = info.prog_id;
            let runs = match info.info {
                LinkTypeInfo::Xdp(xdp) => {
                    xdp.ifindex == stored.ifindex && interface.xdp_program == Some(id)
                }
                LinkTypeInfo::Tcx(tcx) => {
                    let egress = stored.hook == Hook::TcEgress.name();
                    tcx.ifindex == stored.ifindex
                        && sys::tcx_programs(stored.ifindex, egress)?.contains(&id)
                }
                _ => false,
            };
            Ok(runs.then_some(id))
        }
        At::Filter {
            ifindex,
            hook,
            priority,
        } => {
            let found = filter_of_any(ifindex, hook, priority).query();
            match found {
                Ok(id) => Ok(Some(id)),
                Err(e) if is_absent(&e) => Ok(None),
                Err(e) => Err(e).context("cannot look at a filter"),
            }
        }
    }
}

/// There is no such filter, or no qdisc that could have one: ENOENT, EINVAL.
fn is_absent(error: &libbpf_rs::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput)
}

/// Whether this kernel has TCX (Linux 6.6).
pub(super) fn has_tcx(ifindex: u32) -> bool {
    // Tests of the other way need no old kernel.
    if cfg!(feature = "failpoints") && std::env::var_os("EMPTCP_NO_TCX").is_some() {
        return false;
    }
    // Asking takes the kernel's lock on all interfaces: once is enough.
    static KNOWN: AtomicBool = AtomicBool::new(false);
    if !KNOWN.load(Ordering::Relaxed) {
        KNOWN.store(sys::tcx_programs(ifindex, false).is_ok(), Ordering::Relaxed);
    }
    KNOWN.load(Ordering::Relaxed)
}

/// An attachment in force.
#[derive(Clone, Debug)]
pub(super) struct Present<'a> {
    pub(super) stored: &'a StoredAttachment,
    /// Pin of its entry program.
    pub(super) entry: PathBuf,
}

impl Present<'_> {
    /// The program, of which the id is known. By its pin: to open a program by its id takes
    /// CAP_SYS_ADMIN.
    fn program(&self, id: u32) -> Result<OwnedFd> {
        if let Ok(program) = sys::open_pin(&self.entry)
            && sys::program_info(&program).is_ok_and(|(found, _)| found == id)
        {
            return Ok(program);
        }
        sys::program_by_id(id).context("cannot open the program in force")
    }
}

/// Attaches a program, or exchanges the one that is there. `here`: as for [`running`].
///
/// # Errors
///
/// XDP is taken by somebody else, an interface that is gone, the kernel's.
pub(super) fn attach(
    home: &Home,
    wanted: &Wanted<'_>,
    present: Option<&Present<'_>>,
    here: &Interfaces,
    program: impl AsFd,
) -> Result<Attached> {
    let index = wanted.interface.index;
    let anew = || {
        if wanted.hook == Hook::Xdp || has_tcx(index) {
            attach_link(home, wanted, &program)
        } else {
            attach_filter(home, wanted, &program)
        }
    };
    let Some(present) = present else {
        return anew();
    };
    let before = present;
    let present = before.stored;
    let at = place(home, present)?;
    let Some(id) = running(home, present, here)? else {
        // Gone with its interface, or removed by somebody else.
        at.detach()?;
        return anew();
    };
    let before = before.program(id)?;
    if present.options == wanted.options() {
        at.exchange(&program)?;
        return Ok(Attached {
            via: present.via,
            undo: Undo::Exchange(at, before),
        });
    }
    // Another mode of XDP, of which an interface has one at a time: packets pass in between.
    at.detach()?;
    match anew() {
        Ok(attached) => Ok(Attached {
            undo: Undo::Reattach(at, before, Box::new(present.clone())),
            ..attached
        }),
        Err(error) => {
            reattach_xdp(&at, &before, present)?;
            Err(error)
        }
    }
}

/// Puts an XDP program back where it was.
fn reattach_xdp(at: &At, program: &OwnedFd, before: &StoredAttachment) -> Result<()> {
    let At::Link(pin) = at else {
        return Ok(());
    };
    let modes = [XdpMode::Native, XdpMode::Generic];
    let mode = modes
        .into_iter()
        .find(|m| format!("{m:?}") == before.options)
        .unwrap_or_default();
    let link = create_xdp(program, before.ifindex, mode)
        .with_context(|| format!("cannot attach to xdp of {} again", before.interface))?;
    sys::pin(&link, pin).with_context(|| format!("cannot pin {}", pin.display()))
}

fn attach_link(home: &Home, wanted: &Wanted<'_>, program: impl AsFd) -> Result<Attached> {
    let index = wanted.interface.index;
    let pin = home.join(LINKS).join(wanted.id());
    // Left behind by an apply that was killed.
    At::Link(pin.clone()).detach()?;
    let (via, link) = match wanted.hook {
        Hook::Xdp => (Via::Xdp, attach_xdp(wanted, &program)?),
        Hook::TcIngress | Hook::TcEgress => {
            let egress = wanted.hook == Hook::TcEgress;
            let place = tcx_place(wanted, egress)?;
            let at = if egress {
                LinkAt::TcxEgress(place)
            } else {
                LinkAt::TcxIngress(place)
            };
            (
                Via::Tcx,
                sys::link_create(&program, index, at).with_context(|| failed(wanted))?,
            )
        }
    };
    pin::create_folder(&home.join(LINKS))?;
    sys::pin(&link, &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    Ok(Attached {
        via,
        undo: Undo::Detach(At::Link(pin)),
    })
}

fn failed(wanted: &Wanted<'_>) -> String {
    format!(
        "cannot attach to {} of {}",
        wanted.hook, wanted.interface.name
    )
}

fn tcx_place(wanted: &Wanted<'_>, egress: bool) -> Result<TcxPlace> {
    let index = wanted.interface.index;
    match wanted.neighbour {
        Some(Neighbour::Behind(id)) => return Ok(TcxPlace::Behind(id)),
        Some(Neighbour::Before(id)) => return Ok(TcxPlace::Before(id)),
        None => {}
    }
    Ok(match wanted.position {
        Position::Last => TcxPlace::Last,
        Position::First => TcxPlace::First,
        Position::BeforeId(id) => TcxPlace::Before(*id),
        Position::BeforeName(name) => {
            let there = sys::tcx_programs(index, egress)?;
            let mut found = None;
            for id in there {
                let program = sys::program_by_id(id).and_then(sys::program_info);
                match program {
                    Ok((_, n)) if n == *name => found = Some(id),
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                        bail!(
                            "{}: to find programs by name takes CAP_SYS_ADMIN; an id needs none: \
                             {{\"before\": {id}}}",
                            failed(wanted)
                        )
                    }
                    _ => continue,
                }
                break;
            }
            TcxPlace::Before(found.with_context(|| {
                format!(
                    "{}: no program {name:?} is there to stand before",
                    failed(wanted)
                )
            })?)
        }
    })
}

fn attach_xdp(wanted: &Wanted<'_>, program: impl AsFd) -> Result<OwnedFd> {
    let interface = wanted.interface;
    if let Some(id) = occupant(interface) {
        let name = sys::program_by_id(id)
            .and_then(sys::program_info)
            .map_or_else(|_| "?".to_owned(), |(_, name)| name);
        if !wanted.xdp.replace {
            bail!(
                "{}: the XDP program {name} (id {id}) is there already; remove it (ip link set dev {} \
                 xdp off), or say \"xdp\": {{\"replace\": true}}",
                failed(wanted),
                interface.name
            );
        }
        Xdp::new(program.as_fd())
            .detach(interface.index as i32, XdpFlags::NONE)
            .with_context(|| format!("cannot remove the XDP program {name} (id {id})"))?;
    }
    let link = create_xdp(&program, interface.index, wanted.xdp.mode);
    link.map_err(|e: io::Error| match (e.raw_os_error(), wanted.xdp.mode) {
        (Some(libc::EOPNOTSUPP), XdpMode::Native) => {
            anyhow!(
                "{}: its driver has no native XDP; use mode auto or generic",
                failed(wanted)
            )
        }
        _ => anyhow::Error::new(e).context(failed(wanted)),
    })
}

fn create_xdp(program: impl AsFd, ifindex: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    let create = |flags| sys::link_create(&program, ifindex, LinkAt::Xdp(flags));
    match mode {
        XdpMode::Native => create(XDP_NATIVE),
        XdpMode::Generic => create(XDP_GENERIC),
        XdpMode::Auto => create(XDP_NATIVE).or_else(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE) => create(XDP_GENERIC),
            _ => Err(e),
        }),
    }
}

/// The program that is at XDP of an interface, asked anew: ours may just have been removed.
fn occupant(interface: &Interface) -> Option<u32> {
    let now = interfaces().ok()?;
    now.by_index(interface.index)?.xdp_program
}

fn attach_filter(home: &Home, wanted: &Wanted<'_>, program: impl AsFd) -> Result<Attached> {
    let index = wanted.interface.index;
    let priority = priority(&wanted.options(), wanted.part);
    if matches!(
        wanted.position,
        Position::BeforeId(_) | Position::BeforeName(_)
    ) {
        bail!(
            "{}: a position before another program needs TCX (Linux 6.6)",
            failed(wanted)
        );
    }
    let mut hook = filter(program.as_fd(), index, wanted.hook, priority);
    // Noted first: an apply that is killed leaves no qdisc that nobody knows of.
    let note = qdisc_note(home, index);
    let is_ours = note.exists();
    pin::create_folder(&note)?;
    let created = hook.create();
    if created.is_err() && !is_ours {
        pin::remove(&note)?;
    }
    if let Err(e) = created
        && e.kind() != ErrorKind::AlreadyExists
    {
        return Err(e).with_context(|| format!("{}: no clsact qdisc", failed(wanted)));
    }
    if let Ok(id) = hook.query() {
        let program = sys::program_by_id(id).and_then(sys::program_info);
        if !program.is_ok_and(|(_, n)| n == ENTRY_NAME) {
            bail!(
                "{}: priority {priority} and handle {HANDLE} of tc are taken by program {id}",
                failed(wanted)
            );
        }
        // Left behind by an apply that was killed.
        hook.replace(true);
    }
    hook.attach().with_context(|| failed(wanted))?;
    let at = At::Filter {
        ifindex: index,
        hook: wanted.hook,
        priority,
    };
    Ok(Attached {
        via: Via::Clsact,
        undo: Undo::Detach(at),
    })
}

/// A folder that stands for a clsact qdisc that we made.
fn qdisc_note(home: &Home, ifindex: u32) -> PathBuf {
    home.join(QDISCS).join(ifindex.to_string())
}

/// Folder of the notes of qdiscs.
const QDISCS: &str = "qdiscs";

/// Removes the qdiscs that we made, where nobody has a filter any more; `used`: interfaces where
/// we have.
pub(super) fn sweep_qdiscs(home: &Home, used: impl Fn(u32) -> bool) -> Result<()> {
    for name in pin::list(&home.join(QDISCS))? {
        let ifindex = name.parse().unwrap_or(0);
        if used(ifindex) {
            continue;
        }
        if netlink::clsact_filters(ifindex).is_ok_and(|filters| filters.is_empty()) {
            // Somebody else may have removed it already.
            let _ = TcHookBuilder::new(io::stderr().as_fd())
                .ifindex(ifindex as i32)
                .hook(TC_INGRESS | TC_EGRESS)
                .destroy();
        }
        pin::remove(&qdisc_note(home, ifindex))?;
    }
    pin::remove_if_empty(&home.join(QDISCS));
    Ok(())
}

/// Removes filters of ours that no stored policy knows of: an apply was killed. `known`: those
/// that it knows. Links need no search, their pins tell.
pub(super) fn sweep_filters(ifindex: u32, known: &[&StoredAttachment]) {
    if has_tcx(ifindex) {
        return;
    }
    for (hook, priority, handle) in netlink::clsact_filters(ifindex).unwrap_or_default() {
        let is_known = known
            .iter()
            .any(|a| a.hook == hook.name() && self::priority(&a.options, a.part) == priority);
        if handle != HANDLE || is_known || !is_our_priority(priority) {
            continue;
        }
        let at = At::Filter {
            ifindex,
            hook,
            priority,
        };
        let Ok(id) = filter_of_any(ifindex, hook, priority).query() else {
            continue;
        };
        let name = sys::program_by_id(id)
            .and_then(sys::program_info)
            .map(|(_, n)| n);
        if name.is_ok_and(|n| n == ENTRY_NAME) {
            // It runs nothing any more; the next apply tries again.
            let _ = at.detach();
        }
    }
}
