// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A parameter that is of no type of the vocabulary. */
#include <emptcp/module.h>

struct unknown_type_params {
	struct {
		__u32 x;
	} point EMPTCP_DOC("A structure of the author's own");
};

static __always_inline int unknown_type_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct unknown_type_params *p)
{
	return 1;
}

EMPTCP_SELECTOR(unknown_type, EMPTCP_HOOKS_ALL, "5.10", "", "Matches");
