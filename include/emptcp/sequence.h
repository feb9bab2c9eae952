/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sequence numbers of one direction of a TCP connection: what has been sent before. */
#ifndef __EMPTCP_SEQUENCE_H__
#define __EMPTCP_SEQUENCE_H__

#include <emptcp/parse.h>

/** No number that is under way is further from another: the largest window (RFC 7323, 2.3). */
#define EMPTCP_WINDOW_MAX (1 << 30)

/** Where one direction is; all zero before its first packet. */
struct emptcp_sequence {
	/** Behind the last number so far. */
	__u32 end;
	/** 1: end is known. */
	__u32 known;
};

/**
 * Takes up a packet with so much payload (of all segments), whose header must be
 * checked. Returns how many bytes of that lie below what was there before: they
 * are sent again, or come late.
 *
 * Where packets of one direction run on several CPUs at once, one of them may be
 * forgotten.
 */
static __always_inline __u32 emptcp_sequence_take(struct emptcp_sequence *sequence,
						  const struct tcphdr *tcp, __u32 payload)
{
	__u32 seq = bpf_ntohl(tcp->seq);
	__u32 end = seq + payload + tcp->syn + tcp->fin;
	__s32 below = sequence->end - seq;
	__u32 more;

	/* Its number need not be of the connection (RFC 9293, 3.5.2). */
	if (tcp->rst)
		return 0;
	/* What cannot be is another connection of these ports. */
	if (tcp->syn || !sequence->known ||
	    (__u32)(below + EMPTCP_WINDOW_MAX) > 2U * EMPTCP_WINDOW_MAX) {
		sequence->known = 1;
		sequence->end = end;
		return 0;
	}
	/* What takes no number says nothing of what was sent: an ACK that emptcp makes while data
	 * flow may lie ahead of it. */
	more = (end - sequence->end) & (emptcp_is_zero(end - seq) - 1);
	if ((__s32)more > 0)
		sequence->end = end;
	/* One byte, the last one: a keepalive probe (RFC 9293, 3.8.4). */
	if (below <= 0 || (below == 1 && payload == 1))
		return 0;
	return (__u32)below < payload ? (__u32)below : payload;
}

#endif /* __EMPTCP_SEQUENCE_H__ */
