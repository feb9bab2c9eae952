// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A packet pointer is used behind a helper that may move the packet. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(pointer_void);

static __always_inline int pointer_void_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct pointer_void_params *p)
{
	if (bpf_skb_change_tail(ctx, ctx->len, 0))
		return -EMPTCP_REASON_WRITE;
	if (pkt->tcp->syn) /* expect: pointer_void */
		return EMPTCP_DROP;
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(pointer_void, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS, "Uses an old packet pointer");
