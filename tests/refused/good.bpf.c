// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What is right, to be damaged by tests. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(good);

static __always_inline int good_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct good_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(good, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");
