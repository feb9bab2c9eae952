/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tracker: what follows from a packet: events, ends, who announces. */
#ifndef __EMPTCP_TRACK_AFTER_H__
#define __EMPTCP_TRACK_AFTER_H__

#include <emptcp/announcer.h>
#include <emptcp/clock.h>
#include <emptcp/track_events.h>
#include <emptcp/track_list.h>
#include <emptcp/track_maps.h>
#include "options.h"
#include "total.h"

/** What follows from a packet, beside bits of the subtypes of its options that are told of. */
enum track_tells {
	/** The subflow is open. */
	TRACK_TELLS_OPENED = 1 << 16,
	TRACK_TELLS_FALLBACK = 1 << 17,
	/** The subflow, which wants to join, is to be listed among those of its connection; one
	 * that is open is, too. */
	TRACK_LISTS_SHIFT = 13,
	TRACK_LISTS = EMPTCP_TRACK_NAMES << TRACK_LISTS_SHIFT,
	/** The subtypes. */
	TRACK_TELLS_OPTIONS = 1 << MPTCP_ADD_ADDR | 1 << MPTCP_REMOVE_ADDR | 1 << MPTCP_MP_PRIO,
	TRACK_TELLS = TRACK_TELLS_OPENED | TRACK_TELLS_FALLBACK | TRACK_TELLS_OPTIONS | TRACK_LISTS,
	/** The subflow is to be forgotten; and this is so because of a RST. */
	TRACK_CLOSES = 1 << 20,
	TRACK_CLOSES_BY_RST = 1 << 21,
	/** What else there is to know: the lower bit of MP_PRIO, the direction. */
	TRACK_BACKUP_SHIFT = 24,
	TRACK_FROM_SHIFT = 25,
};

/** Offset of the last option of this subtype; 0: none. */
__noinline int track_find_subtype(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len,
				  __u32 subtype)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return mptcp_find_subtype(ctx, &pkt, subtype, TCPOLEN_MPTCP_MIN);
}

/**
 * Sends the events that tells has bits for (enum track_tells, subtypes), of the
 * subflow that track_after() has left in the record; seq: sequence number of the
 * packet. Returns 0.
 */
__noinline int track_tell(struct emptcp_ctx *ctx, __u32 tells, __u32 tcp_off, __u32 tcp_len,
			  __u32 seq)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);
	union emptcp_event_record *record = emptcp_event_record();
	int from = tells >> TRACK_FROM_SHIFT & 1;
	const struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;
	__u32 off;

	if (!record || !emptcp_event_begin_left(ctx, record))
		return 0;
	key = record->event.subflow;
	sub = track_event_find(&key);
	if (!sub)
		return 0;
	if (tells & TRACK_TELLS_OPENED) {
		track_event_subflow(EMPTCP_EVENT_OPENED, EMPTCP_EVENT_END_NONE);
		track_event_send(EMPTCP_RING_SUBFLOW, sizeof(record->subflow));
		record->event.subflow = key;
		record->event.flags = 0;
	}
	if (from)
		emptcp_turn(&record->event.subflow);
	emptcp_event_tracked(record, sub, from);
	if (tells & TRACK_TELLS_FALLBACK) {
		record->fallback.seq = seq;
		record->fallback.cause = sub->fallback;
		track_event_send(EMPTCP_RING_FALLBACK, sizeof(record->fallback));
	}
	if (tells & 1 << MPTCP_MP_PRIO) {
		record->prio.backup = tells >> TRACK_BACKUP_SHIFT & 1;
		track_event_send(EMPTCP_RING_PRIO, sizeof(record->prio));
	}
	if (tells & 1 << MPTCP_ADD_ADDR) {
		off = track_find_subtype(ctx, tcp_off, tcp_len, MPTCP_ADD_ADDR) & 63;
		if (off && track_event_add_addr(ctx, &pkt, off, record))
			track_event_send(EMPTCP_RING_ADD_ADDR, sizeof(record->add_addr));
	}
	if (tells & 1 << MPTCP_REMOVE_ADDR) {
		off = track_find_subtype(ctx, tcp_off, tcp_len, MPTCP_REMOVE_ADDR) & 63;
		if (off && track_event_remove_addr(ctx, &pkt, off, record))
			track_event_send(EMPTCP_RING_REMOVE_ADDR, sizeof(record->remove_addr));
	}
	return 0;
}

/** Tells that a connection has no subflow any more; the record is that of its last one. */
static __always_inline void track_tell_end(union emptcp_event_record *record,
					   const struct emptcp_track_conn *conn, int is_rst)
{
	int end = is_rst ? EMPTCP_EVENT_END_RST : EMPTCP_EVENT_END_FIN;

	if (conn->flags & EMPTCP_CONN_FASTCLOSED)
		end = EMPTCP_EVENT_END_FASTCLOSE;
	else if (conn->flags & EMPTCP_CONN_ENDS)
		end = EMPTCP_EVENT_END_DATA_FIN;
	track_event_connection(record, conn, EMPTCP_EVENT_CLOSED, end);
	track_event_send(EMPTCP_RING_CONNECTION, sizeof(record->connection));
}

/** Forgets the subflow that track_after() has left in the record, and with the last one a
 * connection that has ended. Returns 0. */
__noinline int track_close(struct emptcp_ctx *ctx, __u32 is_rst)
{
	union emptcp_event_record *record = emptcp_event_record();
	struct emptcp_track_key id, client;
	struct emptcp_track_subflow *sub;
	struct emptcp_track_conn *conn;
	struct emptcp_subflow key;
	int tied, is_read;

	if (!record)
		return 0;
	key = record->event.subflow;
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub)
		return 0;
	id = sub->conn;
	tied = sub->flags & EMPTCP_TRACK_TIED;
	conn = track_own(sub);
	track_told(conn, sub, EMPTCP_FROM_LOWER);
	track_told(conn, sub, EMPTCP_FROM_HIGHER);
	if (tied)
		track_unlist(id.token, id.zone, 0);
	is_read = emptcp_event_begin_left(ctx, record);
	/* While what it says is there. */
	if (is_read)
		track_event_subflow(EMPTCP_EVENT_CLOSED,
				    is_rst ? EMPTCP_EVENT_END_RST : EMPTCP_EVENT_END_FIN);
	/* Of several CPUs, or parts of a path, one comes through. */
	if (bpf_map_delete_elem(&subflows, &key))
		return 0;
	if (is_read)
		track_event_send(EMPTCP_RING_SUBFLOW, sizeof(record->subflow));
	if (!conn)
		return 0;
	__sync_fetch_and_add(&conn->live, -1);
	if (*(volatile __u32 *)&conn->live)
		return 0;
	conn->closed = emptcp_boot_now();
	if (is_read)
		track_tell_end(record, conn, is_rst);
	if (!(conn->flags & EMPTCP_CONN_ENDS))
		return 0;
	client.token = conn->client_token;
	client.zone = id.zone;
	bpf_map_delete_elem(&client_tokens, &client);
	bpf_map_delete_elem(&secrets, &id);
	bpf_map_delete_elem(&connections, &id);
	track_unlist(id.token, id.zone, 1);
	return 0;
}

/** Notes which end of a connection announces an address, if tells (enum track_tells) has its bit,
 * on the subflow that track_after() has left in the record. Looked at once, and asked without a
 * condition: on Linux 5.10 the verifier follows each way to the end. Returns 0. */
__noinline int track_announcer(__u32 tells)
{
	union emptcp_event_record *record = emptcp_event_record();
	struct emptcp_announcer end = {.at = emptcp_boot_now()};
	__u32 from = tells >> TRACK_FROM_SHIFT & 1;
	const struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;

	if (!record || !(tells & 1 << MPTCP_ADD_ADDR))
		return 0;
	key = record->event.subflow;
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub || !(sub->flags & EMPTCP_TRACK_TIED) || sub->client == EMPTCP_DIRECTION_UNKNOWN)
		return 0;
	end.token = sub->conn.token;
	end.by_server = sub->client != from;
	if (from)
		emptcp_turn(&key);
	bpf_map_update_elem(&announcers, &key, &end, BPF_ANY);
	return 0;
}

/** Does what follows from a packet: enum track_tells, subtypes. */
static __always_inline void track_after(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct emptcp_subflow *key, int from, __u32 follows)
{
	union emptcp_event_record *record = emptcp_event_record();

	if (!record)
		return;
	emptcp_event_leave(record, pkt->links, key);
	if (follows & TRACK_TELLS) {
		/* Before the record is turned. */
		track_list(follows & (TRACK_LISTS | TRACK_TELLS_OPENED));
		track_announcer(follows | from << TRACK_FROM_SHIFT);
		track_tell(ctx, follows | from << TRACK_FROM_SHIFT, pkt->tcp_off, pkt->tcp_len,
			   bpf_ntohl(pkt->tcp->seq));
	}
	if (follows & TRACK_CLOSES) {
		/* It may have been turned. */
		record->event.subflow = *key;
		track_close(ctx, follows & TRACK_CLOSES_BY_RST);
	}
}

#endif /* __EMPTCP_TRACK_AFTER_H__ */
