/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Round-trip times of one direction of a subflow, by timestamps (RFC 7323, 4). */
#ifndef __EMPTCP_RTT_H__
#define __EMPTCP_RTT_H__

#include <emptcp/mptcp.h>

/** Timestamps (RFC 7323, 3.2). */
#define TCPOPT_TIMESTAMP 8
#define TCPOLEN_TIMESTAMP 10

/** Round trips of what goes one way; all zero before its first packet. */
struct emptcp_rtt_way {
	/** What waits for an answer: its timestamp, and in the lower half when it came by, in
	 * microseconds; 0 for nothing. One word, so that it is never half of each. */
	__u64 pending;
	/** The latest timestamp; more than it has not been seen. */
	__u32 latest;
	/** 1: latest is known. */
	__u32 known;
	/** Eight times the smoothed one (RFC 6298), and the least; microseconds, 0: not known. */
	__u32 srtt;
	__u32 min_rtt;
};

/** As emptcp_timestamps(), where they are first behind two NOPs, as most systems send them. */
static __always_inline const __u8 *emptcp_usual_timestamps(struct emptcp_ctx *ctx,
							   const struct emptcp_pkt *pkt)
{
	const __u32 *usual = (const void *)(pkt->tcp + 1);

	if ((const void *)(usual + 3) <= ctx_data_end(ctx) && pkt->tcp_len >= 32 &&
	    *usual == bpf_htonl(0x0101080a))
		return (const __u8 *)usual + 2;
	return NULL;
}

/** The timestamps of a packet, TSval at 2 and TSecr at 6; NULL where it has none. Valid until a
 * helper changes the packet. */
static __always_inline const __u8 *emptcp_timestamps(struct emptcp_ctx *ctx,
						     const struct emptcp_pkt *pkt)
{
	const __u8 *opt = emptcp_usual_timestamps(ctx, pkt);
	__u32 off;

	if (opt)
		return opt;
	off = tcpopt_find(ctx, pkt, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP);
	if (!off)
		return NULL;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_TIMESTAMP);
	return opt && opt[1] == TCPOLEN_TIMESTAMP ? opt : NULL;
}

/** Takes up a round trip, in microseconds. */
static __always_inline void emptcp_rtt_sample(struct emptcp_rtt_way *way, __u32 rtt)
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
 * that echoes it. way: the packet's direction, back: the other one. opt: of
 * emptcp_timestamps(). asks: the receiver answers the packet by itself. now: in
 * microseconds.
 */
static __always_inline void emptcp_rtt_take(struct emptcp_rtt_way *way, struct emptcp_rtt_way *back,
					    const __u8 *opt, const struct tcphdr *tcp, int asks,
					    __u32 now)
{
	__u32 val = mptcp_be32(opt + 2);
	__u64 pending;

	pending = *(volatile __u64 *)&back->pending;
	if (tcp->ack && pending) {
		__s32 later = mptcp_be32(opt + 6) - (__u32)(pending >> 32);

		if (later >= 0)
			*(volatile __u64 *)&back->pending = 0;
		if (!later)
			emptcp_rtt_sample(back, now - (__u32)pending);
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

#endif /* __EMPTCP_RTT_H__ */
