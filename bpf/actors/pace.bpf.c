// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Departure times for fq (sch_fq(8)): each packet leaves when those before it
 * have gone at the rate. The earliest departure time that TCP has given it, for
 * pacing of its own, holds too.
 */
#include <emptcp/clock.h>
#include <emptcp/module.h>

#define PACE_NS 1000000000ULL
/* Units of a nanosecond: a short packet takes few of these at a high rate. */
#define PACE_UNIT_BITS 8
/* Of fq, unless it is told otherwise. */
#define PACE_FQ_HORIZON (10 * PACE_NS)

/** What has a rate of its own. */
enum pace_per {
	PACE_PER_SUBFLOW,
	/* All subflows to one destination address. */
	PACE_PER_DST,
	/* All packets that come to the step. */
	PACE_PER_CHAIN,
	/* All packets to which the same entry of a table gives the rate. */
	PACE_PER_ENTRY,
};

/** What becomes of a packet that would have to wait for longer than the horizon. */
enum pace_beyond {
	PACE_BEYOND_DROP,
	/* It leaves at the horizon, faster than the rate. */
	PACE_BEYOND_CAP,
};

struct pace_params {
	emptcp_rate rate EMPTCP_DOC("Bits per second on the wire, link-layer header included; "
				    "0: as fast as it goes") EMPTCP_REQUIRED;
	emptcp_time horizon EMPTCP_DOC("Longest time that a packet waits; fq has one too, of 10 s")
		EMPTCP_DEFAULT("2s") EMPTCP_MIN("1ms") EMPTCP_MAX("10s");
	enum pace_per
		per EMPTCP_DOC("subflow, dst: each subflow or destination address has the rate "
			       "for itself; chain: all its packets share it; entry: each entry of "
			       "the table that it comes from") EMPTCP_DEFAULT("subflow");
	enum pace_beyond beyond EMPTCP_DOC("What would wait for longer is dropped, or leaves at "
					   "the horizon; counted as horizon")
		EMPTCP_DEFAULT("drop");
};

struct pace_key {
	struct emptcp_subflow subflow;
	/* emptcp_entry(). */
	__u64 pad_entry;
	/* Number of the step: each has its own rate. */
	emptcp_step_id step;
	__u32 pad;
};

struct pace_value {
	/* When the next packet may leave (CLOCK_MONOTONIC), in units of PACE_UNIT_BITS. */
	__u64 pad_next;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct pace_key);
	__type(value, struct pace_value);
	__uint(max_entries, 65536);
} departures SEC(".maps") EMPTCP_KEPT;

static __always_inline struct pace_value *
pace_state(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt, const struct pace_params *p)
{
	struct pace_value *value, first = {};
	struct pace_key key = {
		.subflow.zone = pkt->links->zone,
		.step = pkt->links->step,
	};

	if (p->per == PACE_PER_SUBFLOW)
		emptcp_subflow_of(pkt, &key.subflow);
	else if (p->per == PACE_PER_DST)
		emptcp_daddr(pkt, &key.subflow.dst);
	else if (p->per == PACE_PER_ENTRY)
		key.pad_entry = emptcp_entry(ctx, pkt->links, offsetof(struct pace_params, rate));
	value = bpf_map_lookup_elem(&departures, &key);
	if (value)
		return value;
	bpf_map_update_elem(&departures, &key, &first, BPF_NOEXIST);
	return bpf_map_lookup_elem(&departures, &key);
}

static __always_inline int pace_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				    const struct pace_params *p)
{
	__u64 now = emptcp_now(), latest = now + p->horizon, at = ctx_departure(ctx), next, time;
	struct pace_value *value;

	if (!p->rate)
		return EMPTCP_SKIP;
	value = pace_state(ctx, pkt, p);
	if (!value)
		return -EMPTCP_REASON_MAP_FULL;
	/* What fq would never take is no departure time, but one of arrival, by another clock. */
	if (at < now || at > now + PACE_FQ_HORIZON)
		at = now;
	/* 512 KB (BIG TCP) and what headers add are far from 64 bits. */
	time = ctx_wire_len(ctx) * (8 * PACE_NS << PACE_UNIT_BITS) / p->rate;
	next = *(volatile __u64 *)&value->pad_next;
	if (next <= at << PACE_UNIT_BITS) {
		*(volatile __u64 *)&value->pad_next = (at << PACE_UNIT_BITS) + time;
	} else if (next >> PACE_UNIT_BITS <= latest) {
		at = next >> PACE_UNIT_BITS;
		/*
		 * Other CPUs may send for the same entry: two packets can leave at one time,
		 * but none is forgotten.
		 */
		__sync_fetch_and_add(&value->pad_next, time);
	} else {
		emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), EMPTCP_REASON_HORIZON);
		if (p->beyond == PACE_BEYOND_DROP)
			return EMPTCP_DROP;
		if (at < latest)
			at = latest;
	}
	ctx_set_departure(ctx, at);
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(pace, EMPTCP_HOOKS_TC_EGRESS, "5.10", EMPTCP_OBSERVES "," EMPTCP_NEEDS_FQ,
	     "Lets packets leave at a rate, by departure times for fq");
