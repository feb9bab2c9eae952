// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One of two modules of different authors that work together: it leaves a 16-bit
 * value to the steps behind, and counts in a map that count_class shares.
 */
#include <emptcp/module.h>
#include "classes.h"

struct classify_params {
	__u16 modulus EMPTCP_DOC("Number of classes") EMPTCP_REQUIRED EMPTCP_MIN("1");
};

static __always_inline int classify_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct classify_params *p)
{
	__u16 class = bpf_ntohs(pkt->tcp->dest) % p->modulus;

	ctx_set_word(ctx, EMPTCP_WORD_INLINE, class);
	return count_in_class(class, CLASSIFIED) ? 1 : -EMPTCP_REASON_MAP_FULL;
}

EMPTCP_SELECTOR(classify, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_CONTEXT ",impure",
		"Puts packets into classes by their destination port; matches");
