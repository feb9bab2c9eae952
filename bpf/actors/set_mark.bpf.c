// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct set_mark_params {
	__u32 value EMPTCP_DOC("Mark to set") EMPTCP_REQUIRED;
	__u32 mask EMPTCP_DOC("Bits of the mark that change") EMPTCP_DEFAULT("0xffffffff");
};

static __always_inline int set_mark_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct set_mark_params *p)
{
	ctx_set_mark(ctx, (ctx_mark(ctx) & ~p->mask) | (p->value & p->mask));
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(set_mark, EMPTCP_HOOKS_TC, "5.10", "", "Sets the mark (fwmark) of the packet");
