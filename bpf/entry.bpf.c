// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The program that the kernel calls first: it sends TCP packets to the first
 * step of the generation in force, and everything else on its way.
 *
 * It knows two generations, the one before and its own, and asks the pinned
 * word which of them counts: so that all hooks and interfaces change from one
 * to the other with one store. Of a third generation it knows nothing, and lets
 * packets pass: it is about to be detached.
 *
 * At tc a policy may be split over several of these. The first one asks the word
 * for all of them, and leaves the answer beside the address of the packet; what
 * later ones find there is about this packet or about none of theirs.
 */
#include <emptcp/chain.h>
#include <emptcp/held_join.h>
#include <emptcp/parse.h>
#include <emptcp/prio.h>
#include <emptcp/pending.h>
#include <emptcp/ring.h>
#include <emptcp/ring_events.h>
#include <emptcp/suppressed.h>
#include <emptcp/track.h>

const volatile struct emptcp_entry emptcp_entry = {};
char _license[] SEC("license") = "Dual BSD/GPL";

/** The generation in force. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_generation);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} generation SEC(".maps");

/** Steps of the generation before. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} progs_prev SEC(".maps");

/** Begins the run; the verifier knows the slot, so that one of the three ways is left. */
static __always_inline int entry_start(struct emptcp_ctx *ctx, void *array,
				       const struct emptcp_entry_side *side, __u32 hook)
{
	if (side->start == EMPTCP_SLOT_PASS)
		return CTX_PASS;
	if (side->start == EMPTCP_SLOT_DROP)
		return CTX_DROP;
	EMPTCP_TAIL_CALL(ctx, array, side->start);
	emptcp_count_reason(hook, EMPTCP_REASON_TAIL_CALL);
	return CTX_PASS;
}

/** Counts a packet that cannot be treated, unless the reason is 0; its verdict. */
static __always_inline int entry_undecidable(const struct emptcp_entry_side *side, __u32 hook,
					     __u32 reason)
{
	if (reason)
		emptcp_count_reason(hook, reason);
	return side->undecidable == EMPTCP_SLOT_DROP ? CTX_DROP : CTX_PASS;
}

/* Into BTF with the enums that the loader takes its numbers and names from. */
struct emptcp_enums {
	enum emptcp_hook hook;
	enum emptcp_framing framing;
	enum emptcp_reason reason;
	enum emptcp_slot slot;
	enum emptcp_way way;
	enum emptcp_is is;
	enum emptcp_number number;
	enum emptcp_frame frame;
	enum emptcp_mark mark;
	enum emptcp_step_flags step_flags;
	enum emptcp_word word;
	struct emptcp_links links;
	struct emptcp_counter counter;
	struct emptcp_counters *counters;
	struct emptcp_handover handover;
	enum emptcp_ring_type ring_type;
	enum emptcp_ring_packet_flags ring_packet_flags;
	enum emptcp_ring_reader_flags ring_reader_flags;
	struct emptcp_ring_packet ring_packet;
	struct emptcp_ring_reader ring_reader;
	enum emptcp_event_flags event_flags;
	enum emptcp_event_what event_what;
	enum emptcp_event_end event_end;
	enum emptcp_event_subflow_flags event_subflow_flags;
	enum emptcp_event_add_addr_flags event_add_addr_flags;
	struct emptcp_event_connection event_connection;
	struct emptcp_event_subflow event_subflow;
	struct emptcp_event_fallback event_fallback;
	struct emptcp_event_add_addr event_add_addr;
	struct emptcp_event_remove_addr event_remove_addr;
	struct emptcp_event_prio event_prio;
	struct emptcp_event_threshold event_threshold;
	struct emptcp_event_quota event_quota;
	enum emptcp_track_way_flags track_way_flags;
	enum emptcp_track_state track_state;
	enum emptcp_track_kind track_kind;
	enum emptcp_fallback fallback;
	enum emptcp_track_flags track_flags;
	enum emptcp_track_conn_flags track_conn_flags;
	struct emptcp_track_key track_key;
	enum emptcp_track_list track_list;
	struct emptcp_track_place track_place;
	struct emptcp_track_subflow track_subflow;
	struct emptcp_track_conn track_conn;
	struct emptcp_prio_wish prio_wish;
	struct emptcp_subflow subflow;
	struct emptcp_pending pending;
	struct emptcp_stash_owner stash_owner;
	struct emptcp_stash_list stash_list;
	struct emptcp_held_join held_join;
};
const volatile struct emptcp_enums emptcp_enums = {};

/**
 * How many parts meet a packet of a generation. While that is the one before, parts
 * of both may be attached, and a part of the next one must not find that nobody
 * has spoken for the packet: the word may have changed since.
 */
static __always_inline __u32 entry_later(const struct emptcp_entry *e, __u64 current)
{
	if (current == e->next.generation || e->next.later > e->prev.later)
		return e->next.later;
	return e->prev.later;
}

/** Enough for the longest headers of packets that are no attack. */
#define PULL_BYTES 512

SEC(EMPTCP_CTX_SECTION)
int emptcp_entry_run(struct emptcp_ctx *ctx)
{
	const struct emptcp_entry *e = (const struct emptcp_entry *)&emptcp_entry;
	struct emptcp_generation *g;
	struct emptcp_pkt pkt = {};
	__u64 current;
	__u32 zero = 0, tracked = 0;
	int reason, counted, known = 1;

	asm volatile("" : "+r"(e));
	g = bpf_map_lookup_elem(&generation, &zero);
	if (!g)
		return CTX_PASS;
	current = *(volatile __u64 *)&g->current;
	/* All parts treat a packet by the generation that the first one chose. */
	if (!e->later && (e->next.later || e->prev.later))
		ctx_hand_over(ctx, e->hook, current, entry_later(e, current));
	if (e->later)
		known = ctx_take_over(ctx, e->hook, &current, &tracked);

	reason = emptcp_parse(ctx, e->framing, &pkt);
	if (reason == EMPTCP_REASON_TRUNCATED && !ctx_pull(ctx, PULL_BYTES))
		reason = emptcp_parse(ctx, e->framing, &pkt);
	if (reason == EMPTCP_REASON_NOT_TCP)
		return CTX_PASS;
	/* What cannot be parsed the first part has counted. */
	counted = e->later ? EMPTCP_REASON_NONE : reason;
	if (!known)
		reason = counted = EMPTCP_REASON_HANDOVER;

	if (!reason)
		emptcp_leave_parsed(ctx, e->framing == EMPTCP_FRAMING_IP, &pkt);
	if (e->context) {
#pragma unroll
		for (int i = 0; i < EMPTCP_WORD_ZEROED; i++)
			ctx_set_word(ctx, i, 0);
	}
	/* The tracker runs in the first part alone. */
	if (e->later)
		ctx_set_word(ctx, EMPTCP_WORD_TRACKED, tracked);
	if (current == e->next.generation) {
		if (reason)
			return entry_undecidable(&e->next, e->hook, counted);
		return entry_start(ctx, &progs, &e->next, e->hook);
	}
	if (current == e->prev.generation) {
		if (reason)
			return entry_undecidable(&e->prev, e->hook, counted);
		return entry_start(ctx, &progs_prev, &e->prev, e->hook);
	}
	return CTX_PASS;
}
