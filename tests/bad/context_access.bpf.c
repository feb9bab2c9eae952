// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A member of the context that must not be written. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(context_access);

static __always_inline int context_access_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct context_access_params *p)
{
	ctx->data_end = 0; /* expect: context_access */
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(context_access, EMPTCP_HOOKS_ALL, "5.10", "", "Writes to the context");
