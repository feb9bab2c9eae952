// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(torn);

/* What policy k of the exchange test leaves behind: mark k and window k. */
static __always_inline int torn_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct torn_params *p)
{
	return ctx_mark(ctx) != bpf_ntohs(pkt->tcp->window);
}

EMPTCP_SELECTOR(torn, EMPTCP_HOOKS_TC, "5.10", "", "Packets whose mark differs from their window");
