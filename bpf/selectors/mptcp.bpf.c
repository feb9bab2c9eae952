// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(mptcp);

static __always_inline int mptcp_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct mptcp_params *p)
{
	return mptcp_find(ctx, pkt) != 0;
}

EMPTCP_SELECTOR(mptcp, EMPTCP_HOOKS_ALL, "5.10", "", "Packets that carry an MPTCP option");
