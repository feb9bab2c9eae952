/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether data should wait for the faster of two subflows, in numbers alone: earliest completion
 * first (Lim et al., CoNEXT 2017) and blocking estimation (Ferlin et al., IFIP Networking 2016).
 */
#ifndef __EMPTCP_FASTER_H__
#define __EMPTCP_FASTER_H__

#include <emptcp/parse.h>

/** What TCP knows of a subflow on which it sends. */
struct emptcp_path {
	/** Smoothed round-trip time, and the mean deviation from it (RFC 6298); microseconds. */
	__u32 srtt;
	__u32 deviation;
	/** Congestion window, where its slow start ends, what is under way; segments. */
	__u32 cwnd;
	__u32 ssthresh;
	__u32 in_flight;
	/** Payload of a segment, bytes. */
	__u32 mss;
	/** Bytes that were given to it and are not sent yet. */
	__u32 unsent;
};

/* Bounds, so that no product leaves 64 bits: a minute, a million segments, 64 KiB, a GiB. */
#define EMPTCP_FASTER_TIME_MAX (1 << 26)
#define EMPTCP_FASTER_SEGMENTS_MAX (1 << 20)
#define EMPTCP_FASTER_MSS_MAX (1 << 16)
#define EMPTCP_FASTER_BYTES_MAX (1 << 30)
/* One, of numbers that are no integers. */
#define EMPTCP_FASTER_ONE 256
/* Windows of a slow start that are followed. */
#define EMPTCP_FASTER_DOUBLINGS 12

/*
 * Comparisons without a branch, of which the verifier would follow both sides: 1 or 0, and the
 * lesser of two numbers below 2^63.
 */
static __always_inline __u64 emptcp_less(__u64 a, __u64 b)
{
	__u64 less = (a - b) >> 63;

	/* Else clang makes a branch of it. */
	asm volatile("" : "+r"(less));
	return less;
}

static __always_inline __u64 emptcp_lesser(__u64 a, __u64 b)
{
	return b + ((a - b) & -emptcp_less(a, b));
}

static __always_inline __u64 emptcp_greater(__u64 a, __u64 b)
{
	return a + b - emptcp_lesser(a, b);
}

/* 1 to most. */
static __always_inline __u64 emptcp_within(__u64 number, __u64 most)
{
	number = emptcp_lesser(number, most);
	return number + emptcp_less(number, 1);
}

/**
 * Earliest completion first: whether bytes that are queued are there earlier if they wait for the
 * faster subflow, though the slower one is free. margin: hysteresis, in parts of 256, of what waits
 * already (the paper's beta; 0 for what does not).
 *
 * As the paper has it, and mptcp_ecf.c of its authors: at least one window is to be sent, and it
 * needs one round trip before. Windows double up to ssthresh, which the paper leaves out: what
 * is small and comes after a pause would seem to take longer than it does.
 */
static __always_inline int emptcp_ecf_waits(const struct emptcp_path *fast,
					    const struct emptcp_path *slow, __u64 queued,
					    __u32 margin)
{
	__u64 most = EMPTCP_FASTER_SEGMENTS_MAX, longest = EMPTCP_FASTER_TIME_MAX;
	__u64 window = emptcp_within(fast->cwnd, most), left, segments;
	__u64 ssthresh = emptcp_lesser(fast->ssthresh, most);
	__u64 fast_rtt = emptcp_lesser(fast->srtt, longest);
	__u64 slow_rtt = emptcp_lesser(slow->srtt, longest);
	__u64 slow_window = emptcp_within(slow->cwnd, most);
	__u64 deviation, earlier, rounds = 1;

	deviation = emptcp_greater(fast->deviation, slow->deviation);
	deviation = emptcp_lesser(deviation, longest);
	segments = queued / emptcp_within(fast->mss, EMPTCP_FASTER_MSS_MAX);
	segments = emptcp_lesser(segments, most);
	left = emptcp_greater(segments, window);
	for (int i = 0; i < EMPTCP_FASTER_DOUBLINGS; i++) {
		__u64 grows = emptcp_less(window, ssthresh) & emptcp_less(window, left);

		left -= window & -grows;
		rounds += grows;
		window += (emptcp_lesser(2 * window, ssthresh) - window) & -grows;
	}
	earlier = emptcp_less(EMPTCP_FASTER_ONE * fast_rtt * (rounds * window + left),
			      (EMPTCP_FASTER_ONE + margin) * (slow_rtt + deviation) * window);
	left = emptcp_greater(segments, slow_window);
	/* Not if the slower one had sent all before the faster one could begin. */
	return earlier &
	       (1 ^ emptcp_less(slow_rtt * left, slow_window * (2 * fast_rtt + deviation)));
}

/**
 * Blocking estimation: whether a segment on the slower subflow would leave the faster one without
 * window of the connection, before its round trip is over. window: bytes that the receiver takes
 * from the first one on that it has not acknowledged. margin: as of emptcp_ecf_waits(); the paper's
 * lambda is 1.
 */
static __always_inline int emptcp_blest_waits(const struct emptcp_path *fast,
					      const struct emptcp_path *slow, __u64 window,
					      __u32 margin)
{
	__u64 most = EMPTCP_FASTER_SEGMENTS_MAX, one = EMPTCP_FASTER_ONE, rtts, sends, blocks;
	__u64 in_flight = emptcp_lesser(slow->in_flight, most) + 1;

	/* Round trips of the faster one in one of the slower one. */
	rtts = one * slow->srtt / emptcp_within(fast->srtt, ~0U);
	rtts = emptcp_greater(emptcp_lesser(rtts, one * one), one);
	/* What the faster one sends meanwhile: a segment more in each window. */
	sends = (emptcp_within(fast->cwnd, most) * one + (rtts - one) / 2) * rtts / one;
	sends *= emptcp_within(fast->mss, EMPTCP_FASTER_MSS_MAX);
	blocks = emptcp_within(slow->mss, EMPTCP_FASTER_MSS_MAX) * in_flight;
	window = emptcp_lesser(window, EMPTCP_FASTER_BYTES_MAX);
	window -= emptcp_lesser(window, blocks);
	return emptcp_less(one * one * window, (one + margin) * sends);
}

#endif /* __EMPTCP_FASTER_H__ */
