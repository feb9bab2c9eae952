// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/clock.h>
#include <emptcp/length.h>
#include <emptcp/module.h>
#include <emptcp/rtt.h>
#include <emptcp/sequence.h>

struct record_params {
	emptcp_bool rtt EMPTCP_DOC("Round-trip times too; of subflows that such steps see both "
				   "directions of, with timestamps");
	__u8 pad[7];
};

struct record_key {
	struct emptcp_subflow subflow;
	/* Number of the step: two steps that record count apart. */
	emptcp_step_id step;
	__u32 pad;
};

struct record_value {
	__u64 packets;
	emptcp_bytes bytes;
	/* Payload that had been there before. */
	emptcp_bytes retransmitted;
	/* From here to the destination and back. */
	emptcp_rtt srtt_us;
	emptcp_rtt min_rtt_us;
	struct emptcp_sequence pad_sequence;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct record_key);
	__type(value, struct record_value);
	__uint(max_entries, 65536);
} records SEC(".maps") EMPTCP_KEPT;

/** By the lower end of the subflow, address and port, and the higher one. */
struct record_both {
	struct emptcp_rtt_way ways[2];
};

/* Of all steps together: those of one direction know nothing of answers. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct record_both);
	__uint(max_entries, 16384);
} round_trips SEC(".maps") EMPTCP_KEPT;

/** Round trips of a subflow; subflow is that of its lower end then. NULL: there is no room. */
static __always_inline struct record_both *record_both_of(struct emptcp_subflow *subflow,
							  int higher)
{
	struct record_both *both, none = {};

	if (higher)
		emptcp_turn(subflow);
	both = bpf_map_lookup_elem(&round_trips, subflow);
	if (both)
		return both;
	bpf_map_update_elem(&round_trips, subflow, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&round_trips, subflow);
}

static __always_inline int record_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct record_params *p)
{
	__u32 segments = emptcp_segments(ctx, pkt);
	__u32 bytes = emptcp_wire_len(ctx, pkt, segments);
	__u32 payload = emptcp_payload_len(ctx, pkt), again;
	struct record_value *value, first = {};
	struct record_key key = {.step = pkt->links->step};

	emptcp_subflow_of(pkt, &key.subflow);
	value = bpf_map_lookup_elem(&records, &key);
	if (!value) {
		bpf_map_update_elem(&records, &key, &first, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&records, &key);
		if (!value)
			return -EMPTCP_REASON_MAP_FULL;
	}
	__sync_fetch_and_add(&value->packets, segments);
	__sync_fetch_and_add(&value->bytes, bytes);
	again = emptcp_sequence_take(&value->pad_sequence, pkt->tcp, payload);
	if (again)
		__sync_fetch_and_add(&value->retransmitted, again);
	if (p->rtt) {
		const __u8 *opt = emptcp_timestamps(ctx, pkt);
		int higher = emptcp_is_higher(&key.subflow);
		const struct tcphdr *tcp = pkt->tcp;
		struct record_both *both;

		if (!opt)
			return EMPTCP_NEXT;
		both = record_both_of(&key.subflow, higher);
		if (!both)
			return EMPTCP_NEXT;
		emptcp_rtt_take(&both->ways[higher & 1], &both->ways[!higher], opt, tcp,
				payload || tcp->syn || tcp->fin, emptcp_now() / 1000);
		value->srtt_us = both->ways[higher & 1].srtt >> 3;
		value->min_rtt_us = both->ways[higher & 1].min_rtt;
	}
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(record, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Counts packets, bytes and retransmitted payload of each subflow");
