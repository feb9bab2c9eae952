/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The events that the tracker tells of subflows and connections. */
#ifndef __EMPTCP_TRACK_EVENTS_H__
#define __EMPTCP_TRACK_EVENTS_H__

#include <emptcp/event.h>

/** Bits of an address that are those of ::ffff:0:0/96. */
#define TRACK_MAPPED bpf_htonl(0xffff)

/*
 * What is done at several places are functions that the verifier looks at once.
 * They take the record of the CPU, and return 0.
 */

/** Nanoseconds from then to the record's time; another CPU's time may lie ahead. */
static __always_inline __u64 track_event_since(const union emptcp_event_record *record, __u64 then)
{
	__s64 since = record->event.head.time - then;

	/* Without a branch, of which the verifier would follow both ways. */
	return since & ~(since >> 63);
}

/** Sends the record, of this type (enum emptcp_ring_type) and size. */
__noinline int track_event_send(__u32 type, __u32 size)
{
	union emptcp_event_record *record = emptcp_event_record();

	if (record && size <= sizeof(*record))
		emptcp_event_send(record, type, size);
	return 0;
}

/** The subflow of a key, established or half open; NULL: none. */
static __always_inline const struct emptcp_track_subflow *
track_event_find(const struct emptcp_subflow *key)
{
	const struct emptcp_track_subflow *sub = bpf_map_lookup_elem(&subflows, key);

	if (!sub)
		sub = bpf_map_lookup_elem(&half_open, key);
	asm volatile("" : "+r"(sub));
	return sub;
}

/**
 * Makes the record one of its subflow: what, of enum emptcp_event_what; end, of
 * enum emptcp_event_end. The record is begun, with the subflow from its lower
 * end to its higher one; it becomes one from the end that opened it.
 */
__noinline int track_event_subflow(__u32 what, __u32 end)
{
	union emptcp_event_record *record = emptcp_event_record();
	const struct emptcp_track_way *there, *back;
	const struct emptcp_track_subflow *sub;
	struct emptcp_event_subflow *told;
	struct emptcp_subflow key;
	__u32 src;

	if (!record)
		return 0;
	told = &record->subflow;
	key = told->event.subflow;
	sub = track_event_find(&key);
	if (!sub)
		return 0;
	src = sub->opener == EMPTCP_FROM_HIGHER;
	if (src)
		emptcp_turn(&told->event.subflow);
	src = emptcp_forget(src) & 1;
	there = &sub->way[src];
	back = &sub->way[src ^ 1];
	told->bytes[0] = there->bytes;
	told->bytes[1] = back->bytes;
	told->retransmitted[0] = there->retransmitted;
	told->retransmitted[1] = back->retransmitted;
	told->duration = track_event_since(record, sub->created);
	told->what = what;
	told->end = end;
	told->kind = sub->kind;
	told->version = sub->version;
	told->index = sub->index;
	told->addr_id[0] = there->addr_id;
	told->addr_id[1] = back->addr_id;
	/* HAS_ID and ASKS_BACKUP of one end, then of the other one; in numbers, without branches.
	 */
	told->flags = (there->flags & EMPTCP_WAY_HAS_ID) | (back->flags & EMPTCP_WAY_HAS_ID) << 1 |
		      (there->flags & EMPTCP_WAY_ASKS_BACKUP) << 1 |
		      (back->flags & EMPTCP_WAY_ASKS_BACKUP) << 2;
	emptcp_event_tracked(record, sub, src);
	return 0;
}

_Static_assert(EMPTCP_WAY_HAS_ID + 0 == EMPTCP_EVENT_SRC_HAS_ID + 0 &&
		       EMPTCP_WAY_HAS_ID << 1 == EMPTCP_EVENT_DST_HAS_ID + 0 &&
		       EMPTCP_WAY_ASKS_BACKUP << 1 == EMPTCP_EVENT_SRC_ASKS_BACKUP + 0 &&
		       EMPTCP_WAY_ASKS_BACKUP << 2 == EMPTCP_EVENT_DST_ASKS_BACKUP + 0,
	       "track_event_subflow() shifts flags");

/** Makes a record of a subflow one of its connection. */
static __always_inline void track_event_connection(union emptcp_event_record *record,
						   const struct emptcp_track_conn *conn, int what,
						   int end)
{
	struct emptcp_event_connection *told = &record->connection;

	told->bytes[0] = conn->bytes[0];
	told->bytes[1] = conn->bytes[1];
	told->duration = track_event_since(record, conn->created);
	told->subflows = conn->ever;
	told->what = what;
	told->end = end;
	told->version = conn->version;
}

/** Reads the ADD_ADDR at this offset into the record; 0: it is none. */
static __always_inline int track_event_add_addr(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt, __u32 off,
						union emptcp_event_record *record)
{
	struct emptcp_event_add_addr *told = &record->add_addr;
	const struct mptcp_add_addr *opt;
	const __be16 *port;
	__u32 len;

	opt = (const void *)tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_ADD_ADDR_BASE);
	if (!opt)
		return 0;
	len = opt->len;
	if (!mptcp_add_addr_is_whole(opt->sub, len))
		return 0;
	told->addr_id = opt->addr_id;
	told->flags = opt->sub & MPTCP_ADD_ADDR_ECHO ? EMPTCP_EVENT_ECHO : 0;
	told->port = 0;
	if (mptcp_add_addr_is6(len)) {
		opt = (const void *)tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_ADD_ADDR6_BASE);
		if (!opt)
			return 0;
		for (int i = 0; i < 4; i++)
			told->addr.w[i] = opt->addr6[i];
		off += TCPOLEN_MPTCP_ADD_ADDR6_BASE;
	} else {
		told->addr.w[0] = told->addr.w[1] = 0;
		told->addr.w[2] = TRACK_MAPPED;
		told->addr.w[3] = opt->addr4;
		off += TCPOLEN_MPTCP_ADD_ADDR_BASE;
	}
	if (!mptcp_add_addr_has_port(len))
		return 1;
	port = (const void *)tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_PORT);
	if (!port)
		return 0;
	told->port = bpf_ntohs(*port);
	told->flags |= EMPTCP_EVENT_HAS_PORT;
	return 1;
}

/** Reads the REMOVE_ADDR at this offset into the record; 0: it has no ids. */
static __always_inline int track_event_remove_addr(struct emptcp_ctx *ctx,
						   const struct emptcp_pkt *pkt, __u32 off,
						   union emptcp_event_record *record)
{
	struct emptcp_event_remove_addr *told = &record->remove_addr;
	const __u8 *opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_RM_ADDR_BASE);
	__u32 count;

	if (!opt || opt[1] <= TCPOLEN_MPTCP_RM_ADDR_BASE)
		return 0;
	count = opt[1] - TCPOLEN_MPTCP_RM_ADDR_BASE;
	told->count = count;
	for (int i = 0; i < EMPTCP_EVENT_IDS_MAX; i++) {
		const __u8 *id = tcpopt_at(ctx, pkt, off + TCPOLEN_MPTCP_RM_ADDR_BASE + i, 1);

		told->addr_id[i] = id && i < count ? *id : 0;
	}
	return 1;
}

#endif /* __EMPTCP_TRACK_EVENTS_H__ */
