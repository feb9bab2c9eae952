/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Writes into the TCP header that keep its checksum as right or wrong as it was. */
#ifndef __EMPTCP_CSUM_H__
#define __EMPTCP_CSUM_H__

#include <emptcp/parse.h>

/**
 * Sets the receive window (16 bits on the wire, unscaled). The pointers of pkt
 * are void after it. Returns 0, or minus EMPTCP_REASON_WRITE with the packet
 * as it was.
 */
static __always_inline int emptcp_set_window(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     __be16 window)
{
	struct tcphdr *tcp = pkt->tcp;
	__be16 before = tcp->window;

	tcp->window = window;
	if (!ctx_csum_replace2(ctx, tcp, pkt->tcp_off, before, window))
		return 0;
	tcp = ctx_data(ctx) + pkt->tcp_off;
	if ((void *)(tcp + 1) <= ctx_data_end(ctx))
		tcp->window = before;
	return -EMPTCP_REASON_WRITE;
}

#endif /* __EMPTCP_CSUM_H__ */
