// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Takes so much of the stack that nothing is left for what joined steps hand on. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(deep);

static __always_inline int deep_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct deep_params *p)
{
	__u64 stack[61] = {};

	/* clang must keep all of it. */
	asm volatile("" : : "r"(stack) : "memory");
	return !pkt->tcp->syn && !stack[60];
}

EMPTCP_SELECTOR(deep, EMPTCP_HOOKS_ALL, "5.10", "", "Packets that are no SYN");
