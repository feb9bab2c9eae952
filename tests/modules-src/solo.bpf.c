// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct solo_params {
	__u32 n EMPTCP_DOC("Any number: makes steps differ");
};

/* A subprogram: steps of this module are programs of their own. */
static __noinline int solo_always(__u32 n)
{
	asm volatile("" : "+r"(n));
	return n < 0xffffffff;
}

static __always_inline int solo_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct solo_params *p)
{
	return solo_always(p->n);
}

EMPTCP_SELECTOR(solo, EMPTCP_HOOKS_ALL, "5.10", "", "Matches every packet, at the price of a call");
