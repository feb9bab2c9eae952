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
	/** What the part before left for this packet was not there any more. */
	EMPTCP_REASON_HANDOVER,
	/** A parameter comes from a table in which nothing was found, and has no default. */
	EMPTCP_REASON_NO_VALUE,
	/** TCP-MD5 or TCP-AO covers what was to be edited. */
	EMPTCP_REASON_SIGNED,
	/** The edit would break the connection. */
	EMPTCP_REASON_UNSAFE,
	/** What was to be added does not fit into the packet. */
	EMPTCP_REASON_NO_ROOM,
	/** It would have to wait for longer than it may. */
	EMPTCP_REASON_HORIZON,
	/** The checksum of TCP is wrong, and would not be in what is made of the packet. */
	EMPTCP_REASON_BAD_CSUM,
	/** A copy of the packet could not be sent. */
	EMPTCP_REASON_CLONE,
	/** Not a failure: an ACK without room gave up SACK blocks, or its DSS, for what was added.
	 */
	EMPTCP_REASON_REPLACED,
	/** Another connection has the same token. */
	EMPTCP_REASON_TOKEN,
	/** The tracker does not know the subflow or its connection. */
	EMPTCP_REASON_UNTRACKED,
	/** The keys of the connection were not seen. */
	EMPTCP_REASON_NO_KEYS,
	/** The window scale of who sent the packet is not known. */
	EMPTCP_REASON_NO_WSCALE,
	EMPTCP_REASON_MAX,
};

/** Slots of an entry program that are no slot. */
enum emptcp_slot {
	EMPTCP_SLOT_PASS = 0x7fffffff,
	EMPTCP_SLOT_DROP = 0x7ffffffe,
};

/** Ways on from a step. */
enum emptcp_way {
	/** A selector that matches; an actor that is done. */
	EMPTCP_WAY_MATCH,
	/** A selector that does not match. */
	EMPTCP_WAY_MISS,
	EMPTCP_WAY_ERROR,
	EMPTCP_WAY_MAX,
};

/** What a step does with tables; constant for the verifier, so code behind an unset one vanishes.
 */
enum emptcp_step_flags {
	/** Looks a table of the policy up. */
	EMPTCP_STEP_TABLE = 1 << 0,
	/** That table is one of addresses, where it might be one of prefixes. */
	EMPTCP_STEP_ADDR_TABLE = 1 << 1,
	/** Entries of that table expire. */
	EMPTCP_STEP_TIMED = 1 << 2,
	/** An actor of the chain takes the value that was found. */
	EMPTCP_STEP_LEAVES_VALUE = 1 << 3,
};

/** Tables from which the actors of one chain can take values. */
#define EMPTCP_VALUE_SLOTS 4
/** Parameters of a step that can come from tables. */
#define EMPTCP_FROM_TABLE_MAX 4

/** A parameter that comes from a table. */
struct emptcp_from_table {
	/** Its place in the parameters, and its size: 1, 2, 4 or 8. */
	__u16 offset;
	__u8 size;
	/** Where the value was left. */
	__u8 slot;
};

/** What can be so for a step (see emptcp_is()). */
enum emptcp_is {
	/** Its program is of the xdp.frags flavour. */
	EMPTCP_IS_FRAGS,
	/** First actor of its chain: counts the chain's bytes. */
	EMPTCP_IS_CHAIN_BYTES,
	/** Leaves the counters alone. */
	EMPTCP_IS_UNCOUNTED,
	/** An error leads to where a miss (actors: success) leads. */
	EMPTCP_IS_ERROR_SAME,
	/** Comes after other steps of its program: the frame holds where the headers are. */
	EMPTCP_IS_JOINED,
	/** The frame holds its block of counters. */
	EMPTCP_IS_COUNTERS,
	/** The frame holds pointers to the headers, which no step before has made void. */
	EMPTCP_IS_POINTERS,
	/** Steps of its program come after it: it leaves in the frame what was not there. */
	EMPTCP_IS_FOLLOWED,
	/** Packets begin with an IP header (EMPTCP_FRAMING_IP). */
	EMPTCP_IS_RAW_IP,
	/** Another part of the policy follows at this hook: packets that end here must not meet it.
	 */
	EMPTCP_IS_MORE,
	/** Packets are replayed: their time is that of the capture (clock.h). */
	EMPTCP_IS_REPLAYED,
	/** With a way: it leads out of emptcp, the packet passes. */
	EMPTCP_IS_PASS = 16,
	/** With a way: it leads out of emptcp, the packet is dropped. */
	EMPTCP_IS_DROP = EMPTCP_IS_PASS + EMPTCP_WAY_MAX,
	/** With a way: it leads to a step of the same program. */
	EMPTCP_IS_JUMP = EMPTCP_IS_DROP + EMPTCP_WAY_MAX,
	EMPTCP_IS_MAX = EMPTCP_IS_JUMP + EMPTCP_WAY_MAX,
};

/** Numbers of a step (see emptcp_number()). */
enum emptcp_number {
	/** With a way: slot of the program to which it leads. */
	EMPTCP_NUMBER_SLOT,
	/** Offset of its counters in their block, in bytes. */
	EMPTCP_NUMBER_COUNTER = EMPTCP_NUMBER_SLOT + EMPTCP_WAY_MAX,
	/** enum emptcp_hook. */
	EMPTCP_NUMBER_HOOK,
	EMPTCP_NUMBER_MAX,
};

/** Offsets from the frame pointer that no stack has: places for what joined steps hand on. */
enum emptcp_frame {
	/** Counters of the last step's block. */
	EMPTCP_FRAME_COUNTERS = 4096,
	/** As EMPTCP_WORD_HEADERS. */
	EMPTCP_FRAME_HEADERS = 4104,
	/** Pointers to the TCP header and to the IP header. */
	EMPTCP_FRAME_TCP = 4112,
	EMPTCP_FRAME_IP = 4120,
	EMPTCP_FRAME_END = 4128,
};

/** Marks, each with one of the numbers above. */
enum emptcp_mark {
	EMPTCP_MARK_IS = 0x656d7000,
	EMPTCP_MARK_NUMBER = 0x656d7100,
	EMPTCP_MARK_JUMP = 0x656d7200,
};

/** Steps whose counters lie together in one map. */
#define EMPTCP_COUNTER_BLOCK 256

/** Identity of a step. */
struct emptcp_links {
	/** Number of the step; stable over generations. */
	__u32 step;
	/** Zone of the chain: tells overlapping address spaces apart. */
	__u32 zone;
	/** Bits of enum emptcp_step_flags. */
	__u32 flags;
	/** enum emptcp_hook. */
	__u8 hook;
	/** enum emptcp_framing. */
	__u8 framing;
	/** Number of the chain at this hook, not 0: tells values apart that its steps leave. */
	__u16 chain;
	/** Selector over a table: where its value is left. */
	__u8 slot;
	/** Of the same, where entries expire: place of the time (CLOCK_BOOTTIME) in a value. */
	__u8 expires_at;
	/** Actor: how many of its parameters come from tables; bits of those with a default. */
	__u8 from_tables;
	__u8 defaults;
	struct emptcp_from_table from_table[EMPTCP_FROM_TABLE_MAX];
	__u32 pad;
};

/** What an entry program knows of one of its two generations. */
struct emptcp_entry_side {
	/** Number of the generation. */
	__u64 generation;
	/** Slot of the first step. */
	__u32 start;
	/** EMPTCP_SLOT_PASS or _DROP: what becomes of packets that cannot be parsed. */
	__u32 undecidable;
	/** Programs behind the first over which the policy is split at this hook. */
	__u32 later;
	__u32 pad;
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
	/** Not the first of the programs that a policy is split over at this hook. */
	__u8 later;
	__u8 pad[4];
};

/** What the first part of a split policy leaves for the later ones; one per CPU and hook. */
struct emptcp_handover {
	/** The packet: its address in the kernel. */
	__u64 packet;
	/** The generation that treats it; 0: no more of it. */
	__u64 generation;
	/** How many parts have not taken it yet: behind the last one a packet of the same address
	 * is another one. */
	__u32 left;
	/** EMPTCP_WORD_TRACKED, which the tracker sets in the first part. */
	__u32 tracked;
};

/** Counters of a step, one per CPU. Each packet that reaches the step is in one of the first three.
 */
struct emptcp_counter {
	/** Selector: packets that matched. Actor: packets that it treated. */
	__u64 matched;
	/** Selector: packets that did not match. Actor: packets that it left as they were. */
	__u64 missed;
	/** Packets for which it failed. */
	__u64 errors;
	/** First actor of a chain: bytes of the packets that the chain selected. */
	__u64 bytes;
};

/** Counters of the steps whose number divided by EMPTCP_COUNTER_BLOCK is the same: the one value of
 * a map. */
struct emptcp_counters {
	struct emptcp_counter step[EMPTCP_COUNTER_BLOCK];
};

/** Words that the steps of one run hand on to each other. */
enum emptcp_word {
	/** Values of tables that were found: emptcp_links.chain, from bit 16 on a bit for each
	   slot. */
	EMPTCP_WORD_FOUND,
	/** Offset of a TCP option from the start of the packet, 0 for none. */
	EMPTCP_WORD_OPTION,
	/** 16 bits of the author's own. */
	EMPTCP_WORD_INLINE,
	/** What the tracker knows of the packet (learnt.h). */
	EMPTCP_WORD_TRACKED,
	/** Words that are zero when a run begins. */
	EMPTCP_WORD_ZEROED,
	/**
	 * Where the entry program found the headers: offset of the TCP header,
	 * from bit 16 on that of the IP header, from bit 24 on 4 or 6.
	 */
	EMPTCP_WORD_HEADERS = EMPTCP_WORD_ZEROED,
	EMPTCP_WORD_MAX,
};

/** What has no room in the packet's context; valid in one run only. */
struct emptcp_chain_words {
	/** At XDP, which has no such context. */
	__u32 words[EMPTCP_WORD_MAX];
	/** Bytes of values of tables, by slot; see EMPTCP_WORD_FOUND. */
	__u64 values[EMPTCP_VALUE_SLOTS];
	/** Where in the kernel the entries lie that had them: tells entries apart. */
	__u64 entries[EMPTCP_VALUE_SLOTS];
};

/** The two generation numbers, changed by single 8-byte stores. */
struct emptcp_generation {
	/** The one in force. */
	__u64 current;
	/** The latest that was begun; numbers are never used twice. */
	__u64 latest;
};

#endif /* __EMPTCP_ABI_H__ */
