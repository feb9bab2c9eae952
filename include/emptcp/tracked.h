/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tracker remembers, for modules: a module that includes this has the
 * flag EMPTCP_TRACKED, and the tracker comes before it in the packet's way.
 */
#ifndef __EMPTCP_TRACKED_H__
#define __EMPTCP_TRACKED_H__

#include <emptcp/module.h>
#include <emptcp/track.h>

/*
 * Sizes are defaults: "limits" of a policy has others. Memory is taken as entries
 * come, but for half_open.
 */

/** Subflows whose handshake was proven: nothing but their end, or idleness, removes them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct emptcp_track_subflow);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} subflows SEC(".maps") EMPTCP_KEPT EMPTCP_LIMIT(subflows);

/** The others: the oldest go first, so that a flood of SYNs cannot push out the living. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct emptcp_track_subflow);
	__uint(max_entries, 16384);
} half_open SEC(".maps") EMPTCP_KEPT EMPTCP_LIMIT(half_open);

/** Connections by the token of the server. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_track_key);
	__type(value, struct emptcp_track_conn);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} connections SEC(".maps") EMPTCP_KEPT EMPTCP_LIMIT(connections);

/** The key of the packet's subflow in the maps of the tracker; returns the packet's direction, enum
 * emptcp_track_direction. */
static __always_inline int emptcp_track_key_of(const struct emptcp_pkt *pkt,
					       struct emptcp_subflow *key)
{
	int from;

	emptcp_subflow_of(pkt, key);
	from = emptcp_is_higher(key);
	if (from)
		emptcp_turn(key);
	return from;
}

/**
 * What is known of the packet's subflow; NULL: nothing. *from: direction of the
 * packet, enum emptcp_track_direction.
 */
static __always_inline struct emptcp_track_subflow *emptcp_tracked(const struct emptcp_pkt *pkt,
								   int *from)
{
	struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;

	*from = emptcp_track_key_of(pkt, &key);
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub || sub->flags & EMPTCP_TRACK_REOPENS) {
		struct emptcp_track_subflow *half = bpf_map_lookup_elem(&half_open, &key);

		/* Of a new handshake, while that before is not forgotten yet. */
		if (half)
			sub = half;
	}
	return sub;
}

/** The connection of a subflow, or that which it wants to join; NULL: not known. */
static __always_inline struct emptcp_track_conn *
emptcp_tracked_conn(const struct emptcp_track_subflow *sub)
{
	struct emptcp_track_key key = sub->conn;

	if (!(sub->flags & (EMPTCP_TRACK_TIED | EMPTCP_TRACK_NAMES)))
		return NULL;
	return bpf_map_lookup_elem(&connections, &key);
}

#endif /* __EMPTCP_TRACKED_H__ */
