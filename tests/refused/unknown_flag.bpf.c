// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A flag that this emptcp does not know. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(unknown_flag);

static __always_inline int unknown_flag_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct unknown_flag_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(unknown_flag, EMPTCP_HOOKS_ALL, "5.10", "frobs", "Matches");
