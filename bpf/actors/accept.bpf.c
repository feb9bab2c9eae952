// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(accept);

static __always_inline int accept_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct accept_params *p)
{
	return EMPTCP_ACCEPT;
}

EMPTCP_ACTOR(accept, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_ENDS "," EMPTCP_OBSERVES,
	     "Lets the packet pass; no further chain of this hook sees it");
