/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tracker remembers of subflows and connections. Numbers are in the
 * byte order of the machine; times are nanoseconds of CLOCK_BOOTTIME. Reaches
 * BTF, and so the loader, through a global of bpf/entry.bpf.c; modules take the
 * maps and look-ups of tracked.h.
 *
 * What the wire has not told is 0 and said to be unknown by a flag, or by a
 * value of its own where 0 is one.
 */
#ifndef __EMPTCP_TRACK_H__
#define __EMPTCP_TRACK_H__

#include <emptcp/rtt.h>
#include <emptcp/sequence.h>
#include <emptcp/types.h>

/** Window scale that is not known. */
#define EMPTCP_WSCALE_UNKNOWN 0xff
/** Bytes of a link-layer header that are kept: Ethernet and two VLAN tags. */
#define EMPTCP_L2_MAX 22

/** Directions of a subflow: from the lower of its two ends, by address and port, and from the
 * higher one. */
enum emptcp_track_direction {
	EMPTCP_FROM_LOWER,
	EMPTCP_FROM_HIGHER,
	EMPTCP_DIRECTIONS,
};

/** Flags of one direction; bits. */
enum emptcp_track_way_flags {
	/** addr_id is known: the address id of who sends in this direction. */
	EMPTCP_WAY_HAS_ID = 1 << 0,
	/** Who sends in this direction asked the other end to treat the subflow as backup. */
	EMPTCP_WAY_ASKS_BACKUP = 1 << 1,
	/** A DSS came, or MP_CAPABLE with data. */
	EMPTCP_WAY_DSS = 1 << 2,
	/** FIN. */
	EMPTCP_WAY_FIN = 1 << 3,
	/** data_ack is known, and has 64 bits. */
	EMPTCP_WAY_DATA_ACK = 1 << 4,
	EMPTCP_WAY_DATA_ACK64 = 1 << 5,
};

/** What travels in one direction of a subflow. */
struct emptcp_track_way {
	/** Payload, bytes; with what was sent again. */
	__u64 bytes;
	/** Of that what was sent again. */
	__u64 retransmitted;
	/** Packets on the wire: segments of GSO and GRO packets. */
	__u64 packets;
	/** Time of the last packet; 0: none was seen. */
	__u64 last;
	/** Sequence numbers, and round trips. */
	struct emptcp_sequence sequence;
	struct emptcp_rtt_way rtt;
	/** Latest ACK and TSecr. */
	__u32 ack;
	__u32 ts_ecr;
	/** Where packets of this direction are counted: interface, and its hook plus 1 (0: nowhere
	 * yet). The same packet at another place is not counted again. */
	__u32 ifindex;
	__u8 hook;
	/** Window scale of who sends in this direction, EMPTCP_WSCALE_UNKNOWN. */
	__u8 wscale;
	/** Latest window, as on the wire. */
	__u16 window;
	/** Of the payload, without what was sent again: what the connection's bytes do not have
	 * yet. */
	__u32 untold;
	/** Bits of enum emptcp_track_way_flags. */
	__u8 flags;
	__u8 addr_id;
	/** Of the last packet: TTL or hop limit, TOS or traffic class. */
	__u8 ttl;
	__u8 tos;
	/** Bytes of l2 that are there; 0: packets begin with an IP header. */
	__u8 l2_len;
	__u8 l2[EMPTCP_L2_MAX];
	__u8 pad;
	/** A data ACK (RFC 8684, 3.3.2) of one of the last packets, for frames that are made later:
	 * data ACKs are cumulative, so that an old one says nothing new. */
	__u64 data_ack;
};

/** How far a subflow is. */
enum emptcp_track_state {
	/** SYN was seen. */
	EMPTCP_TRACK_SYN,
	/** SYN/ACK was seen. */
	EMPTCP_TRACK_SYNACK,
	/** An ACK has proven the handshake. */
	EMPTCP_TRACK_ESTABLISHED,
	/** Both ends have sent FIN. */
	EMPTCP_TRACK_CLOSING,
};

/** What began a subflow. */
enum emptcp_track_kind {
	EMPTCP_TRACK_KIND_UNKNOWN,
	/** MP_CAPABLE. */
	EMPTCP_TRACK_INITIAL,
	/** MP_JOIN. */
	EMPTCP_TRACK_JOINED,
};

/** Why a connection went on as plain TCP (RFC 8684, 3.7); names are what JSON has. */
enum emptcp_fallback {
	EMPTCP_FALLBACK_NONE,
	/** The SYN/ACK had no MP_CAPABLE. */
	EMPTCP_FALLBACK_SYNACK,
	/** The third ACK had no MP_CAPABLE. */
	EMPTCP_FALLBACK_ACK,
	/** The first data had neither MP_CAPABLE nor DSS. */
	EMPTCP_FALLBACK_DATA,
	/** MP_FAIL. */
	EMPTCP_FALLBACK_FAIL,
	EMPTCP_FALLBACK_MAX,
};

/** Flags of a subflow; bits. */
enum emptcp_track_flags {
	/** token is known. */
	EMPTCP_TRACK_HAS_TOKEN = 1 << 0,
	/** conn is the key of a connection that had this subflow among its own. */
	EMPTCP_TRACK_TIED = 1 << 1,
	/** A new SYN was seen while it was established. */
	EMPTCP_TRACK_REOPENS = 1 << 2,
	/** It was taken over from the kernel's own tables. */
	EMPTCP_TRACK_TAKEN_OVER = 1 << 3,
	/** That it is open was told as an event, if anybody read. */
	EMPTCP_TRACK_TOLD = 1 << 4,
	/** conn is the key of the connection whose token its MP_JOIN has, while its handshake is
	 * not proven: it is none of that connection's own yet, and may never be. */
	EMPTCP_TRACK_NAMES = 1 << 5,
};

/** Direction that is not known: of the SYN, of the client's packets. */
#define EMPTCP_DIRECTION_UNKNOWN 0xff

/** Key of a connection. */
struct emptcp_track_key {
	/** Token of the server: of who accepted the first subflow. */
	emptcp_token token;
	/** See emptcp_links.zone. */
	__u32 zone;
};

/** Places of a connection in the list of its subflows (listed.h). */
enum emptcp_track_list {
	/** Linux has nine subflows at most: the first one, and MPTCP_PM_ADDR_MAX others. The rest
	 * is for handshakes that come to nothing. */
	EMPTCP_TRACK_LIST_MAX = 16,
};

/** Key of the list of a connection's subflows. */
struct emptcp_track_place {
	struct emptcp_track_key conn;
	/** 0 to EMPTCP_TRACK_LIST_MAX - 1; any of them may be empty. */
	__u32 place;
};

/** A subflow; its key is the emptcp_subflow from its lower to its higher end. */
struct emptcp_track_subflow {
	/** When its first packet was seen. */
	__u64 created;
	/** Its connection, if EMPTCP_TRACK_TIED or _NAMES. */
	struct emptcp_track_key conn;
	/** Token in the MP_JOIN of its SYN, if EMPTCP_TRACK_HAS_TOKEN. */
	emptcp_token token;
	/** The ACK that proves the handshake; before that, behind the number of the SYN. */
	__u32 proof;
	/** Of the fallback: when, and the sequence number of the packet. */
	__u64 fallback_at;
	__u32 fallback_seq;
	/** enum emptcp_fallback, and the direction of that packet. */
	__u8 fallback;
	__u8 fallback_way;
	/** enum emptcp_track_state. */
	__u8 state;
	/** enum emptcp_track_kind. */
	__u8 kind;
	/** Version of Multipath TCP: 0, 1. */
	__u8 version;
	/** Number in its connection, in the order of their handshakes; the first is 0. */
	__u8 index;
	/** Bits of enum emptcp_track_flags. */
	__u8 flags;
	/** Direction of its SYN, or EMPTCP_DIRECTION_UNKNOWN. */
	__u8 opener;
	/** Direction in which the client of the connection sends, or EMPTCP_DIRECTION_UNKNOWN. */
	__u8 client;
	__u8 pad[3];
	struct emptcp_track_way way[EMPTCP_DIRECTIONS];
};

/** Flags of a connection; bits. */
enum emptcp_track_conn_flags {
	/** DATA_FIN or MP_FASTCLOSE was seen. */
	EMPTCP_CONN_ENDS = 1 << 0,
	/** client_token is known. */
	EMPTCP_CONN_HAS_CLIENT_TOKEN = 1 << 1,
	/** Its keys are in the map of keys. */
	EMPTCP_CONN_HAS_KEYS = 1 << 2,
	/** MP_FASTCLOSE was seen. */
	EMPTCP_CONN_FASTCLOSED = 1 << 3,
};

/** A connection. */
struct emptcp_track_conn {
	/** When its first subflow was. */
	__u64 created;
	/** When its last subflow went; 0: it has some. */
	__u64 closed;
	/** Payload of all subflows without what was sent again: from the client, from the server;
	 * with what `untold` of the subflows that it has says. */
	__u64 bytes[2];
	emptcp_token client_token;
	/** Subflows that it has. */
	__u32 live;
	/** Subflows that it ever had. */
	__u32 ever;
	/** Version of Multipath TCP: 0, 1. */
	__u8 version;
	/** Bits of enum emptcp_track_conn_flags. */
	__u8 flags;
	__u8 pad[2];
};

#endif /* __EMPTCP_TRACK_H__ */
