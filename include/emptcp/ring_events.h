/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Records of what happens to connections, in the ring of event.h. Numbers are in
 * the byte order of the machine unless they say otherwise. Reaches BTF, and so
 * the loader, through a global of bpf/entry.bpf.c. No record holds a key, a nonce
 * or an HMAC.
 */
#ifndef __EMPTCP_RING_EVENTS_H__
#define __EMPTCP_RING_EVENTS_H__

#include <emptcp/ring.h>
#include <emptcp/types.h>

/** What is so for an event; bits. */
enum emptcp_event_flags {
	/** token is known. */
	EMPTCP_EVENT_HAS_TOKEN = 1 << 0,
	/** client_token is known. */
	EMPTCP_EVENT_HAS_CLIENT_TOKEN = 1 << 1,
	/** The source of the subflow is the client of the connection. */
	EMPTCP_EVENT_FROM_CLIENT = 1 << 2,
	/** It is its server; neither: not known. */
	EMPTCP_EVENT_FROM_SERVER = 1 << 3,
};

/** What every event begins with. */
struct emptcp_event {
	struct emptcp_ring_head head;
	/** Tokens of the server and of the client. */
	emptcp_token token;
	emptcp_token client_token;
	/**
	 * The subflow. Of a packet as the packet has it. Of a connection or a subflow that
	 * begins or ends: from the end that opened the subflow (the lower one, by address and
	 * port, where that is not known).
	 */
	struct emptcp_subflow subflow;
	/** Bits of enum emptcp_event_flags. */
	__u8 flags;
	__u8 pad[7];
};

/** Whether something began or ended; names are what JSON has. */
enum emptcp_event_what {
	EMPTCP_EVENT_OPENED,
	EMPTCP_EVENT_CLOSED,
	EMPTCP_EVENT_WHAT_MAX,
};

/** How something ended; names are what JSON has. */
enum emptcp_event_end {
	/** It did not. */
	EMPTCP_EVENT_END_NONE,
	/** FIN from both ends; a connection: so ended its last subflow, without DATA_FIN. */
	EMPTCP_EVENT_END_FIN,
	/** RST; a connection: so ended its last subflow, without DATA_FIN. */
	EMPTCP_EVENT_END_RST,
	/** DATA_FIN. */
	EMPTCP_EVENT_END_DATA_FIN,
	/** MP_FASTCLOSE. */
	EMPTCP_EVENT_END_FASTCLOSE,
	EMPTCP_EVENT_END_MAX,
};

/** EMPTCP_RING_CONNECTION. */
struct emptcp_event_connection {
	struct emptcp_event event;
	/** Payload without what was sent again: from the client, from the server. */
	__u64 bytes[2];
	/** Since its first subflow began, nanoseconds. */
	__u64 duration;
	/** Subflows that it had. */
	__u32 subflows;
	/** enum emptcp_event_what. */
	__u8 what;
	/** enum emptcp_event_end. */
	__u8 end;
	/** Version of Multipath TCP: 0, 1. */
	__u8 version;
	__u8 pad;
};

/** What is so for the ends of a subflow; bits. */
enum emptcp_event_subflow_flags {
	/** addr_id[0] is known. */
	EMPTCP_EVENT_SRC_HAS_ID = 1 << 0,
	/** addr_id[1] is known. */
	EMPTCP_EVENT_DST_HAS_ID = 1 << 1,
	/** The source asked the other end to treat the subflow as backup. */
	EMPTCP_EVENT_SRC_ASKS_BACKUP = 1 << 2,
	/** So did the destination. */
	EMPTCP_EVENT_DST_ASKS_BACKUP = 1 << 3,
};

/** EMPTCP_RING_SUBFLOW. */
struct emptcp_event_subflow {
	struct emptcp_event event;
	/** Payload from the source and from the destination, with what was sent again. */
	__u64 bytes[2];
	/** Of that what was sent again. */
	__u64 retransmitted[2];
	/** Since its first packet, nanoseconds. */
	__u64 duration;
	/** enum emptcp_event_what. */
	__u8 what;
	/** enum emptcp_event_end. */
	__u8 end;
	/** enum emptcp_track_kind. */
	__u8 kind;
	/** Version of Multipath TCP: 0, 1. */
	__u8 version;
	/** Number in its connection; the first is 0. */
	__u8 index;
	/** Bits of enum emptcp_event_subflow_flags. */
	__u8 flags;
	/** Address ids of source and destination. */
	__u8 addr_id[2];
};

/** EMPTCP_RING_FALLBACK. */
struct emptcp_event_fallback {
	struct emptcp_event event;
	/** Sequence number of the packet that showed it. */
	__u32 seq;
	/** enum emptcp_fallback. */
	__u8 cause;
	__u8 pad[3];
};

/** What is so for an ADD_ADDR; bits. */
enum emptcp_event_add_addr_flags {
	EMPTCP_EVENT_ECHO = 1 << 0,
	EMPTCP_EVENT_HAS_PORT = 1 << 1,
};

/** EMPTCP_RING_ADD_ADDR: as on the wire, each time that it is seen. */
struct emptcp_event_add_addr {
	struct emptcp_event event;
	struct emptcp_addr addr;
	emptcp_port port;
	__u8 addr_id;
	/** Bits of enum emptcp_event_add_addr_flags. */
	__u8 flags;
	__u8 pad[4];
};

/** Address ids in a record; Linux sends no more (MPTCP_RM_IDS_MAX). */
#define EMPTCP_EVENT_IDS_MAX 8

/** EMPTCP_RING_REMOVE_ADDR: as on the wire. */
struct emptcp_event_remove_addr {
	struct emptcp_event event;
	__u8 addr_id[EMPTCP_EVENT_IDS_MAX];
	/** Ids in the packet; the first EMPTCP_EVENT_IDS_MAX are here. */
	__u8 count;
	__u8 pad[7];
};

/** EMPTCP_RING_PRIO: as on the wire. */
struct emptcp_event_prio {
	struct emptcp_event event;
	/** Whether the source wants the subflow treated as backup. */
	__u8 backup;
	__u8 pad[7];
};

/** EMPTCP_RING_THRESHOLD. */
struct emptcp_event_threshold {
	struct emptcp_event event;
	/** Payload of the subflow so far, as the tracker knows it: from the source, from the
	 * destination. */
	__u64 bytes[2];
	/** What the policy calls it; zeros fill it up, the last byte is 0. */
	struct emptcp_text name;
};

/** EMPTCP_RING_QUOTA: once in each period; the subflow is that of the packet that showed it. */
struct emptcp_event_quota {
	struct emptcp_event event;
	/** Payload that was used, and what the policy allows. */
	__u64 bytes;
	__u64 limit;
	/** After which it begins anew, nanoseconds; 0: never. */
	__u64 period;
	/** What the policy calls it; zeros fill it up, the last byte is 0. */
	struct emptcp_text name;
};

#endif /* __EMPTCP_RING_EVENTS_H__ */
