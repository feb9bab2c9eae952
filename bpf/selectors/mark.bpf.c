// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct mark_params {
	__u32 value EMPTCP_DOC("Mark to compare with") EMPTCP_REQUIRED;
	__u32 mask EMPTCP_DOC("Bits of the mark that count") EMPTCP_DEFAULT("0xffffffff");
};

static __always_inline int mark_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct mark_params *p)
{
	return (ctx_mark(ctx) & p->mask) == p->value;
}

EMPTCP_SELECTOR(mark, EMPTCP_HOOKS_TC, "5.10", "", "Packets with this mark (fwmark)");
