// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * rm_add_addr, mode nop, of the one form in which Linux announces an IPv4
 * address: version 1, without a port, 16 bytes.
 */
#define STEPS 1
#include "monolith.h"

#define ADD_ADDR_LEN 16

/* Bits of what the walk finds, above the offset of the option. */
#define KEEPS 0x100
#define SIGNED 0x200

static __always_inline int removal_visit(const struct tcpopt *opt, void *arg)
{
	__u32 kind = opt->at[0], *found = arg, sub, flags;

	*found |= (kind == TCPOPT_MD5SIG || kind == TCPOPT_AO) * SIGNED;
	if (kind != TCPOPT_MPTCP || !tcpopt_has(opt, 4))
		return TCPOPT_GO_ON;
	sub = opt->at[2] >> 4;
	flags = sub == MPTCP_DSS ? opt->at[3] & MPTCP_DSS_HAS_ACK : 0;
	*found |= (sub == MPTCP_MP_CAPABLE || sub == MPTCP_MP_JOIN || flags) * KEEPS;
	if (sub == MPTCP_ADD_ADDR && !(opt->at[2] & MPTCP_ADD_ADDR_ECHO) &&
	    opt->len == ADD_ADDR_LEN)
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
	__u32 nops[4] = {0x01010101, 0x01010101, 0x01010101, 0x01010101}, before[4], off, diff;
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
	if ((void *)(tcp + 1) > ctx_data_end(ctx) || opt + ADD_ADDR_LEN > ctx_data_end(ctx))
		return -EMPTCP_REASON_WRITE;
	__builtin_memcpy(before, opt, ADD_ADDR_LEN);
	__builtin_memcpy(opt, nops, ADD_ADDR_LEN);
	diff = bpf_csum_diff((void *)before, sizeof(before), (void *)nops, sizeof(nops), 0);
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
