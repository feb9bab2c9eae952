/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SYNs of further subflows that are held back, kept so that they can be sent later; tc only.
 *
 * To the client a SYN that is held is one that got no answer: it sends it again, and what is kept
 * is the latest one. It goes on by itself when a retry meets no hold_join any more, or sooner, when
 * release_join meets a packet of the connection.
 */
#ifndef __EMPTCP_HELD_H__
#define __EMPTCP_HELD_H__

#include <emptcp/clock.h>
#include <emptcp/held_join.h>
#include <emptcp/rst.h>
#include <emptcp/tracked.h>

/** SYNs of one connection that are held at a time. */
#define EMPTCP_HELD_SLOTS 8
/** Bytes of a frame, a power of two: Ethernet with two tags, IPv6 and a full TCP header have 122.
 */
#define EMPTCP_HELD_BYTES 128

/**
 * A client that has sent one SYN tries again after a second (RFC 6298, 2.1), older ones after three
 * (RFC 2988). Nanoseconds.
 */
#define EMPTCP_HELD_FIRST_NS 3000000000ULL
/** Nor does it wait for longer than that: TCP_RTO_MAX of Linux, and an eighth, because timers that
 * run for long may be as late. */
#define EMPTCP_HELD_LAST_NS 135000000000ULL

/** One of the SYNs of a connection. */
struct emptcp_held_key {
	struct emptcp_track_key conn;
	/** 0 to EMPTCP_HELD_SLOTS - 1. */
	__u32 slot;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_held_key);
	__type(value, struct emptcp_held_join);
	__uint(max_entries, 1024);
} held_joins SEC(".maps") EMPTCP_KEPT;

/** The SYN itself: no type of the vocabulary, so that nothing shows its token and nonce. */
struct emptcp_held_frame {
	/**
	 * From the link-layer header on, with a whole checksum. Behind them room for reads whose
	 * begin and length the verifier knows one by one only.
	 */
	__u8 bytes[EMPTCP_HELD_BYTES + 64];
	/** Bytes that are there. */
	__u32 len;
	/** Offsets of the headers. */
	__u16 ip_off;
	__u16 tcp_off;
	/** One's complement sums of the pseudo header, and of it and the TCP header without the
	 * checksum. */
	__u16 pseudo;
	__u16 sum;
	/** 4 or 6. */
	__u8 version;
	__u8 opaque[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_held_key);
	__type(value, struct emptcp_held_frame);
	__uint(max_entries, 1024);
} held_frames SEC(".maps") EMPTCP_KEPT;

/** Which slots of a connection have one that waits: 1. Each is one byte of its own, so that CPUs do
 * not meet. */
struct emptcp_held_list {
	union {
		__u8 slots[EMPTCP_HELD_SLOTS];
		__u64 any;
	};
};

/** So that a packet of a connection that has none asks once. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_track_key);
	__type(value, struct emptcp_held_list);
	__uint(max_entries, 1024);
} held_lists SEC(".maps") EMPTCP_KEPT;

#endif /* __EMPTCP_HELD_H__ */
