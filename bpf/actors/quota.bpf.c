// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/event.h>
#include <emptcp/join.h>
#include <emptcp/length.h>
#include <emptcp/once.h>
#include <emptcp/wish.h>

enum quota_per {
	QUOTA_PER_ALL,
	QUOTA_PER_SUBFLOW,
	QUOTA_PER_CONNECTION,
	/* All that goes to one destination address. */
	QUOTA_PER_DST,
	/* All packets to which the same entry of a table gives the bytes. */
	QUOTA_PER_ENTRY,
};

enum quota_then {
	QUOTA_THEN_BACKUP,
	QUOTA_THEN_REJECT,
	QUOTA_THEN_DROP,
	QUOTA_THEN_EVENT,
};

struct quota_params {
	struct emptcp_text
		name EMPTCP_DOC("What it is called: all steps of this name, whatever "
				"their hooks and chains, use up the same quota") EMPTCP_REQUIRED;
	emptcp_bytes bytes EMPTCP_DOC("Payload that may come by, of both directions that reach a "
				      "step, with what is sent again") EMPTCP_REQUIRED;
	emptcp_time period EMPTCP_DOC("It begins anew at multiples of this since the machine "
				      "started; 0: never") EMPTCP_DEFAULT("0");
	enum quota_per per EMPTCP_DOC("all: whatever reaches the steps has it together; subflow, "
				      "connection: each for itself; dst: each destination address; "
				      "entry: each entry of the table that bytes come from")
		EMPTCP_DEFAULT("all");
	enum quota_then then EMPTCP_DOC("Once it is used up: backup: MP_PRIO, as set_flow_prio, to "
					"who receives the packets; reject: the SYN of further "
					"subflows is dropped; drop: so is what has payload; event: "
					"nothing but the event") EMPTCP_REQUIRED;
	__u8 owner EMPTCP_DOC("Of backup: whose wish it is, as of set_flow_prio")
		EMPTCP_DEFAULT("0") EMPTCP_MAX("31");
};

/* What is not asked for is zero. */
struct quota_key {
	struct emptcp_text name;
	/* A subflow from its lower to its higher end, or a destination. */
	struct emptcp_subflow subflow;
	/* Of a connection: token of the server. */
	emptcp_token token;
	__u32 pad;
	/* emptcp_entry(). */
	__u64 pad_entry;
	/* Number of the period: each has an entry of its own, so nothing is ever set back, and no
	 * byte of another CPU lost by that. */
	__u64 period;
};

struct quota_used {
	/* Of packets that passed. */
	emptcp_bytes bytes;
	/* Of packets that were dropped. */
	emptcp_bytes dropped;
	/* The event was told. */
	__u64 pad_told;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct quota_key);
	__type(value, struct quota_used);
	__uint(max_entries, 65536);
} quotas SEC(".maps") EMPTCP_KEPT;

struct quota_told {
	emptcp_time at;
};

/* So that of several CPUs one tells. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct quota_key);
	__type(value, struct quota_told);
	__uint(max_entries, 4096);
} quotas_told SEC(".maps") EMPTCP_KEPT;

/* Too large for the stack beside what emptcp_wish() has there. */
struct quota_room {
	struct quota_key key;
	struct quota_used first;
	struct quota_told told;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct quota_room);
	__uint(max_entries, 1);
} quota_scratch SEC(".maps");

/* Token of the connection; 0: not known. Of the SYN of a further subflow the one that it asks for.
 */
static __always_inline emptcp_token quota_token(const struct emptcp_pkt *pkt)
{
	const struct emptcp_track_subflow *sub;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	if (sub->flags & EMPTCP_TRACK_TIED)
		return sub->conn.token;
	return sub->flags & EMPTCP_TRACK_HAS_TOKEN ? sub->token : 0;
}

/**
 * Sends the event that quota_tell() has left in the record: a function of its own, because the
 * stack of the other one is full. Returns 0.
 */
__noinline int quota_send(struct emptcp_ctx *ctx, __u64 bytes, __u64 limit, __u64 period)
{
	union emptcp_event_record *record = emptcp_event_record();
	const struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;
	int from;

	if (!record || !emptcp_event_begin_left(ctx, record))
		return 0;
	key = record->event.subflow;
	from = emptcp_is_higher(&key);
	if (from)
		emptcp_turn(&key);
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub)
		sub = bpf_map_lookup_elem(&half_open, &key);
	asm volatile("" : "+r"(sub));
	if (sub)
		emptcp_event_tracked(record, sub, from);
	record->quota.bytes = bytes;
	record->quota.limit = limit;
	record->quota.period = period;
	emptcp_event_send(record, EMPTCP_RING_QUOTA, sizeof(record->quota));
	return 0;
}

/* Tells once that it is used up, if anybody reads. */
static __always_inline void quota_tell(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct quota_params *p, struct quota_room *room,
				       struct quota_used *used)
{
	union emptcp_event_record *record = emptcp_event_record();

	if (!record || !emptcp_ring_reader_of(&event_reader, &room->told.at))
		return;
	used->pad_told = 1;
	if (emptcp_claim(&quotas_told, &room->key, &room->told, BPF_NOEXIST) != EMPTCP_NEXT)
		return;
	emptcp_ring_leave(&record->event.head, pkt->links);
	emptcp_subflow_of(pkt, &record->event.subflow);
	record->quota.name = p->name;
	quota_send(ctx, used->bytes, p->bytes, p->period);
}

/* What it is counted under; 0, or -1 where the connection is not known. */
static __always_inline int quota_key_of(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct quota_params *p, struct quota_key *key)
{
	key->name = p->name;
	key->subflow.zone = pkt->links->zone;
	if (p->period)
		key->period = emptcp_boot_now() / p->period;
	if (p->per == QUOTA_PER_SUBFLOW) {
		emptcp_track_key_of(pkt, &key->subflow);
	} else if (p->per == QUOTA_PER_DST) {
		emptcp_daddr(pkt, &key->subflow.dst);
	} else if (p->per == QUOTA_PER_ENTRY) {
		key->pad_entry =
			emptcp_entry(ctx, pkt->links, offsetof(struct quota_params, bytes));
	} else if (p->per == QUOTA_PER_CONNECTION) {
		key->token = quota_token(pkt);
		return key->token ? 0 : -1;
	}
	return 0;
}

/* The entry of the key, where there is none a new one; NULL: no room. */
static __always_inline struct quota_used *quota_begin(struct quota_room *room)
{
	struct quota_key *key = &room->key;

	bpf_map_update_elem(&quotas, key, &room->first, BPF_NOEXIST);
	if (key->period) {
		key->period--;
		bpf_map_delete_elem(&quotas, key);
		key->period++;
	}
	return bpf_map_lookup_elem(&quotas, key);
}

static __always_inline int quota_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct quota_params *p)
{
	__u32 payload = emptcp_payload_len(ctx, pkt);
	struct quota_used *used;
	struct quota_room *room;
	struct quota_key *key;
	__u32 zero = 0;
	int is_up;

	room = bpf_map_lookup_elem(&quota_scratch, &zero);
	if (!room)
		return -EMPTCP_REASON_MAP_FULL;
	__builtin_memset(room, 0, sizeof(*room));
	key = &room->key;
	if (quota_key_of(ctx, pkt, p, key))
		return payload ? -EMPTCP_REASON_UNTRACKED : EMPTCP_SKIP;
	if (p->per == QUOTA_PER_SUBFLOW && pkt->tcp->syn && !pkt->tcp->ack) {
		/* A new subflow with these ports. */
		bpf_map_delete_elem(&quotas, key);
		bpf_map_delete_elem(&quotas_told, key);
	}
	used = bpf_map_lookup_elem(&quotas, key);
	if (!used && payload) {
		used = quota_begin(room);
		if (!used)
			return -EMPTCP_REASON_MAP_FULL;
	}
	is_up = !p->bytes;
	if (used) {
		is_up = *(volatile __u64 *)&used->bytes >= p->bytes;
		if (payload && is_up && p->then == QUOTA_THEN_DROP) {
			__sync_fetch_and_add(&used->dropped, payload);
		} else if (payload) {
			__sync_fetch_and_add(&used->bytes, payload);
			is_up = *(volatile __u64 *)&used->bytes >= p->bytes;
			/* This one came before it was used up. */
			if (p->then == QUOTA_THEN_DROP)
				payload = 0;
		}
		if (is_up && !used->pad_told)
			quota_tell(ctx, pkt, p, room, used);
	}
	/* One state for the verifier, else it looks at all that follows once for each way here. */
	is_up = emptcp_forget(is_up) & 1;
	if (p->then == QUOTA_THEN_BACKUP)
		return emptcp_wish(ctx, pkt, p->owner, is_up, is_up, 1);
	if (!is_up)
		return EMPTCP_SKIP;
	if (p->then == QUOTA_THEN_REJECT)
		return emptcp_is_join_syn(ctx, pkt) ? EMPTCP_DROP : EMPTCP_SKIP;
	if (p->then == QUOTA_THEN_DROP)
		return payload ? EMPTCP_DROP : EMPTCP_SKIP;
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(
	quota, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS "," EMPTCP_IMPURE "," EMPTCP_TRACKED,
	"Bytes that may come by; then subflows become backup, or joins or packets are dropped");
