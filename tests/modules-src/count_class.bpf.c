// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The other one: counts by the value that classify left. */
#include <emptcp/module.h>
#include "classes.h"

EMPTCP_NO_PARAMS(count_class);

static __always_inline int count_class_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct count_class_params *p)
{
	__u16 class = ctx_word(ctx, EMPTCP_WORD_INLINE);

	return count_in_class(class, ACTED) ? EMPTCP_NEXT : -EMPTCP_REASON_MAP_FULL;
}

EMPTCP_ACTOR(count_class, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_CONTEXT,
	     "Counts packets by their class");
