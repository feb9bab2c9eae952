// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(fails);

static __always_inline int fails_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct fails_params *p)
{
	return pkt->tcp->syn ? -EMPTCP_REASON_MAP_FULL : -EMPTCP_REASON_WRITE;
}

EMPTCP_ACTOR(fails, EMPTCP_HOOKS_ALL, "5.10", "", "Fails");
