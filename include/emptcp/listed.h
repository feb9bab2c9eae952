/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The subflows of a connection, for modules that look at the others than the packet's own. The
 * tracker lists them: a subflow that joins from its SYN on, so that of two that are opened at once
 * the second one sees the first; the first one of all from its third ACK on.
 *
 * A map of its own, with an entry for each subflow, and none of it in the connection: most have
 * one subflow or two, and room for all that it may have is 640 bytes. Handshakes pay, the 312 and
 * more bytes that a packet reads anyway do not grow. Packets of which a module asks for the others
 * are few: SYNs, announcements.
 *
 * What stands there is a hint. Whose handshake came to nothing is not taken out, and is replaced
 * when the list is full: who reads asks emptcp_listed_at().
 */
#ifndef __EMPTCP_LISTED_H__
#define __EMPTCP_LISTED_H__

#include <emptcp/clock.h>
#include <emptcp/tracked.h>

/** How long a SYN counts as one that may still be answered, in nanoseconds: Linux sends it again
 * after 1, 2, 3 and 4 s (tcp_syn_linear_timeouts), before 6.5 after 1 and 3 s. */
#define EMPTCP_LISTED_SYN_NS 3000000000LL

/** Subflows, as the tracker has them: from their lower to their higher end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_track_place);
	__type(value, struct emptcp_subflow);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} conn_subflows SEC(".maps") EMPTCP_KEPT EMPTCP_LIMIT(subflows);

/** What stands in a place. */
enum emptcp_listed {
	/** Nothing. */
	EMPTCP_LISTED_NONE,
	/** A subflow that is gone, about to go, or of another connection. */
	EMPTCP_LISTED_GONE,
	/** One that wants to join: its SYN was seen lately. */
	EMPTCP_LISTED_JOINS,
	/** One whose handshake is proven, and which does not end. */
	EMPTCP_LISTED_LIVES,
};

/** What emptcp_listed_at() has found. */
struct emptcp_listed_found {
	struct emptcp_subflow subflow;
	/** When its first packet was seen, ns of CLOCK_BOOTTIME. */
	__u64 created;
};

/** Of this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_listed_found);
	__uint(max_entries, 1);
} listed_found SEC(".maps");

/** What emptcp_listed_at() has found; NULL cannot be. */
static __always_inline struct emptcp_listed_found *emptcp_listed_found(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&listed_found, &zero);
}

/** Whether an entry of the tracker is of this connection. */
static __always_inline int emptcp_listed_is_of(const struct emptcp_track_subflow *sub,
					       const struct emptcp_track_key *conn)
{
	return sub->flags & (EMPTCP_TRACK_TIED | EMPTCP_TRACK_NAMES) &&
	       sub->conn.token == conn->token && sub->conn.zone == conn->zone;
}

/**
 * Returns enum emptcp_listed of a place of the connection with this token of its server; of the
 * last two emptcp_listed_found() has which subflow it is. A function that the verifier looks at
 * once: inline, it would go through it for each place.
 */
__noinline int emptcp_listed_at(emptcp_token token, __u32 zone, __u32 place)
{
	struct emptcp_track_place at = {.conn = {.token = token, .zone = zone}, .place = place};
	const struct emptcp_subflow *listed = bpf_map_lookup_elem(&conn_subflows, &at);
	struct emptcp_listed_found *found = emptcp_listed_found();
	const struct emptcp_track_subflow *sub;

	if (!listed || !found)
		return EMPTCP_LISTED_NONE;
	found->subflow = *listed;
	sub = bpf_map_lookup_elem(&subflows, &found->subflow);
	if (sub && sub->state == EMPTCP_TRACK_ESTABLISHED && emptcp_listed_is_of(sub, &at.conn)) {
		found->created = sub->created;
		return EMPTCP_LISTED_LIVES;
	}
	sub = bpf_map_lookup_elem(&half_open, &found->subflow);
	if (!sub || !emptcp_listed_is_of(sub, &at.conn) ||
	    (__s64)(emptcp_boot_now() - sub->way[sub->opener & 1].last) > EMPTCP_LISTED_SYN_NS)
		return EMPTCP_LISTED_GONE;
	found->created = sub->created;
	return EMPTCP_LISTED_JOINS;
}

#endif /* __EMPTCP_LISTED_H__ */
