// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The least that grows packets: NOPs into every ACK that has room, without memory. */
#include <emptcp/grow.h>
#include <emptcp/module.h>

struct add_nops_params {
	__u8 words EMPTCP_DOC("How many times four NOPs") EMPTCP_DEFAULT("1") EMPTCP_MIN("1")
		EMPTCP_MAX("7");
};

static __always_inline int add_nops_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct add_nops_params *p)
{
	__u8 nops[EMPTCP_GROW_MAX] __attribute__((aligned(4)));
	__u32 others;
	int ret;

	if (!emptcp_can_carry(ctx, pkt))
		return EMPTCP_SKIP;
	ret = emptcp_may_grow(ctx, pkt, p->words * 4, &others);
	if (ret != EMPTCP_NEXT)
		return ret;
	__builtin_memset(nops, TCPOPT_NOP, sizeof(nops));
	return emptcp_grow(ctx, pkt, nops, p->words * 4);
}

EMPTCP_ACTOR(add_nops, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS, "Adds NOPs to ACKs");
