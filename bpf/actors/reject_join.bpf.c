// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(reject_join);

static __always_inline int reject_join_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct reject_join_params *p)
{
	if (!pkt->tcp->syn || pkt->tcp->ack)
		return EMPTCP_SKIP;
	/*
	 * Of any length: a SYN whose MP_JOIN was not understood would be taken for one of plain
	 * TCP, to a socket that may be no listener of its own.
	 */
	return mptcp_find_subtype(ctx, pkt, MPTCP_MP_JOIN, TCPOLEN_MPTCP_MIN) ? EMPTCP_DROP
									      : EMPTCP_SKIP;
}

EMPTCP_ACTOR(reject_join, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Drops the SYN of further subflows (MP_JOIN); existing subflows stay");
