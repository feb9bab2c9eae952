/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tracker knows of who has just announced an address, for modules that need none of the
 * tracker otherwise, and no look-up in its maps for packets that announce nothing. They run behind
 * it, or without it; at tc perhaps where it ran at XDP.
 */
#ifndef __EMPTCP_ANNOUNCER_H__
#define __EMPTCP_ANNOUNCER_H__

#include <emptcp/clock.h>
#include <emptcp/module.h>

/** How long what is noted of a packet counts, in nanoseconds: it may wait in a queue in between. */
#define EMPTCP_ANNOUNCER_NS 1000000000LL

/** An end of a connection. In a union, which is no type of the vocabulary: it means nothing once
 * the packet is gone, and need not be shown. */
struct emptcp_announcer {
	/** When the packet came: CLOCK_BOOTTIME, nanoseconds. */
	__u64 at;
	union {
		struct {
			/** Token of the server. */
			__u32 token;
			/** The server announces, else the client. */
			__u32 by_server;
		};
		__u8 opaque[8];
	};
};

/** By the subflow as the packet with the announcement has it; the oldest go first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct emptcp_announcer);
	__uint(max_entries, 4096);
} announcers SEC(".maps") EMPTCP_KEPT;

#endif /* __EMPTCP_ANNOUNCER_H__ */
