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
 * To the verifier the offset starts as an unknown number, so that the paths of
 * one round join in the next: some 2,000 instructions instead of 250,000.
 */
static __always_inline __u32 tcpopt_find(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 __u8 kind, __u32 min_len)
{
	const volatile __u8 *doff = (const __u8 *)pkt->tcp + 12;
	const void *end = ctx_data_end(ctx);
	__u32 off = sizeof(struct tcphdr);
	const __u8 *ts = (const __u8 *)pkt->tcp + sizeof(struct tcphdr);

	/* What most packets of most systems begin with: NOP NOP timestamps. */
	if (pkt->tcp_len >= 32 && (const void *)(ts + 12) <= end &&
	    *(const __u32 *)ts == bpf_htonl(0x0101080a))
		off += 12;
	off += (__u8)(*doff - *doff);

	for (int i = 0; i < TCPOPT_SPACE; i++) {
		const __u8 *opt;
		__u32 len;

		off &= 63;
		opt = (const __u8 *)pkt->tcp + off;
		if (off + 2 > pkt->tcp_len || (const void *)(opt + 2) > end)
			return 0;
		if (opt[0] == TCPOPT_EOL)
			return 0;
		if (opt[0] == TCPOPT_NOP) {
			off++;
			continue;
		}
		len = opt[1];
		if (len < 2 || off + len > pkt->tcp_len)
			return 0;
		if (opt[0] == kind && len >= min_len)
			return off;
		off += len;
	}
	return 0;
}

#endif /* __EMPTCP_TCPOPT_H__ */
