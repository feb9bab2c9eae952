/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What happens to connections, to user space, for `emptcp monitor`. Modules that
 * include this share one ring; it is there as long as the policy has a step that
 * does.
 *
 * While nobody reads, an event costs one look at a map, and a packet that is none
 * costs nothing. The reader is not woken (that takes longer than all else), it
 * looks at the ring every few milliseconds. What the ring has no room for is
 * counted, and no packet waits for it.
 */
#ifndef __EMPTCP_EVENT_H__
#define __EMPTCP_EVENT_H__

#include <emptcp/module.h>
#include <emptcp/ring_events.h>
#include <emptcp/ring_write.h>
#include <emptcp/tracked.h>

/** Records: struct emptcp_event and what it begins. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps") EMPTCP_SHARED;

/** Whether the ring is read; `emptcp monitor` writes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_ring_reader);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} event_reader SEC(".maps") EMPTCP_SHARED;

struct emptcp_events_lost {
	/** For which the ring had no room. */
	__u64 events;
};

/** Events that were not told because the ring was full. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_ring_place);
	__type(value, struct emptcp_events_lost);
	__uint(max_entries, 1024);
} events_lost SEC(".maps") EMPTCP_SHARED;

/** A record as it is made. */
union emptcp_event_record {
	struct emptcp_event event;
	struct emptcp_event_connection connection;
	struct emptcp_event_subflow subflow;
	struct emptcp_event_fallback fallback;
	struct emptcp_event_add_addr add_addr;
	struct emptcp_event_remove_addr remove_addr;
	struct emptcp_event_prio prio;
	struct emptcp_event_threshold threshold;
	struct emptcp_event_quota quota;
};

/** Too large for the stack beside what modules have there. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, union emptcp_event_record);
	__uint(max_entries, 1);
} event_record SEC(".maps") EMPTCP_SHARED;

/** The record of this CPU; NULL cannot be. */
static __always_inline union emptcp_event_record *emptcp_event_record(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&event_record, &zero);
}

/** Leaves in the record where it comes from, for emptcp_event_begin_left(). */
static __always_inline void emptcp_event_leave(union emptcp_event_record *record,
					       const struct emptcp_links *links,
					       const struct emptcp_subflow *subflow)
{
	emptcp_ring_leave(&record->event.head, links);
	record->event.subflow = *subflow;
}

/** Begins the record with what emptcp_event_leave() has left in it, perhaps in a function that
 * calls this one. 0: nobody reads. */
static __always_inline int emptcp_event_begin_left(struct emptcp_ctx *ctx,
						   union emptcp_event_record *record)
{
	__u64 now;

	if (!emptcp_ring_reader_of(&event_reader, &now))
		return 0;
	emptcp_ring_stamp(&record->event.head, ctx, now);
	record->event.token = record->event.client_token = 0;
	record->event.flags = 0;
	return 1;
}

/**
 * Fills in what the tracker knows of the connection. from: direction (enum
 * emptcp_track_direction) in which the source of the record's subflow sends.
 */
static __always_inline void emptcp_event_tracked(union emptcp_event_record *record,
						 const struct emptcp_track_subflow *sub, int from)
{
	const struct emptcp_track_conn *conn;
	struct emptcp_event *event = &record->event;

	if (sub->client != EMPTCP_DIRECTION_UNKNOWN)
		event->flags |=
			sub->client == from ? EMPTCP_EVENT_FROM_CLIENT : EMPTCP_EVENT_FROM_SERVER;
	if (!(sub->flags & EMPTCP_TRACK_TIED))
		return;
	event->flags |= EMPTCP_EVENT_HAS_TOKEN;
	event->token = sub->conn.token;
	conn = emptcp_tracked_conn(sub);
	if (!conn || !(conn->flags & EMPTCP_CONN_HAS_CLIENT_TOKEN))
		return;
	event->flags |= EMPTCP_EVENT_HAS_CLIENT_TOKEN;
	event->client_token = conn->client_token;
}

/** Sends a record of this type and size, or counts that it is lost. */
static __always_inline void emptcp_event_send(union emptcp_event_record *record, __u32 type,
					      __u32 size)
{
	record->event.head.type = type;
	record->event.head.size = size;
	if (bpf_ringbuf_output(&events, record, size, BPF_RB_NO_WAKEUP))
		emptcp_ring_lose(&events_lost, &record->event.head);
}

/**
 * A record of the packet's subflow, as the packet has it, with what is known of
 * its connection; NULL where nobody reads. All behind struct emptcp_event is left
 * from another record. One at a time: it belongs to the CPU until
 * emptcp_event_send().
 */
static __always_inline union emptcp_event_record *
emptcp_event_of_packet(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	const struct emptcp_track_subflow *sub;
	union emptcp_event_record *record;
	struct emptcp_subflow subflow;
	__u64 now;
	int from;

	if (!emptcp_ring_reader_of(&event_reader, &now))
		return NULL;
	record = emptcp_event_record();
	if (!record)
		return NULL;
	emptcp_subflow_of(pkt, &subflow);
	emptcp_event_leave(record, pkt->links, &subflow);
	emptcp_ring_stamp(&record->event.head, ctx, now);
	record->event.token = record->event.client_token = 0;
	record->event.flags = 0;
	sub = emptcp_tracked(pkt, &from);
	if (sub)
		emptcp_event_tracked(record, sub, from);
	return record;
}

/**
 * Tells that the packet's subflow met a condition of the policy. name: what the
 * policy calls it. Returns what an actor returns: EMPTCP_NEXT for an event that
 * was told or lost, EMPTCP_SKIP where nobody reads.
 */
static __always_inline int emptcp_event_threshold(struct emptcp_ctx *ctx,
						  const struct emptcp_pkt *pkt,
						  const struct emptcp_text *name)
{
	union emptcp_event_record *record = emptcp_event_of_packet(ctx, pkt);
	const struct emptcp_track_subflow *sub;
	int from;

	if (!record)
		return EMPTCP_SKIP;
	sub = emptcp_tracked(pkt, &from);
	record->threshold.bytes[0] = sub ? sub->way[from & 1].bytes : 0;
	record->threshold.bytes[1] = sub ? sub->way[!(from & 1)].bytes : 0;
	record->threshold.name = *name;
	emptcp_event_send(record, EMPTCP_RING_THRESHOLD, sizeof(record->threshold));
	return EMPTCP_NEXT;
}

#endif /* __EMPTCP_EVENT_H__ */
