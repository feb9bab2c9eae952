// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Compiled with the headers of another emptcp. */
#include <emptcp/module.h>

#undef EMPTCP_ABI
#define EMPTCP_ABI 999

EMPTCP_NO_PARAMS(other_abi);

static __always_inline int other_abi_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct other_abi_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(other_abi, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");
