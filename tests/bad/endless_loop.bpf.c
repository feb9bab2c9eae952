// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A loop that nothing ends. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(endless_loop);

static __always_inline int endless_loop_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct endless_loop_params *p)
{
	volatile __u8 *version = (__u8 *)&pkt->tcp->dest;

	while (*version != 1) /* expect: endless_loop */
		;
	return 1;
}

EMPTCP_SELECTOR(endless_loop, EMPTCP_HOOKS_ALL, "5.10", "", "Loops for ever");
