// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A hook that this emptcp does not know. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(unknown_hook);

static __always_inline int unknown_hook_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct unknown_hook_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(unknown_hook, "xdp,tc-sideways", "5.10", "", "Matches");
