// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A place in an array on the stack that may lie behind its end. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(stack_bound);

static __always_inline int stack_bound_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct stack_bound_params *p)
{
	volatile __u8 seen[16] = {};

	seen[bpf_ntohs(pkt->tcp->dest)] = 1; /* expect: stack_bound */
	return seen[0];
}

EMPTCP_SELECTOR(stack_bound, EMPTCP_HOOKS_ALL, "5.10", "", "Writes behind an array");
