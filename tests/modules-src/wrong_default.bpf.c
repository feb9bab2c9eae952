// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A default that is no value of its type. */
#include <emptcp/module.h>

struct wrong_default_params {
	emptcp_time every EMPTCP_DOC("Time") EMPTCP_DEFAULT("10 bananas");
};

static __always_inline int wrong_default_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct wrong_default_params *p)
{
	return p->every != 0;
}

EMPTCP_SELECTOR(wrong_default, EMPTCP_HOOKS_ALL, "5.10", "", "Wrong default");
