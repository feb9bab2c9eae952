// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct ctx_put_params {
	__u16 value EMPTCP_DOC("What the next steps find") EMPTCP_REQUIRED;
};

static __always_inline int ctx_put_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct ctx_put_params *p)
{
	ctx_set_word(ctx, EMPTCP_WORD_FOUND, p->value + 1);
	ctx_set_word(ctx, EMPTCP_WORD_OPTION, p->value + 2);
	ctx_set_word(ctx, EMPTCP_WORD_INLINE, p->value);
	return 1;
}

EMPTCP_SELECTOR(ctx_put, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_CONTEXT,
		"Leaves a number to the steps behind; matches");
