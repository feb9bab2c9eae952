// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp, src, dport, mptcp; at XDP record, set_recv_win twice, accept; at tc
 * record, set_mark, set_recv_win, accept.
 */
#define STEPS 8
#include "monolith.h"

/* Bits of byte 13 of the TCP header. */
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

static __always_inline int from_here(const struct emptcp_pkt *pkt)
{
	__be32 net;

	if (pkt->version != 4)
		return 0;
	net = pkt->ip4->saddr & bpf_htonl(0xffff0000);
	return net == bpf_htonl(0x0a010000) || net == bpf_htonl(0x0a030000);
}

SEC(EMPTCP_CTX_SECTION)
int monolith_4_4(struct emptcp_ctx *ctx)
{
	struct monolith_counters *c;
	struct emptcp_pkt pkt = {};
	int found;
	__u16 port;

	if (!monolith_begin(ctx, &pkt, &c))
		return CTX_PASS;
	if ((((__u8 *)pkt.tcp)[13] & (SYN | RST | ACK)) != ACK) {
		MISSED(c, 0);
		return CTX_PASS;
	}
	MATCHED(c, 0);
	if (!from_here(&pkt)) {
		MISSED(c, 1);
		return CTX_PASS;
	}
	MATCHED(c, 1);
	port = bpf_ntohs(pkt.tcp->dest);
	if (port != 443 && (port < 8000 || port > 8010)) {
		MISSED(c, 2);
		return CTX_PASS;
	}
	MATCHED(c, 2);
	found = monolith_options(ctx, pkt.tcp_off, pkt.tcp_len);
	if (!(found & MONOLITH_MPTCP)) {
		MISSED(c, 3);
		return CTX_PASS;
	}
	MATCHED(c, 3);
	BYTES(c, 4, ctx);
	if (monolith_record(ctx, &pkt, 4))
		MATCHED(c, 4);
	else
		MISSED(c, 4);
#ifdef EMPTCP_XDP
	CLAMP(c, 5, ctx, &pkt, found, 262144 >> 7);
#else
	ctx_set_mark(ctx, (ctx_mark(ctx) & ~0xff) | 7);
	MATCHED(c, 5);
#endif
	CLAMP(c, 6, ctx, &pkt, found, 65536 >> 7);
	MATCHED(c, 7);
	return CTX_PASS;
}
