// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the headers avoid: clang makes one call of two, with the slot in a register. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(indirect_merged);

static __always_inline int indirect_merged_match(struct emptcp_ctx *ctx,
						 const struct emptcp_pkt *pkt,
						 const struct indirect_merged_params *p)
{
	if (pkt->tcp->syn)
		bpf_tail_call(ctx, &progs, emptcp_number(EMPTCP_NUMBER_SLOT + EMPTCP_WAY_MATCH));
	else
		bpf_tail_call(ctx, &progs, emptcp_number(EMPTCP_NUMBER_SLOT + EMPTCP_WAY_MISS));
	return 0;
}

EMPTCP_SELECTOR(indirect_merged, EMPTCP_HOOKS_ALL, "5.10", "", "Merged tail calls");
