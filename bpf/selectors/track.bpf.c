// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The tracker: takes up each packet of a subflow of Multipath TCP, once for each
 * direction wherever it meets us. It matches the packet that shows the keys of a
 * connection, for what follows to make tokens of them, so that only handshakes
 * pay for hashes.
 */
#include <emptcp/announcer.h>
#include <emptcp/clock.h>
#include <emptcp/edit.h>
#include <emptcp/learnt.h>
#include <emptcp/length.h>
#include <emptcp/track_events.h>
#include <emptcp/track_maps.h>

EMPTCP_NO_PARAMS(track);

/** Window scale (RFC 7323, 2.2). */
#define TCPOPT_WINDOW 3
#define TCPOLEN_WINDOW 3
#define TCP_WSCALE_MAX 14

/** A direction that was not seen for so long where it is counted may be counted elsewhere. */
#define TRACK_ELSEWHERE_NS 1000000000ULL
/** What comes later behind the end of a subflow belongs to another one. */
#define TRACK_CLOSED_NS 10000000000ULL
/** Bytes of the two addresses of an Ethernet header, and of a VLAN tag. */
#define TRACK_MACS 12
#define TRACK_TAG 4
/** Bytes of NOP NOP timestamps. */
#define TRACK_TIMESTAMPS 12

/** A new subflow is made here: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_track_subflow);
	__uint(max_entries, 1);
} track_scratch SEC(".maps");

/*
 * Walks through options are functions that the verifier looks at once: what it
 * knows of subflows would else multiply with each round. They take where the TCP
 * header is, and how long.
 */
static __always_inline struct emptcp_pkt track_at(struct emptcp_ctx *ctx, __u32 tcp_off,
						  __u32 tcp_len)
{
	tcp_off &= EMPTCP_OFF_MASK;
	return (struct emptcp_pkt){
		.tcp = ctx_data(ctx) + tcp_off,
		.tcp_off = tcp_off,
		.tcp_len = tcp_len & 63,
	};
}

/** Offset of the window scale from the start of the TCP header; 0: none. */
__noinline int track_find_wscale(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return tcpopt_find(ctx, &pkt, TCPOPT_WINDOW, TCPOLEN_WINDOW);
}

/** Offset of timestamps, wherever they are. */
__noinline int track_find_timestamps(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return tcpopt_find(ctx, &pkt, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP);
}

/** Offset of the MPTCP option of a SYN or SYN/ACK; 0: none. */
__noinline int track_find_hello(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return tcpopt_find(ctx, &pkt, TCPOPT_MPTCP, TCPOLEN_MPTCP_MPC_SYN);
}

/** The options that matter behind the handshake. */
struct track_scan {
	/** A bit for each subtype. */
	__u32 subtypes;
	/** Flags of the DSS. */
	__u32 dss;
	/** Third byte of MP_PRIO. */
	__u32 prio;
};

static __always_inline int track_scan_visit(const struct tcpopt *opt, void *arg)
{
	__u32 subtype = mptcp_subtype(opt->at), is_prio, flags = 0;
	struct track_scan *scan = arg;

	if (subtype == MPTCP_DSS && tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
		flags = opt->at[3];
	is_prio = subtype == MPTCP_MP_PRIO;
	scan->dss = emptcp_forget(scan->dss | flags);
	scan->prio = emptcp_forget(scan->prio | is_prio * opt->at[2]);
	scan->subtypes = emptcp_forget(scan->subtypes | 1 << subtype);
	return TCPOPT_GO_ON;
}

/** Subtypes in the lower 16 bits, then flags of the DSS, then the lower bits of MP_PRIO. */
__noinline int track_find_options(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);
	struct track_scan scan = {
		.subtypes = emptcp_forget(0),
		.dss = emptcp_forget(0),
		.prio = emptcp_forget(0),
	};

	mptcp_walk(ctx, &pkt, TCPOLEN_MPTCP_MIN, track_scan_visit, &scan);
	return (scan.subtypes & 0xffff) | (scan.dss & 0xff) << 16 | (scan.prio & 1) << 24;
}

/** What the option of a handshake says. */
struct track_hello {
	/** enum emptcp_track_kind; 0: there is none. */
	__u32 kind;
	__u32 version;
	/** MP_JOIN. */
	__u32 addr_id;
	__u32 backup;
	/** MP_JOIN of a SYN. */
	__u32 token;
};

/** Reads the MPTCP option of a SYN or SYN/ACK. */
static __always_inline void track_hello(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					struct track_hello *hello)
{
	__u32 off = track_find_hello(ctx, pkt->tcp_off, pkt->tcp_len) & 63;
	const __u8 *opt;

	hello->kind = 0;
	hello->version = 1;
	if (!off)
		return;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_MPC_SYN);
	if (!opt)
		return;
	if (mptcp_subtype(opt) == MPTCP_MP_CAPABLE) {
		hello->kind = EMPTCP_TRACK_INITIAL;
		hello->version = opt[2] & 15;
		return;
	}
	if (mptcp_subtype(opt) != MPTCP_MP_JOIN)
		return;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_MPJ_SYN);
	if (!opt)
		return;
	hello->kind = EMPTCP_TRACK_JOINED;
	hello->backup = opt[2] & MPTCP_BACKUP;
	hello->addr_id = opt[3];
	hello->token = mptcp_be32(opt + 4);
}

/** The window scale that a SYN offers; EMPTCP_WSCALE_UNKNOWN: none. */
static __always_inline __u32 track_wscale(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 off = track_find_wscale(ctx, pkt->tcp_off, pkt->tcp_len) & 63;
	const __u8 *opt;

	if (!off)
		return EMPTCP_WSCALE_UNKNOWN;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_WINDOW);
	if (!opt)
		return EMPTCP_WSCALE_UNKNOWN;
	return opt[2] > TCP_WSCALE_MAX ? TCP_WSCALE_MAX : opt[2];
}

/** The timestamps of a packet, TSval at 2 and TSecr at 6; NULL: none. */
static __always_inline const __u8 *track_timestamps(struct emptcp_ctx *ctx,
						    const struct emptcp_pkt *pkt)
{
	const __u8 *opt = emptcp_usual_timestamps(ctx, pkt);
	__u32 off;

	if (opt)
		return opt;
	off = track_find_timestamps(ctx, pkt->tcp_off, pkt->tcp_len) & 63;
	return off ? tcpopt_at(ctx, pkt, off, TCPOLEN_TIMESTAMP) : NULL;
}

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

/** What follows from a packet, beside bits of the subtypes of its options that are told of. */
enum track_tells {
	/** The subflow is open. */
	TRACK_TELLS_OPENED = 1 << 16,
	TRACK_TELLS_FALLBACK = 1 << 17,
	/** The subtypes. */
	TRACK_TELLS_OPTIONS = 1 << MPTCP_ADD_ADDR | 1 << MPTCP_REMOVE_ADDR | 1 << MPTCP_MP_PRIO,
	TRACK_TELLS = TRACK_TELLS_OPENED | TRACK_TELLS_FALLBACK | TRACK_TELLS_OPTIONS,
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
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub)
		sub = bpf_map_lookup_elem(&half_open, &key);
	asm volatile("" : "+r"(sub));
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

/** Forgets a connection that has ended in the place of this one, whose last packets are under way.
 */
static __always_inline void track_bury(const struct emptcp_track_key *id)
{
	__u32 slot = bpf_get_prandom_u32() % EMPTCP_TRACK_ENDED;
	struct emptcp_track_key *place = bpf_map_lookup_elem(&ended, &slot), old;
	const struct emptcp_track_conn *conn;

	if (!place)
		return;
	old = *place;
	*place = *id;
	conn = bpf_map_lookup_elem(&connections, &old);
	/* Its token may be that of another one by now. */
	if (conn && !conn->live && conn->flags & EMPTCP_CONN_ENDS &&
	    (old.token != id->token || old.zone != id->zone))
		bpf_map_delete_elem(&connections, &old);
}

/** Takes the subflow that track_after() has left in the record from those that live, and with the
 * last one a connection that has ended. Returns 0. */
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
	is_read = emptcp_event_begin_left(ctx, record);
	/* While what it says is there. */
	if (is_read)
		track_event_subflow(EMPTCP_EVENT_CLOSED,
				    is_rst ? EMPTCP_EVENT_END_RST : EMPTCP_EVENT_END_FIN);
	sub->state = EMPTCP_TRACK_CLOSED;
	/* Selectors find it there, of this packet and of those behind it. */
	bpf_map_update_elem(&half_open, &key, sub, BPF_ANY);
	/* Of several CPUs, or parts of a path, one comes through. */
	if (bpf_map_delete_elem(&subflows, &key))
		return 0;
	if (is_read)
		track_event_send(EMPTCP_RING_SUBFLOW, sizeof(record->subflow));
	if (!tied)
		return 0;
	conn = bpf_map_lookup_elem(&connections, &id);
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
	track_bury(&id);
	return 0;
}

/** Notes which end of a connection announces an address on the subflow that track_after() has left
 * in the record. from: direction of the packet. Returns 0. */
__noinline int track_announcer(__u32 from)
{
	union emptcp_event_record *record = emptcp_event_record();
	struct emptcp_announcer end = {.at = emptcp_boot_now()};
	const struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;

	if (!record)
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
	if (follows & 1 << MPTCP_ADD_ADDR)
		track_announcer(from & 1);
	if (follows & TRACK_TELLS)
		track_tell(ctx, follows | from << TRACK_FROM_SHIFT, pkt->tcp_off, pkt->tcp_len,
			   bpf_ntohl(pkt->tcp->seq));
	if (follows & TRACK_CLOSES) {
		/* It may have been turned. */
		record->event.subflow = *key;
		track_close(ctx, follows & TRACK_CLOSES_BY_RST);
	}
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

/** The connection to which a subflow belongs; NULL: none. */
static __always_inline struct emptcp_track_conn *track_own(const struct emptcp_track_subflow *sub)
{
	/* What one that is not proven says counts for nothing. */
	return sub->flags & EMPTCP_TRACK_TIED ? emptcp_tracked_conn(sub) : NULL;
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
	const struct emptcp_track_subflow *old = bpf_map_lookup_elem(&subflows, key);
	struct emptcp_track_conn *conn;

	if (!old)
		return;
	conn = track_own(old);
	if (!conn)
		return;
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

static __always_inline void track_scan(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       struct track_scan *scan)
{
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	const __u8 *dss = (const void *)(ts + 3);
	__u32 found;

	/* What most packets have: timestamps, and a DSS that fills the rest. */
	if ((const void *)(dss + TCPOLEN_MPTCP_DSS_BASE) <= ctx_data_end(ctx) &&
	    *ts == bpf_htonl(0x0101080a) && dss[0] == TCPOPT_MPTCP && dss[1] == pkt->tcp_len - 32 &&
	    mptcp_subtype(dss) == MPTCP_DSS) {
		scan->subtypes = 1 << MPTCP_DSS;
		scan->dss = dss[3];
		scan->prio = 0;
		return;
	}
	found = track_find_options(ctx, pkt->tcp_off, pkt->tcp_len);
	scan->subtypes = found & 0xffff;
	scan->dss = found >> 16 & 0xff;
	scan->prio = found >> 24 & 1;
}

/** Whether the packet counts here; where it counted before, it counts there. */
static __always_inline int track_counts_here(struct emptcp_ctx *ctx, struct emptcp_track_way *way,
					     __u64 now)
{
	__u32 ifindex = ctx_ifindex(ctx);
	__u8 hook = emptcp_number(EMPTCP_NUMBER_HOOK) + 1;

	if (way->ifindex == ifindex && way->hook == hook)
		return 1;
	/* Another CPU's time may lie ahead. */
	if (way->hook && (__s64)(now - way->last) < (__s64)TRACK_ELSEWHERE_NS)
		return 0;
	way->ifindex = ifindex;
	way->hook = hook;
	way->l2_len = 0;
	return 1;
}

/** Keeps the link-layer header for frames that are made later. */
static __always_inline void track_link_layer(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     struct emptcp_track_way *way)
{
	const __u8 *data = ctx_data(ctx);
	__u32 len = pkt->ip_off;
	__be16 proto;
	__u16 tci;

	if (pkt->ip_off < sizeof(struct ethhdr) ||
	    (const void *)(data + EMPTCP_L2_MAX) > ctx_data_end(ctx))
		return;
	proto = ctx_vlan(ctx, &tci);
	if (proto) {
		/* A tag that stands beside the packet, but not on the wire. */
		__builtin_memcpy(way->l2, data, TRACK_MACS);
		way->l2[TRACK_MACS] = bpf_ntohs(proto) >> 8;
		way->l2[TRACK_MACS + 1] = bpf_ntohs(proto);
		way->l2[TRACK_MACS + 2] = tci >> 8;
		way->l2[TRACK_MACS + 3] = tci;
		__builtin_memcpy(way->l2 + TRACK_MACS + TRACK_TAG, data + TRACK_MACS,
				 EMPTCP_L2_MAX - TRACK_MACS - TRACK_TAG);
		len += TRACK_TAG;
	} else {
		__builtin_memcpy(way->l2, data, EMPTCP_L2_MAX);
	}
	way->l2_len = len <= EMPTCP_L2_MAX ? len : 0;
}

/** Adds to what the connection has carried. client: the packet comes from its client. */
static __always_inline void track_total(const struct emptcp_track_subflow *sub, int client,
					__u32 payload)
{
	struct emptcp_track_conn *conn = track_own(sub);

	if (conn)
		__sync_fetch_and_add(&conn->bytes[client ? 0 : 1], payload);
}

/** Notes that the connection has ended: bits of enum emptcp_track_conn_flags. */
static __always_inline void track_ends(const struct emptcp_track_subflow *sub, __u8 how)
{
	struct emptcp_track_conn *conn = track_own(sub);

	if (conn)
		conn->flags |= how;
}

/** Keeps the data ACK for frames that are made later, where the DSS stands right behind timestamps
 * and is whole: another packet will have it so. newest: 0 for a packet of the highest number; what
 * somebody makes up has another one, or could harm without us. In numbers: the verifier would
 * follow each branch. */
static __always_inline void track_data_ack(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   struct emptcp_track_way *way, __u32 newest)
{
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	const __u8 *dss = (const void *)(ts + 3), *ack = dss + TCPOLEN_MPTCP_DSS_BASE;
	__u32 flags, wide, differs;
	__u64 number;

	if ((const void *)(ack + 8) > ctx_data_end(ctx))
		return;
	flags = dss[3];
	wide = flags >> 1 & 1;
	differs = (*ts ^ bpf_htonl(0x0101080a)) | (dss[0] ^ TCPOPT_MPTCP) |
		  (mptcp_subtype(dss) ^ MPTCP_DSS) | (~flags & MPTCP_DSS_HAS_ACK) |
		  ((dss[1] - mptcp_dss_len(flags)) & ~(__u32)TCPOLEN_MPTCP_DSS_CHECKSUM & 0xff) |
		  newest;
	number = (__u64)mptcp_be32(ack) << 32 | mptcp_be32(ack + 4);
	number >>= 32 * (wide ^ 1);
	if (differs)
		return;
	way->data_ack = number;
	way->flags = (way->flags & ~EMPTCP_WAY_DATA_ACK64) | EMPTCP_WAY_DATA_ACK |
		     wide * EMPTCP_WAY_DATA_ACK64;
}

/** Window scale of who sends in this direction, plus 1; 0: not known, or one of the ends alone was
 * heard. */
static __always_inline __u32 track_scale(const struct emptcp_track_way *way,
					 const struct emptcp_track_way *back)
{
	if (way->wscale == EMPTCP_WSCALE_UNKNOWN || back->wscale == EMPTCP_WSCALE_UNKNOWN)
		return 0;
	return way->wscale + 1;
}

/** What is known of the packet's subflow while it is not established, or none any more; NULL:
 * nothing. What has ended is forgotten at a new handshake, and after a while. */
static __always_inline struct emptcp_track_subflow *
track_half_open(const struct emptcp_subflow *key, const struct tcphdr *tcp)
{
	struct emptcp_track_subflow *half = bpf_map_lookup_elem(&half_open, key);
	__u64 now, last;

	if (!half || half->state != EMPTCP_TRACK_CLOSED)
		return half;
	now = emptcp_boot_now();
	last = half->way[0].last > half->way[1].last ? half->way[0].last : half->way[1].last;
	/* Another CPU's time may lie ahead. */
	if (!tcp->syn && (__s64)(now - last) < (__s64)TRACK_CLOSED_NS)
		return half;
	bpf_map_delete_elem(&half_open, key);
	return NULL;
}

/** Takes the packet up; 1: it shows keys. *scale: what track_scale() says. */
static __always_inline int track_take(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      __u32 *scale)
{
	const struct tcphdr *tcp = pkt->tcp;
	struct emptcp_track_way *way, *back;
	struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;
	struct track_scan scan;
	__u32 payload, again, tells = 0, seq = bpf_ntohl(tcp->seq);
	const __u8 *opt;
	int from, is_closed, shows_keys;
	__u64 now;

	/* Not known to the verifier, else it looks at all that follows once for each direction. */
	from = emptcp_forget(emptcp_track_key_of(pkt, &key)) & 1;
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (emptcp_unlikely(!sub || tcp->syn || sub->flags & EMPTCP_TRACK_REOPENS)) {
		struct emptcp_track_subflow *half = track_half_open(&key, tcp);

		if (tcp->syn) {
			/* The old one stays until the new one is proven. */
			if (sub)
				sub->flags |= EMPTCP_TRACK_REOPENS;
			if (tcp->ack)
				sub = track_synack(ctx, pkt, &key, from, half, &tells);
			else
				sub = track_syn(ctx, pkt, &key, from, half);
			scan.subtypes = scan.dss = scan.prio = 0;
		} else {
			if (half)
				sub = half;
			/* Else clang combines two tests of pointers into one of numbers. */
			asm volatile("" : "+r"(sub));
			if (!sub)
				return 0;
			track_scan(ctx, pkt, &scan);
			if (sub->state < EMPTCP_TRACK_ESTABLISHED) {
				if (tcp->rst) {
					bpf_map_delete_elem(&half_open, &key);
					return 0;
				}
				if (track_proves(sub, tcp, from, scan.subtypes))
					sub = track_establish(pkt, &key, sub, from, scan.subtypes,
							      &tells);
			}
		}
		if (!sub)
			return 0;
	} else {
		track_scan(ctx, pkt, &scan);
	}
	asm volatile("" : "+r"(ctx));
	scan.subtypes = emptcp_forget(scan.subtypes);
	scan.dss = emptcp_forget(scan.dss);
	scan.prio = emptcp_forget(scan.prio);

	now = emptcp_boot_now();
	way = &sub->way[from & 1];
	back = &sub->way[!(from & 1)];
	*scale = track_scale(way, back);
	tells = emptcp_forget(tells);
	if (!track_counts_here(ctx, way, now)) {
		if (tells)
			track_after(ctx, pkt, &key, from, tells);
		return 0;
	}
	payload = emptcp_payload_len(ctx, pkt);
	again = emptcp_sequence_take(&way->sequence, tcp, payload);
	__sync_fetch_and_add(&way->packets, ctx_segments(ctx));
	if (payload) {
		__sync_fetch_and_add(&way->bytes, payload);
		if (again)
			__sync_fetch_and_add(&way->retransmitted, again);
		if (payload > again)
			track_total(sub, from == sub->client, payload - again);
	}
	way->ack = bpf_ntohl(tcp->ack_seq);
	way->window = bpf_ntohs(tcp->window);
	if (pkt->version == 4) {
		way->ttl = pkt->ip4->ttl;
		way->tos = pkt->ip4->tos;
	} else {
		way->ttl = pkt->ip6->hop_limit;
		way->tos = pkt->ip6->priority << 4 | pkt->ip6->flow_lbl[0] >> 4;
	}
	if (!way->l2_len)
		track_link_layer(ctx, pkt, way);
	opt = track_timestamps(ctx, pkt);
	if (opt) {
		way->ts_ecr = mptcp_be32(opt + 6);
		emptcp_rtt_take(&way->rtt, &back->rtt, opt, tcp, payload || tcp->syn || tcp->fin,
				now / 1000);
	}
	way->last = now;
	track_data_ack(ctx, pkt, way, (seq + payload) ^ way->sequence.end);

	if (scan.subtypes & 1 << MPTCP_MP_PRIO) {
		if (scan.prio & MPTCP_BACKUP)
			way->flags |= EMPTCP_WAY_ASKS_BACKUP;
		else
			way->flags &= ~EMPTCP_WAY_ASKS_BACKUP;
	}
	tells |= scan.subtypes & TRACK_TELLS_OPTIONS;
	if (scan.subtypes & 1 << MPTCP_MP_FAIL)
		tells |= track_fallback(sub, from, seq, EMPTCP_FALLBACK_FAIL);
	if (scan.subtypes & 1 << MPTCP_DSS)
		way->flags |= EMPTCP_WAY_DSS;
	else if (payload && !scan.subtypes && !(way->flags & EMPTCP_WAY_DSS) && !tcp->syn)
		tells |= track_fallback(sub, from, seq, EMPTCP_FALLBACK_DATA);
	if (scan.subtypes & 1 << MPTCP_MP_FASTCLOSE)
		track_ends(sub, EMPTCP_CONN_ENDS | EMPTCP_CONN_FASTCLOSED);
	else if (scan.dss & MPTCP_DSS_DATA_FIN)
		track_ends(sub, EMPTCP_CONN_ENDS);
	if (tcp->fin) {
		way->flags |= EMPTCP_WAY_FIN;
		if (back->flags & EMPTCP_WAY_FIN && sub->state != EMPTCP_TRACK_CLOSED)
			sub->state = EMPTCP_TRACK_CLOSING;
	}
	shows_keys = scan.subtypes & 1 << MPTCP_MP_CAPABLE && from == sub->opener && !tcp->syn &&
		     sub->kind == EMPTCP_TRACK_INITIAL && !(sub->flags & EMPTCP_TRACK_TIED) &&
		     sub->state == EMPTCP_TRACK_ESTABLISHED;
	is_closed = tcp->rst || (sub->state == EMPTCP_TRACK_CLOSING && !tcp->fin && tcp->ack &&
				 (__s32)(way->ack - back->sequence.end) >= 0);
	if (is_closed)
		tells |= TRACK_CLOSES;
	tells |= (scan.prio & MPTCP_BACKUP) << TRACK_BACKUP_SHIFT;
	tells = emptcp_forget(tells);
	if (emptcp_unlikely(tells & (TRACK_TELLS | TRACK_CLOSES)))
		track_after(ctx, pkt, &key, from, tcp->rst ? tells | TRACK_CLOSES_BY_RST : tells);
	return shows_keys;
}

static __always_inline int track_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct track_params *p)
{
	struct emptcp_pkt same;
	__u32 scale = 0;
	int shows_keys;

	/* Headers of the commonest packet stand where the verifier knows: it would look at all of
	 * this once more for them. */
	if (emptcp_again(ctx, pkt, &same))
		return -EMPTCP_REASON_TRUNCATED;
	shows_keys = track_take(ctx, &same, &scale);
	/* For each packet: what the word had before is of another one. */
	emptcp_learnt_leave(ctx, pkt->links->zone, emptcp_forget(scale) & 0xff);
	return shows_keys;
}

EMPTCP_SELECTOR(track, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKS,
		"Tracks subflows and connections; matches packets that show the keys of one");
