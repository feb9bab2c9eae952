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
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	__u32 tcp_off, tcp_len, off = sizeof(struct tcphdr);
	const void *tcp, *end;

	/*
	 * What most packets of most systems begin with: NOP NOP timestamps. In
	 * numbers, without a branch: the sign of differs says no.
	 */
	if ((const void *)(ts + 3) <= ctx_data_end(ctx)) {
		__u32 differs = *ts ^ bpf_htonl(0x0101080a);

		differs |= -differs;
		differs |= pkt->tcp_len - 32;
		asm volatile("" : "+r"(differs));
		off += 12 - 12 * (differs >> 31);
	}
	/* Fresh numbers and pointers: what is known of the old ones differs from path to path. */
	off = emptcp_forget(off) & 63;
	tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	tcp_len = emptcp_forget(pkt->tcp_len) & 63;
	asm volatile("" : "+r"(ctx));
	tcp = ctx_data(ctx) + tcp_off;
	end = ctx_data_end(ctx);

	for (int i = 0; i < TCPOPT_SPACE; i++) {
		const __u8 *opt;
		__u32 len = 1;
		__s32 left;

		/* A number of its own: bounds that tcp_len got here would tell the rounds apart. */
		left = tcp_len - off;
		asm volatile("" : "+r"(left));
		opt = tcp + off;
		if (left < 2 || (const void *)(opt + 2) > end)
			return 0;
		if (opt[0] == TCPOPT_EOL)
			return 0;
		if (opt[0] != TCPOPT_NOP) {
			len = opt[1];
			if (len < 2 || (__s32)len > left)
				return 0;
			if (opt[0] == kind && len >= min_len)
				return off;
		}
		/* One place for both ways, so that they join. */
		off = (off + len) & 63;
		asm volatile("" : "+r"(off));
	}
	return 0;
}

#endif /* __EMPTCP_TCPOPT_H__ */
