// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/clock.h>
#include <emptcp/length.h>
#include <emptcp/module.h>
#include <emptcp/sequence.h>

/** Timestamps (RFC 7323, 3.2). */
#define TCPOPT_TIMESTAMP 8
#define TCPOLEN_TIMESTAMP 10

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

/** Round trips of what goes one way. */
struct record_way {
	/* What waits for an answer: its timestamp, and in the lower half when it came by, in
	 * microseconds; 0 for nothing. One word, so that it is never half of each. */
	__u64 pending;
	/* The latest timestamp; more than it has not been seen. */
	__u32 latest;
	__u32 known;
	/* Eight times the smoothed one (RFC 6298), and the least; 0: not known. */
	__u32 srtt;
	__u32 min_rtt;
};

/** By the lower end of the subflow, address and port, and the higher one. */
struct record_both {
	struct record_way ways[2];
};

/* Of all steps together: those of one direction know nothing of answers. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct record_both);
	__uint(max_entries, 16384);
} round_trips SEC(".maps") EMPTCP_KEPT;

/** The timestamps of a packet, TSval at 2 and TSecr at 6; NULL where it has none. */
static __always_inline const __u8 *record_timestamps(struct emptcp_ctx *ctx,
						     const struct emptcp_pkt *pkt)
{
	const __u32 *usual = (const void *)(pkt->tcp + 1);
	const __u8 *opt;
	__u32 off;

	if ((const void *)(usual + 3) <= ctx_data_end(ctx) && pkt->tcp_len >= 32 &&
	    *usual == bpf_htonl(0x0101080a))
		return (const __u8 *)usual + 2;
	off = tcpopt_find(ctx, pkt, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP);
	if (!off)
		return NULL;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_TIMESTAMP);
	return opt && opt[1] == TCPOLEN_TIMESTAMP ? opt : NULL;
}

/** Whether the source of a subflow is its higher end. */
static __always_inline int record_is_higher(const struct emptcp_subflow *s)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (s->src.w[i] != s->dst.w[i])
			return s->src.w[i] > s->dst.w[i];
	}
	return s->sport > s->dport;
}

/** Round trips of a subflow; subflow is that of its lower end then. NULL: there is no room. */
static __always_inline struct record_both *record_both_of(struct emptcp_subflow *subflow,
							  int higher)
{
	struct record_both *both, none = {};

	if (higher) {
		struct emptcp_addr addr = subflow->src;
		emptcp_port port = subflow->sport;

		subflow->src = subflow->dst;
		subflow->sport = subflow->dport;
		subflow->dst = addr;
		subflow->dport = port;
	}
	both = bpf_map_lookup_elem(&round_trips, subflow);
	if (both)
		return both;
	bpf_map_update_elem(&round_trips, subflow, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&round_trips, subflow);
}

static __always_inline void record_sample(struct record_way *way, __u32 rtt)
{
	/* 0 is for what is not known. */
	if (!rtt)
		rtt = 1;
	if (!way->srtt)
		way->srtt = rtt << 3;
	else
		way->srtt += rtt - (way->srtt >> 3);
	if (!way->min_rtt || rtt < way->min_rtt)
		way->min_rtt = rtt;
}

/**
 * Measures by timestamps, which tell apart what was sent again (RFC 7323, 4): the
 * first packet with a timestamp that asks for an answer, and the first answer
 * that echoes it. asks: the receiver answers it by itself.
 */
static __always_inline void record_round_trip(struct record_both *both, int higher, const __u8 *opt,
					      const struct tcphdr *tcp, int asks)
{
	struct record_way *way = &both->ways[higher & 1], *back = &both->ways[!higher];
	__u32 now = emptcp_now() / 1000;
	__u32 val = mptcp_be32(opt + 2);
	__u64 pending;

	pending = *(volatile __u64 *)&back->pending;
	if (tcp->ack && pending) {
		__s32 later = mptcp_be32(opt + 6) - (__u32)(pending >> 32);

		if (later >= 0)
			*(volatile __u64 *)&back->pending = 0;
		if (!later)
			record_sample(back, now - (__u32)pending);
	}
	if (tcp->syn) {
		/* Another connection. */
		way->pending = 0;
		way->srtt = 0;
		way->min_rtt = 0;
	} else if (!way->known) {
		/* Packets before may have had the same. */
		asks = 0;
	} else if ((__s32)(val - way->latest) <= 0) {
		return;
	}
	way->known = 1;
	way->latest = val;
	if (asks && !way->pending)
		*(volatile __u64 *)&way->pending = (__u64)val << 32 | now;
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
		const __u8 *opt = record_timestamps(ctx, pkt);
		int higher = record_is_higher(&key.subflow);
		const struct tcphdr *tcp = pkt->tcp;
		struct record_both *both;

		if (!opt)
			return EMPTCP_NEXT;
		both = record_both_of(&key.subflow, higher);
		if (!both)
			return EMPTCP_NEXT;
		record_round_trip(both, higher, opt, tcp, payload || tcp->syn || tcp->fin);
		value->srtt_us = both->ways[higher & 1].srtt >> 3;
		value->min_rtt_us = both->ways[higher & 1].min_rtt;
	}
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(record, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Counts packets, bytes and retransmitted payload of each subflow");
