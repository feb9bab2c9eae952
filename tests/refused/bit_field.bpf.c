// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A parameter that has no place of its own. */
#include <emptcp/module.h>

struct bit_field_params {
	__u32 half : 4 EMPTCP_DOC("Four bits");
};

static __always_inline int bit_field_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct bit_field_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(bit_field, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");
