// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A slot that comes from the packet. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(indirect_variable);

static __always_inline int indirect_variable_match(struct emptcp_ctx *ctx,
						   const struct emptcp_pkt *pkt,
						   const struct indirect_variable_params *p)
{
	EMPTCP_TAIL_CALL(ctx, &progs, pkt->tcp->doff);
	return 0;
}

EMPTCP_SELECTOR(indirect_variable, EMPTCP_HOOKS_ALL, "5.10", "", "Tail call to any slot");
