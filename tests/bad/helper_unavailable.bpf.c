// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A helper of XDP in a program for tc. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(helper_unavailable);

static __always_inline int helper_unavailable_act(struct emptcp_ctx *ctx,
						  const struct emptcp_pkt *pkt,
						  const struct helper_unavailable_params *p)
{
	if (bpf_xdp_adjust_head((void *)ctx, -4)) /* expect: helper_unavailable */
		return -EMPTCP_REASON_WRITE;
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(helper_unavailable, EMPTCP_HOOKS_TC, "5.10", "", "Calls what it may not call");
