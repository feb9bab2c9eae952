// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

#define RTT_NS_PER_US 1000

enum rtt_of {
	/* Smoothed (RFC 6298). */
	RTT_OF_SRTT,
	RTT_OF_MIN_RTT,
};

enum rtt_direction {
	/* From one end to the other and back. */
	RTT_BOTH,
	/* From here to who gets the packet and back. */
	RTT_PACKET,
	/* From here to who sent it and back. */
	RTT_REPLY,
};

struct rtt_params {
	emptcp_time min EMPTCP_DOC("Least time") EMPTCP_DEFAULT("0");
	emptcp_time max EMPTCP_DOC("Largest time") EMPTCP_DEFAULT("1h");
	enum rtt_of of EMPTCP_DOC("The smoothed time, or the least that was measured")
		EMPTCP_DEFAULT("srtt");
	enum rtt_direction direction
		EMPTCP_DOC("From where packets are tracked to who gets this packet and back "
			   "(packet), to who sent it and back (reply), or the sum of both")
			EMPTCP_DEFAULT("both");
};

/* Microseconds; 0: not known. */
static __always_inline __u64 rtt_way(const struct emptcp_track_way *way, const struct rtt_params *p)
{
	return p->of == RTT_OF_MIN_RTT ? way->rtt.min_rtt : way->rtt.srtt >> 3;
}

static __always_inline int rtt_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct rtt_params *p)
{
	const struct emptcp_track_subflow *sub;
	__u64 rtt;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	if (p->direction == RTT_BOTH) {
		__u64 other = rtt_way(&sub->way[1], p);

		rtt = rtt_way(&sub->way[0], p);
		if (!other || !rtt)
			return 0;
		rtt += other;
	} else {
		if (p->direction == RTT_REPLY)
			from = !from;
		rtt = rtt_way(&sub->way[from & 1], p);
		if (!rtt)
			return 0;
	}
	rtt *= RTT_NS_PER_US;
	return rtt >= p->min && rtt <= p->max;
}

EMPTCP_SELECTOR(rtt, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Round-trip time of the subflow, by timestamps, is in a range");
