// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(drop);

static __always_inline int drop_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				    const struct drop_params *p)
{
	return EMPTCP_DROP;
}

EMPTCP_ACTOR(drop, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_ENDS "," EMPTCP_OBSERVES, "Drops the packet");
