/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the data plane and its loader agree on. Every structure and enum here
 * reaches BTF through a map or a global of bpf/entry.bpf.c; the loader takes
 * them from there and keeps no second copy.
 */
#ifndef __EMPTCP_ABI_H__
#define __EMPTCP_ABI_H__

/** Number of the interface between modules and loader; a module of another one is refused. */
#define EMPTCP_ABI 1

/** Where a chain runs. */
enum emptcp_hook {
	EMPTCP_HOOK_XDP,
	EMPTCP_HOOK_TC_INGRESS,
	EMPTCP_HOOK_TC_EGRESS,
	EMPTCP_HOOK_MAX,
};

/** What the first byte of a packet belongs to. */
enum emptcp_framing {
	EMPTCP_FRAMING_ETHER,
	/** Devices without a link-layer header (tun, ppp, wwan, WireGuard). */
	EMPTCP_FRAMING_IP,
};

/** Why a packet passed untreated (or was dropped, where the chain says so). */
enum emptcp_reason {
	EMPTCP_REASON_NONE,
	/** Not TCP over IP: nothing for emptcp, and not counted. */
	EMPTCP_REASON_NOT_TCP,
	/** The packet ends inside a header. */
	EMPTCP_REASON_TRUNCATED,
	/** A later fragment: its TCP header is elsewhere. */
	EMPTCP_REASON_FRAGMENT,
	/** More IPv6 extension headers than are followed. */
	EMPTCP_REASON_EXT_HEADERS,
	/** More VLAN tags than are followed. */
	EMPTCP_REASON_VLAN_DEPTH,
	/** An IP header that contradicts itself. */
	EMPTCP_REASON_BAD_IP,
	/** A TCP header that contradicts itself or the IP header. */
	EMPTCP_REASON_BAD_TCP,
	/** A tail call found its slot empty, or the limit of the kernel. */
	EMPTCP_REASON_TAIL_CALL,
	/** A map had no room. */
	EMPTCP_REASON_MAP_FULL,
	/** A helper of the kernel refused to write. */
	EMPTCP_REASON_WRITE,
	EMPTCP_REASON_MAX,
};

/** Slots that are no slot: where a step leads when the chain goes no further. */
enum emptcp_slot {
	EMPTCP_SLOT_PASS = 0x7fffffff,
	EMPTCP_SLOT_DROP = 0x7ffffffe,
};

/** Flags of a step; constant for the verifier, so code behind an unset one vanishes. */
enum emptcp_step_flags {
	/** First actor of its chain: counts the chain's bytes. */
	EMPTCP_STEP_CHAIN_BYTES = 1 << 0,
	/** Program of the xdp.frags flavour. */
	EMPTCP_STEP_FRAGS = 1 << 1,
	/** Leaves the counters alone. */
	EMPTCP_STEP_NO_COUNTERS = 1 << 2,
};

/** Successors and identity of a step. */
struct emptcp_links {
	/** Slot of the step that follows a match, or, for actors, the next step. */
	__u32 match;
	/** Slot of the step that follows a miss. */
	__u32 miss;
	/** Slot of the step that follows an error. */
	__u32 error;
	/** Index in counters; stable over generations. */
	__u32 step;
	/** Bits of enum emptcp_step_flags. */
	__u32 flags;
	/** Zone of the chain: tells overlapping address spaces apart. */
	__u32 zone;
	/** enum emptcp_hook. */
	__u8 hook;
	/** enum emptcp_framing. */
	__u8 framing;
	__u8 pad[6];
};

/** What an entry program knows of one of its two generations. */
struct emptcp_entry_side {
	/** Number of the generation. */
	__u64 generation;
	/** Slot of the first step. */
	__u32 start;
	/** EMPTCP_SLOT_PASS or _DROP: what becomes of packets that cannot be parsed. */
	__u32 undecidable;
};

/** Constants of an entry program. */
struct emptcp_entry {
	struct emptcp_entry_side next;
	struct emptcp_entry_side prev;
	/** enum emptcp_hook. */
	__u8 hook;
	/** enum emptcp_framing. */
	__u8 framing;
	/** Some step uses the chain context. */
	__u8 context;
	__u8 pad[5];
};

/** Counters of a step, one per CPU. */
struct emptcp_counter {
	/** Packets that reached the step. */
	__u64 evaluated;
	/** Selector: packets that matched. Actor: packets that it treated. */
	__u64 matched;
	/** Packets for which it failed. */
	__u64 errors;
	/** First actor of a chain: bytes of the packets that the chain selected. */
	__u64 bytes;
};

/** Words that the steps of one run hand on to each other. */
enum emptcp_word {
	/** Value that a table look-up found, low and high half. */
	EMPTCP_WORD_VALUE_LO,
	EMPTCP_WORD_VALUE_HI,
	/** Offset of a TCP option from the start of the packet, 0 for none. */
	EMPTCP_WORD_OPTION,
	/** 16 bits of the author's own. */
	EMPTCP_WORD_INLINE,
	/** Words that are zero when a run begins. */
	EMPTCP_WORD_ZEROED,
	/**
	 * Where the entry program found the headers: offset of the TCP header,
	 * from bit 16 on that of the IP header, from bit 24 on 4 or 6.
	 */
	EMPTCP_WORD_HEADERS = EMPTCP_WORD_ZEROED,
	EMPTCP_WORD_MAX,
};

/** The two generation numbers, changed by single 8-byte stores. */
struct emptcp_generation {
	/** The one in force. */
	__u64 current;
	/** The latest that was begun; numbers are never used twice. */
	__u64 latest;
};

#endif /* __EMPTCP_ABI_H__ */
