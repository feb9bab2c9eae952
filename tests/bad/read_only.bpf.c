// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Parameters are constants. */
#include <emptcp/module.h>

struct read_only_params {
	__u32 value EMPTCP_DOC("Written to");
};

static __always_inline int read_only_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct read_only_params *p)
{
	((struct read_only_params *)p)->value = pkt->version; /* expect: read_only */
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(read_only, EMPTCP_HOOKS_ALL, "5.10", "", "Writes to its parameters");
