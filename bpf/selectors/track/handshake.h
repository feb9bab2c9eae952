/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tracker: from a SYN to a subflow of a connection. */
#ifndef __EMPTCP_TRACK_HANDSHAKE_H__
#define __EMPTCP_TRACK_HANDSHAKE_H__

#include <emptcp/clock.h>
#include <emptcp/track_maps.h>
#include "after.h"
#include "options.h"

/** A new subflow is made here: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_track_subflow);
	__uint(max_entries, 1);
} track_scratch SEC(".maps");

/** Takes up what a SYN or SYN/ACK says of who sends it. */
static __always_inline void track_greet(struct emptcp_track_way *way,
					const struct track_hello *hello, __u32 wscale)
{
	way->wscale = wscale;
	if (hello->kind == EMPTCP_TRACK_INITIAL) {
		/* The address of the first subflow (RFC 8684, 3.2). */
		way->addr_id = 0;
		way->flags |= EMPTCP_WAY_HAS_ID;
	}
	if (hello->kind != EMPTCP_TRACK_JOINED)
		return;
	way->addr_id = hello->addr_id;
	way->flags |= EMPTCP_WAY_HAS_ID;
	if (hello->backup)
		way->flags |= EMPTCP_WAY_ASKS_BACKUP;
}

/** A new subflow that waits for the end of its handshake; NULL: no room. opener: direction of its
 * SYN. */
static __always_inline struct emptcp_track_subflow *
track_new(const struct emptcp_subflow *key, const struct track_hello *hello, int opener)
{
	struct emptcp_track_subflow *sub;
	__u32 zero = 0;

	sub = bpf_map_lookup_elem(&track_scratch, &zero);
	if (!sub)
		return NULL;
	__builtin_memset(sub, 0, sizeof(*sub));
	sub->created = emptcp_boot_now();
	sub->kind = hello->kind;
	sub->version = hello->version;
	sub->opener = opener;
	sub->client = hello->kind == EMPTCP_TRACK_INITIAL ? opener : EMPTCP_DIRECTION_UNKNOWN;
	sub->way[0].wscale = EMPTCP_WSCALE_UNKNOWN;
	sub->way[1].wscale = EMPTCP_WSCALE_UNKNOWN;
	if (bpf_map_update_elem(&half_open, key, sub, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&half_open, key);
}

/** Notes that the connection goes on as plain TCP, and which packet showed it. Returns what there
 * is to tell of: enum track_tells. */
static __always_inline __u32 track_fallback(struct emptcp_track_subflow *sub, int from, __u32 seq,
					    int cause)
{
	if (sub->fallback || sub->kind != EMPTCP_TRACK_INITIAL)
		return 0;
	sub->fallback = cause;
	sub->fallback_way = from;
	sub->fallback_seq = seq;
	sub->fallback_at = emptcp_boot_now();
	return TRACK_TELLS_FALLBACK;
}

/** The connection with this token of either end; the key becomes that of the connection. NULL: not
 * known. */
static __always_inline struct emptcp_track_conn *track_named(struct emptcp_track_key *key)
{
	struct emptcp_track_conn *conn = bpf_map_lookup_elem(&connections, key);
	const emptcp_token *server;

	if (conn)
		return conn;
	server = bpf_map_lookup_elem(&client_tokens, key);
	if (!server)
		return NULL;
	key->token = *server;
	return bpf_map_lookup_elem(&connections, key);
}

/** SYN. */
static __always_inline struct emptcp_track_subflow *
track_syn(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt, const struct emptcp_subflow *key,
	  int from, struct emptcp_track_subflow *half)
{
	__u32 next = bpf_ntohl(pkt->tcp->seq) + 1, wscale;
	struct emptcp_track_subflow *sub;
	struct track_hello hello = {};

	/* Once more. */
	if (half && half->opener == from && half->proof == next)
		return half;
	track_hello(ctx, pkt, &hello);
	if (!hello.kind) {
		if (half)
			bpf_map_delete_elem(&half_open, key);
		return NULL;
	}
	wscale = track_wscale(ctx, pkt);
	sub = track_new(key, &hello, from);
	if (!sub)
		return NULL;
	sub->proof = next;
	sub->token = hello.token;
	if (hello.kind == EMPTCP_TRACK_JOINED) {
		struct emptcp_track_key named = {.token = hello.token, .zone = key->zone};

		sub->flags |= EMPTCP_TRACK_HAS_TOKEN;
		if (track_named(&named)) {
			sub->conn = named;
			sub->flags |= EMPTCP_TRACK_NAMES;
		}
	}
	track_greet(&sub->way[from & 1], &hello, wscale == EMPTCP_WSCALE_UNKNOWN ? 0 : wscale);
	return sub;
}

/** SYN/ACK. */
static __always_inline struct emptcp_track_subflow *
track_synack(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt, const struct emptcp_subflow *key,
	     int from, struct emptcp_track_subflow *half, __u32 *tells)
{
	__u32 seq = bpf_ntohl(pkt->tcp->seq), ack = bpf_ntohl(pkt->tcp->ack_seq), wscale;
	struct track_hello hello = {};

	if (half && half->state != EMPTCP_TRACK_SYN)
		return half->opener != from && half->proof == seq + 1 ? half : NULL;
	/* Of another handshake, or of nobody who saw the SYN. */
	if (half && (half->opener == from || half->proof != ack))
		return NULL;
	track_hello(ctx, pkt, &hello);
	wscale = track_wscale(ctx, pkt);
	if (!half) {
		if (!hello.kind)
			return NULL;
		half = track_new(key, &hello, !from);
		if (!half)
			return NULL;
	}
	half->state = EMPTCP_TRACK_SYNACK;
	half->proof = seq + 1;
	if (hello.kind == EMPTCP_TRACK_INITIAL)
		half->version = hello.version;
	else if (!hello.kind)
		*tells = track_fallback(half, from, seq, EMPTCP_FALLBACK_SYNACK);
	if (wscale == EMPTCP_WSCALE_UNKNOWN) {
		/* No window of either end is scaled (RFC 7323, 2.2). */
		wscale = 0;
		half->way[!(from & 1)].wscale = 0;
	}
	track_greet(&half->way[from & 1], &hello, wscale);
	return half;
}

/** SYN or SYN/ACK. old: the established subflow of these ports, which a SYN/ACK that comes once
 * more leaves as it is. */
static __always_inline struct emptcp_track_subflow *
track_opens(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt, const struct emptcp_subflow *key,
	    int from, struct emptcp_track_subflow *half, struct emptcp_track_subflow *old,
	    __u32 *tells)
{
	const struct tcphdr *tcp = pkt->tcp;

	if (old) {
		/* The third ACK was lost, or two SYNs were answered. */
		if (tcp->ack && old->opener != from && old->proof == bpf_ntohl(tcp->seq) + 1)
			return old;
		/* The old one stays until the new one is proven. */
		old->flags |= EMPTCP_TRACK_REOPENS;
	}
	if (tcp->ack)
		return track_synack(ctx, pkt, key, from, half, tells);
	return track_syn(ctx, pkt, key, from, half);
}

/** Ties a joined subflow, whose handshake is proven, to the connection whose token its SYN had. */
static __always_inline void track_tie(struct emptcp_track_subflow *sub, __u32 zone)
{
	struct emptcp_track_key key = {.token = sub->token, .zone = zone};
	struct emptcp_track_conn *conn;

	if (!(sub->flags & EMPTCP_TRACK_HAS_TOKEN) || sub->flags & EMPTCP_TRACK_TIED)
		return;
	sub->flags &= ~EMPTCP_TRACK_NAMES;
	conn = track_named(&key);
	if (!conn)
		return;
	/* Who accepted the first subflow is asked by its own token. */
	sub->client = key.token == sub->token ? sub->opener : !sub->opener;
	sub->conn = key;
	sub->version = conn->version;
	/* Two that join in the same microsecond on two CPUs may get one number. */
	sub->index = conn->ever;
	sub->flags |= EMPTCP_TRACK_TIED;
	__sync_fetch_and_add(&conn->ever, 1);
	__sync_fetch_and_add(&conn->live, 1);
	conn->closed = 0;
}

/** Whether a packet shows that the handshake is over. */
static __always_inline int track_proves(const struct emptcp_track_subflow *half,
					const struct tcphdr *tcp, int from, __u32 subtypes)
{
	__u32 ack = bpf_ntohl(tcp->ack_seq), seq = bpf_ntohl(tcp->seq);

	if (!tcp->ack || tcp->rst)
		return 0;
	if (from == half->opener) {
		/* No more than the window is under way. */
		if (half->state == EMPTCP_TRACK_SYNACK)
			return ack - half->proof < EMPTCP_WINDOW_MAX;
		/* Of who answers nothing is seen here. */
		return seq == half->proof &&
		       subtypes & (1 << MPTCP_MP_CAPABLE | 1 << MPTCP_MP_JOIN);
	}
	/* Who answered goes on, and of who asks nothing is seen here. */
	return half->state == EMPTCP_TRACK_SYNACK && !half->way[half->opener & 1].last;
}

/** Another subflow of these ports, of whose end nothing was seen, is none of its connection any
 * more. */
static __always_inline void track_replace(const struct emptcp_subflow *key)
{
	struct emptcp_track_subflow *old = bpf_map_lookup_elem(&subflows, key);
	struct emptcp_track_conn *conn;

	if (!old)
		return;
	conn = track_own(old);
	if (!conn)
		return;
	track_told(conn, old, EMPTCP_FROM_LOWER);
	track_told(conn, old, EMPTCP_FROM_HIGHER);
	__sync_fetch_and_add(&conn->live, -1);
	if (!*(volatile __u32 *)&conn->live)
		conn->closed = emptcp_boot_now();
}

/** Makes a subflow whose handshake is proven one that stays. */
static __always_inline struct emptcp_track_subflow *
track_establish(const struct emptcp_pkt *pkt, const struct emptcp_subflow *key,
		struct emptcp_track_subflow *half, int from, __u32 subtypes, __u32 *tells)
{
	struct emptcp_track_subflow *sub;

	half->state = EMPTCP_TRACK_ESTABLISHED;
	if (from == half->opener && !subtypes)
		*tells = track_fallback(half, from, bpf_ntohl(pkt->tcp->seq), EMPTCP_FALLBACK_ACK);
	/* Of one that shows keys the next step tells, once it has the token. */
	if (from != half->opener || half->kind != EMPTCP_TRACK_INITIAL ||
	    !(subtypes & 1 << MPTCP_MP_CAPABLE)) {
		half->flags |= EMPTCP_TRACK_TOLD;
		*tells |= TRACK_TELLS_OPENED;
	}
	track_replace(key);
	if (half->kind == EMPTCP_TRACK_JOINED)
		track_tie(half, key->zone);
	if (bpf_map_update_elem(&subflows, key, half, BPF_ANY)) {
		emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), EMPTCP_REASON_MAP_FULL);
		return half;
	}
	bpf_map_delete_elem(&half_open, key);
	sub = bpf_map_lookup_elem(&subflows, key);
	return sub;
}

#endif /* __EMPTCP_TRACK_HANDSHAKE_H__ */
