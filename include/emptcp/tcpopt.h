/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP options: one walk that hostile packets neither trap nor mislead. */
#ifndef __EMPTCP_TCPOPT_H__
#define __EMPTCP_TCPOPT_H__

#include <emptcp/parse.h>

#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_MPTCP 30

/** Bytes of options at the most. */
#define TCPOPT_SPACE 40

/**
 * The same number, of which the verifier knows nothing any more: so that paths
 * on which it knew different things join, and what follows is verified once.
 * It forgets what lies at the odd half of a stack slot (check_stack_write() in
 * the kernel tracks whole slots). Mask the result before it is used as offset.
 */
static __always_inline __u32 emptcp_forget(__u32 number)
{
	volatile struct {
		__u32 even;
		__u32 odd;
	} __attribute__((aligned(8))) slot;

	slot.odd = number;
	return slot.odd;
}

/**
 * Offset from the start of the TCP header of the first option of this kind
 * that is at least min_len (2 or more) bytes long and ends inside the header;
 * 0 where there is none. An option of length 0 or 1, or one that runs past the
 * header, ends the walk, as it does in tcp_parse_options() of the kernel.
 *
 * The offset starts as a number that the verifier does not know, so that the
 * paths of one round join in the next: some 2,000 instructions instead of
 * 250,000.
 */
static __always_inline __u32 tcpopt_find(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 __u8 kind, __u32 min_len)
{
	const void *end = ctx_data_end(ctx);
	const void *tcp = ctx_data(ctx) + (emptcp_forget(pkt->tcp_off) & 0x3fff);
	__u32 tcp_len = emptcp_forget(pkt->tcp_len) & 63;
	__u32 off = sizeof(struct tcphdr);
	const __u32 *ts = tcp + sizeof(struct tcphdr);

	/* What most packets of most systems begin with: NOP NOP timestamps. */
	if (tcp_len >= 32 && (const void *)(ts + 3) <= end && *ts == bpf_htonl(0x0101080a))
		off += 12;
	off = emptcp_forget(off);

	for (int i = 0; i < TCPOPT_SPACE; i++) {
		const __u8 *opt;
		__s32 left;
		__u32 len;

		off &= 63;
		opt = tcp + off;
		/* A number of its own: bounds that tcp_len got here would tell the rounds apart. */
		left = tcp_len - off;
		asm volatile("" : "+r"(left));
		if (left < 2 || (const void *)(opt + 2) > end)
			return 0;
		if (opt[0] == TCPOPT_EOL)
			return 0;
		if (opt[0] == TCPOPT_NOP) {
			off++;
			continue;
		}
		len = opt[1];
		if (len < 2 || (__s32)len > left)
			return 0;
		if (opt[0] == kind && len >= min_len)
			return off;
		off += len;
	}
	return 0;
}

#endif /* __EMPTCP_TCPOPT_H__ */
