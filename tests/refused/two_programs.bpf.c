// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program beside that of the module. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(two_programs);

static __always_inline int two_programs_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct two_programs_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(two_programs, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");

SEC(EMPTCP_CTX_SECTION) int another(struct emptcp_ctx *ctx)
{
	return CTX_PASS;
}
