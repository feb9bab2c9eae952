// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Two pointers are added, as if they were numbers. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(pointer_arithmetic);

static __always_inline int pointer_arithmetic_match(struct emptcp_ctx *ctx,
						    const struct emptcp_pkt *pkt,
						    const struct pointer_arithmetic_params *p)
{
	__u64 sum = (__u64)ctx_data(ctx);

	sum += (__u64)ctx_data_end(ctx); /* expect: pointer_arithmetic */
	return sum == 1;
}

EMPTCP_SELECTOR(pointer_arithmetic, EMPTCP_HOOKS_ALL, "5.10", "", "Adds two pointers");
