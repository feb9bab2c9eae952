//! Structures shared with the BPF programs, taken from the skeleton of the
//! entry program: `include/emptcp/abi.h` is their one definition.

#![allow(unsafe_code)]

#[allow(missing_docs, unreachable_pub, unused, clippy::all)]
#[allow(
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used
)]
mod entry_tc {
    include!(concat!(env!("OUT_DIR"), "/entry_tc.skel.rs"));
}

use std::mem::offset_of;
use std::sync::LazyLock;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Enum;

pub(crate) use self::entry_tc::types::__sk_buff as SkBuff;
pub(crate) use self::entry_tc::types::emptcp_addr as Addr;
pub(crate) use self::entry_tc::types::emptcp_chain_words as ChainWords;
pub(crate) use self::entry_tc::types::emptcp_counter as Counter;
use self::entry_tc::types::emptcp_counters;
pub(crate) use self::entry_tc::types::emptcp_entry as Entry;
pub(crate) use self::entry_tc::types::emptcp_entry_side as EntrySide;
pub(crate) use self::entry_tc::types::emptcp_event as Event;
pub(crate) use self::entry_tc::types::emptcp_event_add_addr as EventAddAddr;
use self::entry_tc::types::emptcp_event_add_addr_flags;
pub(crate) use self::entry_tc::types::emptcp_event_connection as EventConnection;
pub(crate) use self::entry_tc::types::emptcp_event_fallback as EventFallback;
use self::entry_tc::types::emptcp_event_flags;
pub(crate) use self::entry_tc::types::emptcp_event_prio as EventPrio;
pub(crate) use self::entry_tc::types::emptcp_event_quota as EventQuota;
pub(crate) use self::entry_tc::types::emptcp_event_remove_addr as EventRemoveAddr;
pub(crate) use self::entry_tc::types::emptcp_event_subflow as EventSubflow;
use self::entry_tc::types::emptcp_event_subflow_flags;
pub(crate) use self::entry_tc::types::emptcp_event_threshold as EventThreshold;
use self::entry_tc::types::emptcp_event_what;
use self::entry_tc::types::emptcp_fallback;
use self::entry_tc::types::emptcp_frame;
use self::entry_tc::types::emptcp_framing;
pub(crate) use self::entry_tc::types::emptcp_from_table as FromTable;
pub(crate) use self::entry_tc::types::emptcp_generation as Generation;
pub(crate) use self::entry_tc::types::emptcp_handover as Handover;
pub(crate) use self::entry_tc::types::emptcp_held_join as HeldJoin;
pub(crate) use self::entry_tc::types::emptcp_held_state as HeldState;
use self::entry_tc::types::emptcp_hook;
pub(crate) use self::entry_tc::types::emptcp_is as Is;
pub(crate) use self::entry_tc::types::emptcp_links as Links;
use self::entry_tc::types::emptcp_mark;
use self::entry_tc::types::emptcp_number;
pub(crate) use self::entry_tc::types::emptcp_pending as Pending;
pub(crate) use self::entry_tc::types::emptcp_prio_wish as PrioWish;
use self::entry_tc::types::emptcp_reason;
pub(crate) use self::entry_tc::types::emptcp_ring_packet as RingPacket;
use self::entry_tc::types::emptcp_ring_packet_flags;
use self::entry_tc::types::emptcp_ring_reader;
use self::entry_tc::types::emptcp_ring_reader_flags;
use self::entry_tc::types::emptcp_ring_type;
use self::entry_tc::types::emptcp_slot;
pub(crate) use self::entry_tc::types::emptcp_stash_list as StashList;
pub(crate) use self::entry_tc::types::emptcp_stash_owner as StashOwner;
use self::entry_tc::types::emptcp_step_flags;
pub(crate) use self::entry_tc::types::emptcp_subflow as SubflowKey;
pub(crate) use self::entry_tc::types::emptcp_track_conn as TrackConn;
pub(crate) use self::entry_tc::types::emptcp_track_conn_flags as ConnFlags;
pub(crate) use self::entry_tc::types::emptcp_track_flags as TrackFlags;
pub(crate) use self::entry_tc::types::emptcp_track_key as TrackKey;
pub(crate) use self::entry_tc::types::emptcp_track_kind as TrackKind;
use self::entry_tc::types::emptcp_track_kind;
pub(crate) use self::entry_tc::types::emptcp_track_list as TrackList;
pub(crate) use self::entry_tc::types::emptcp_track_place as TrackPlace;
pub(crate) use self::entry_tc::types::emptcp_track_state as TrackState;
pub(crate) use self::entry_tc::types::emptcp_track_subflow as TrackSubflow;
pub(crate) use self::entry_tc::types::emptcp_track_way as TrackWay;
pub(crate) use self::entry_tc::types::emptcp_track_way_flags as WayFlags;
use self::entry_tc::types::emptcp_way;
use self::entry_tc::types::rodata;

use crate::module::Family;
use crate::module::Hook;

/// `EMPTCP_ABI` of `abi.h`: modules carry it as a tag.
pub(crate) const ABI: &str = "1";

/// Slot of a step that leads out of emptcp: the packet passes.
pub(crate) const SLOT_PASS: u32 = emptcp_slot::EMPTCP_SLOT_PASS.0;
/// Slot of a step that leads to a drop.
pub(crate) const SLOT_DROP: u32 = emptcp_slot::EMPTCP_SLOT_DROP.0;
/// Ways on from a step, in their order: match, miss, error.
pub(crate) const WAYS: usize = emptcp_way::EMPTCP_WAY_MAX.0 as usize;
/// Numbers that are written into a step.
pub(crate) const NUMBERS: usize = emptcp_number::EMPTCP_NUMBER_MAX.0 as usize;
/// Number: slot of the program to which a way leads; with the way.
pub(crate) const NUMBER_SLOT: usize = emptcp_number::EMPTCP_NUMBER_SLOT.0 as usize;
/// Number: offset of the counters in their block.
pub(crate) const NUMBER_COUNTER: usize = emptcp_number::EMPTCP_NUMBER_COUNTER.0 as usize;
/// Number: the hook.
pub(crate) const NUMBER_HOOK: usize = emptcp_number::EMPTCP_NUMBER_HOOK.0 as usize;
/// Offsets in the stack frame for what joined steps hand on: placeholders.
pub(crate) const FRAME: std::ops::Range<i16> =
    emptcp_frame::EMPTCP_FRAME_COUNTERS.0 as i16..emptcp_frame::EMPTCP_FRAME_END.0 as i16;
/// Steps whose counters lie in one map.
pub(crate) const COUNTER_BLOCK: u32 = (size_of::<emptcp_counters>() / size_of::<Counter>()) as u32;
/// The step looks a table of the policy up.
pub(crate) const STEP_TABLE: u32 = emptcp_step_flags::EMPTCP_STEP_TABLE.0;
/// That table is one of addresses.
pub(crate) const STEP_ADDR_TABLE: u32 = emptcp_step_flags::EMPTCP_STEP_ADDR_TABLE.0;
/// Its entries expire.
pub(crate) const STEP_TIMED: u32 = emptcp_step_flags::EMPTCP_STEP_TIMED.0;
/// The step leaves the value that it finds to actors behind.
pub(crate) const STEP_LEAVES_VALUE: u32 = emptcp_step_flags::EMPTCP_STEP_LEAVES_VALUE.0;
/// Tables from which the actors of a chain can take values (`EMPTCP_VALUE_SLOTS`).
pub(crate) const VALUE_SLOTS: usize =
    (offset_of!(ChainWords, entries) - offset_of!(ChainWords, values)) / size_of::<u64>();
/// Parameters of a step that can come from tables (`EMPTCP_FROM_TABLE_MAX`).
pub(crate) const MOST_FROM_TABLE: usize =
    (offset_of!(Links, pad) - offset_of!(Links, from_table)) / size_of::<FromTable>();
/// Bytes of parameters that a step can have of which some come from tables (`EMPTCP_OWN_MAX` of
/// `values.h`).
pub(crate) const MOST_OWN: usize = 128;
/// Reasons of each hook in the map of reasons.
pub(crate) const REASONS: usize = emptcp_reason::EMPTCP_REASON_MAX.0 as usize;
/// `EMPTCP_RING_VERSION` of `ring.h`.
pub(crate) const RING_VERSION: u8 = 1;
/// Type of the record of a packet.
pub(crate) const RING_PACKET: u8 = emptcp_ring_type::EMPTCP_RING_PACKET.0 as u8;
/// Types of the records of events.
pub(crate) const RING_CONNECTION: u8 = emptcp_ring_type::EMPTCP_RING_CONNECTION.0 as u8;
pub(crate) const RING_SUBFLOW: u8 = emptcp_ring_type::EMPTCP_RING_SUBFLOW.0 as u8;
pub(crate) const RING_FALLBACK: u8 = emptcp_ring_type::EMPTCP_RING_FALLBACK.0 as u8;
pub(crate) const RING_ADD_ADDR: u8 = emptcp_ring_type::EMPTCP_RING_ADD_ADDR.0 as u8;
pub(crate) const RING_REMOVE_ADDR: u8 = emptcp_ring_type::EMPTCP_RING_REMOVE_ADDR.0 as u8;
pub(crate) const RING_PRIO: u8 = emptcp_ring_type::EMPTCP_RING_PRIO.0 as u8;
pub(crate) const RING_THRESHOLD: u8 = emptcp_ring_type::EMPTCP_RING_THRESHOLD.0 as u8;
pub(crate) const RING_QUOTA: u8 = emptcp_ring_type::EMPTCP_RING_QUOTA.0 as u8;
/// What is so for an event.
pub(crate) const EVENT_HAS_TOKEN: u8 = emptcp_event_flags::EMPTCP_EVENT_HAS_TOKEN.0 as u8;
pub(crate) const EVENT_HAS_CLIENT_TOKEN: u8 =
    emptcp_event_flags::EMPTCP_EVENT_HAS_CLIENT_TOKEN.0 as u8;
pub(crate) const EVENT_FROM_CLIENT: u8 = emptcp_event_flags::EMPTCP_EVENT_FROM_CLIENT.0 as u8;
pub(crate) const EVENT_FROM_SERVER: u8 = emptcp_event_flags::EMPTCP_EVENT_FROM_SERVER.0 as u8;
/// What is so for the ends of a subflow.
pub(crate) const EVENT_SRC_HAS_ID: u8 = emptcp_event_subflow_flags::EMPTCP_EVENT_SRC_HAS_ID.0 as u8;
pub(crate) const EVENT_DST_HAS_ID: u8 = emptcp_event_subflow_flags::EMPTCP_EVENT_DST_HAS_ID.0 as u8;
pub(crate) const EVENT_SRC_ASKS_BACKUP: u8 =
    emptcp_event_subflow_flags::EMPTCP_EVENT_SRC_ASKS_BACKUP.0 as u8;
pub(crate) const EVENT_DST_ASKS_BACKUP: u8 =
    emptcp_event_subflow_flags::EMPTCP_EVENT_DST_ASKS_BACKUP.0 as u8;
/// What is so for an ADD_ADDR.
pub(crate) const EVENT_ECHO: u8 = emptcp_event_add_addr_flags::EMPTCP_EVENT_ECHO.0 as u8;
pub(crate) const EVENT_HAS_PORT: u8 = emptcp_event_add_addr_flags::EMPTCP_EVENT_HAS_PORT.0 as u8;
/// Something began.
pub(crate) const EVENT_OPENED: u8 = emptcp_event_what::EMPTCP_EVENT_OPENED.0 as u8;
/// Of such a record: keys and HMACs are zero.
pub(crate) const RING_NO_KEYS: u32 = emptcp_ring_packet_flags::EMPTCP_RING_NO_KEYS.0;
/// The reader of a ring asks for keys and HMACs too.
pub(crate) const RING_READS_KEYS: u64 = emptcp_ring_reader_flags::EMPTCP_RING_READS_KEYS.0 as u64;
/// Offset of the time until which a ring is read.
pub(crate) const RING_UNTIL: usize = offset_of!(emptcp_ring_reader, until);
/// Offset of what its reader asks for.
pub(crate) const RING_FLAGS: usize = offset_of!(emptcp_ring_reader, flags);

/// `EMPTCP_WSCALE_UNKNOWN` of `track.h`.
pub(crate) const WSCALE_UNKNOWN: u8 = 0xff;
/// `EMPTCP_DIRECTION_UNKNOWN` of `track.h`.
pub(crate) const DIRECTION_UNKNOWN: u8 = 0xff;

// SAFETY: plain integers without padding, any bytes are a value.
unsafe impl plain::Plain for Counter {}
// SAFETY: as above.
unsafe impl plain::Plain for RingPacket {}
// SAFETY: as above.
unsafe impl plain::Plain for Event {}
// SAFETY: as above.
unsafe impl plain::Plain for EventConnection {}
// SAFETY: as above.
unsafe impl plain::Plain for EventSubflow {}
// SAFETY: as above.
unsafe impl plain::Plain for EventFallback {}
// SAFETY: as above.
unsafe impl plain::Plain for EventAddAddr {}
// SAFETY: as above.
unsafe impl plain::Plain for EventRemoveAddr {}
// SAFETY: as above.
unsafe impl plain::Plain for EventPrio {}
// SAFETY: as above.
unsafe impl plain::Plain for EventThreshold {}
// SAFETY: as above.
unsafe impl plain::Plain for EventQuota {}
// SAFETY: as above.
unsafe impl plain::Plain for Generation {}
// SAFETY: as above.
unsafe impl plain::Plain for Links {}
// SAFETY: as above.
unsafe impl plain::Plain for Entry {}
// SAFETY: as above.
unsafe impl plain::Plain for SubflowKey {}
// SAFETY: as above.
unsafe impl plain::Plain for TrackKey {}
// SAFETY: as above.
unsafe impl plain::Plain for TrackPlace {}
// SAFETY: as above.
unsafe impl plain::Plain for TrackSubflow {}
// SAFETY: as above.
unsafe impl plain::Plain for TrackConn {}
// SAFETY: as above.
unsafe impl plain::Plain for Pending {}
// SAFETY: as above; its enum is a newtype of an integer.
unsafe impl plain::Plain for HeldJoin {}
// SAFETY: as above.
unsafe impl plain::Plain for PrioWish {}
// SAFETY: as above.
unsafe impl plain::Plain for StashOwner {}
// SAFETY: as above.
unsafe impl plain::Plain for StashList {}

/// A place in a module's instructions into which the loader writes (`step.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A jump that is there or not; number of [`Is`].
    Is(u32),
    /// A number, by `enum emptcp_number`.
    Number(usize),
    /// A jump to another step, by its way.
    Jump(usize),
}

impl Mark {
    /// The mark that a number is, if it is one.
    pub(crate) fn of(imm: i32) -> Option<Self> {
        let from = |mark: emptcp_mark, max: u32| {
            let number = (imm as u32).checked_sub(mark.0)?;
            (number < max).then_some(number)
        };
        if let Some(what) = from(emptcp_mark::EMPTCP_MARK_IS, Is::EMPTCP_IS_MAX.0) {
            return Some(Self::Is(what));
        }
        if let Some(which) = from(emptcp_mark::EMPTCP_MARK_NUMBER, NUMBERS as u32) {
            return Some(Self::Number(which as usize));
        }
        from(emptcp_mark::EMPTCP_MARK_JUMP, WAYS as u32).map(|way| Self::Jump(way as usize))
    }
}

/// What the first byte of a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Framing {
    /// Ethernet.
    Ether,
    /// IP without a link layer.
    Ip,
}

impl Framing {
    /// The number that the programs know it by.
    pub(crate) fn number(self) -> u8 {
        let framing = match self {
            Framing::Ether => emptcp_framing::EMPTCP_FRAMING_ETHER,
            Framing::Ip => emptcp_framing::EMPTCP_FRAMING_IP,
        };
        framing.0 as u8
    }
}

/// The number that the programs know a hook by.
pub(crate) fn hook_number(hook: Hook) -> u8 {
    let number = match hook {
        Hook::Xdp => emptcp_hook::EMPTCP_HOOK_XDP,
        Hook::TcIngress => emptcp_hook::EMPTCP_HOOK_TC_INGRESS,
        Hook::TcEgress => emptcp_hook::EMPTCP_HOOK_TC_EGRESS,
    };
    number.0 as u8
}

/// Object of the entry program.
pub(crate) fn entry_object(family: Family) -> &'static [u8] {
    match family {
        Family::Xdp => include_bytes!(concat!(env!("OUT_DIR"), "/entry.xdp.o")),
        Family::Tc => include_bytes!(concat!(env!("OUT_DIR"), "/entry.tc.o")),
    }
}

/// Offset of [`Entry`] in the entry program's read-only data, and the size of these.
pub(crate) const ENTRY_AT: (usize, usize) = (offset_of!(rodata, emptcp_entry), size_of::<rodata>());

/// Names of the reasons, from the enum of `abi.h`: `truncated`, `fragment` …
pub(crate) fn reason_names() -> &'static [String] {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut names = names_of("emptcp_reason", "EMPTCP_REASON_");
        names.truncate(REASONS);
        names
    });
    &NAMES
}

/// Names of the causes of a fallback, from the enum of `track.h`: `none`, `synack` …
pub(crate) fn fallback_names() -> &'static [String] {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut names = names_of("emptcp_fallback", "EMPTCP_FALLBACK_");
        names.truncate(emptcp_fallback::EMPTCP_FALLBACK_MAX.0 as usize);
        names
    });
    &NAMES
}

/// Names of the values of an enum that begin at 0, without their prefix and in lower case.
fn names_of(name: &str, prefix: &str) -> Vec<String> {
    let btf = Btf::from_raw("entry", entry_object(Family::Tc))
        .ok()
        .flatten();
    let found = btf
        .as_ref()
        .and_then(|btf| btf.type_by_name::<Enum<'_>>(name));
    let names = found.into_iter().flat_map(|e| {
        e.iter()
            .filter_map(|v| v.name.map(|n| n.to_string_lossy().into_owned()))
            .collect::<Vec<_>>()
    });
    names
        .map(|n| n.trim_start_matches(prefix).to_lowercase())
        .collect()
}

/// A name of [`names_of`], for a number that a program of another version may have written.
fn name_at(names: &'static [String], number: u8) -> &'static str {
    let known = names.get(usize::from(number));
    known.map_or("unknown", String::as_str)
}

/// Name of a cause of `enum emptcp_fallback`: `synack`, `ack`, `data` …
pub(crate) fn fallback_name(number: u8) -> &'static str {
    name_at(fallback_names(), number)
}

/// Name of a value of `enum emptcp_event_end`: `fin`, `rst`, `data_fin`, `fastclose`.
pub(crate) fn end_name(number: u8) -> &'static str {
    static NAMES: LazyLock<Vec<String>> =
        LazyLock::new(|| names_of("emptcp_event_end", "EMPTCP_EVENT_END_"));
    name_at(&NAMES, number)
}

/// Name of a value of `enum emptcp_held_state`: `waiting`, `released`, `expired` …
pub(crate) fn held_state_name(state: HeldState) -> &'static str {
    static NAMES: LazyLock<Vec<String>> =
        LazyLock::new(|| names_of("emptcp_held_state", "EMPTCP_HELD_"));
    name_at(&NAMES, state.0 as u8)
}

/// Name of a value of `enum emptcp_track_kind`.
pub(crate) fn kind_name(number: u8) -> &'static str {
    match emptcp_track_kind(number.into()) {
        emptcp_track_kind::EMPTCP_TRACK_INITIAL => "initial",
        emptcp_track_kind::EMPTCP_TRACK_JOINED => "joined",
        _ => "unknown",
    }
}

/// The hook with this number.
pub(crate) fn hook_of(number: u8) -> Option<Hook> {
    Hook::ALL
        .into_iter()
        .find(|hook| hook_number(*hook) == number)
}

/// The bytes of one of the structures above.
pub(crate) fn bytes_of<T: plain::Plain>(value: &T) -> &[u8] {
    // SAFETY: Plain is implemented above for structures of integers without padding only.
    unsafe { plain::as_bytes(value) }
}

/// One of the structures above, from its bytes; `None`: they are too few.
pub(crate) fn from_bytes<T: plain::Plain + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    value.copy_from_bytes(bytes).ok()?;
    Some(value)
}
