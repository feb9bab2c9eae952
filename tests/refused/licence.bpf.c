// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A licence that the kernel does not take. */
#define EMPTCP_LICENSE "Proprietary"
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(licence);

static __always_inline int licence_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct licence_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(licence, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");
