// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* rm_remove_addr, mode nop, of one address id: 4 bytes. */
#define STEPS 1
#include "monolith.h"

#define REMOVE_ADDR_LEN 4

/* Bits of what the walk finds, above the offset of the option. */
#define KEEPS 0x100
#define SIGNED 0x200

static __always_inline int removal_visit(const struct tcpopt *opt, void *arg)
{
	__u32 kind = opt->at[0], *found = arg, sub;

	*found |= (kind == TCPOPT_MD5SIG || kind == TCPOPT_AO) * SIGNED;
	if (kind != TCPOPT_MPTCP || !tcpopt_has(opt, 3))
		return TCPOPT_GO_ON;
	sub = opt->at[2] >> 4;
	if (sub != MPTCP_REMOVE_ADDR)
		*found |= KEEPS;
	else if (opt->len == REMOVE_ADDR_LEN)
		*found |= opt->off;
	return TCPOPT_GO_ON;
}

/** The offset of the option, and the bits above. */
__noinline int removal_options(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = {
		.tcp = ctx_data(ctx) + (tcp_off & EMPTCP_OFF_MASK),
		.tcp_off = tcp_off & EMPTCP_OFF_MASK,
		.tcp_len = tcp_len & 63,
	};
	__u32 found = 0;

	tcpopt_walk(ctx, &pkt, TCPOPT_OTHERS, 2, removal_visit, &found);
	return found;
}

static __always_inline int remove(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt, int found)
{
	__u32 nops = 0x01010101, before, off, diff;
	struct tcphdr *tcp;
	void *opt;

	if (!(found & 63))
		return 0;
	if (found & SIGNED)
		return -EMPTCP_REASON_SIGNED;
	if (!(found & KEEPS))
		return -EMPTCP_REASON_UNSAFE;
	off = pkt->tcp_off & EMPTCP_OFF_MASK;
	tcp = ctx_data(ctx) + off;
	opt = (void *)tcp + (found & 63);
	if ((void *)(tcp + 1) > ctx_data_end(ctx) || opt + REMOVE_ADDR_LEN > ctx_data_end(ctx))
		return -EMPTCP_REASON_WRITE;
	before = *(__u32 *)opt;
	*(__u32 *)opt = nops;
	diff = bpf_csum_diff(&before, sizeof(before), &nops, sizeof(nops), 0);
	/* Bytes of an odd offset lie in the other halves of the words that are summed. */
	if (found & 1)
		diff = diff << 8 | diff >> 24;
	return ctx_csum_replace_diff(ctx, tcp, off, diff) ? -EMPTCP_REASON_WRITE : 1;
}

SEC(EMPTCP_CTX_SECTION)
int monolith_removal(struct emptcp_ctx *ctx)
{
	struct monolith_counters *c;
	struct emptcp_pkt pkt = {};
	int ret;

	if (!monolith_begin(ctx, &pkt, &c))
		return CTX_PASS;
	BYTES(c, 0, ctx);
	ret = remove(ctx, &pkt, removal_options(ctx, pkt.tcp_off, pkt.tcp_len));
	if (ret > 0)
		MATCHED(c, 0);
	else if (!ret)
		MISSED(c, 0);
	else
		FAILED(c, 0, -ret);
	return CTX_PASS;
}
