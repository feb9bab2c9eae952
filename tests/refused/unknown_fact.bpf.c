// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What no event tells. */
#include <emptcp/module.h>

struct unknown_fact_params {
	emptcp_port in EMPTCP_DOC("A port") EMPTCP_EVENT_FACT("sauce");
};

static __always_inline int unknown_fact_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct unknown_fact_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(unknown_fact, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");
