// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A loop with an end, of which the verifier tells every round apart. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(too_complex);

static __always_inline int too_complex_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct too_complex_params *p)
{
	__u32 sum = bpf_ntohl(pkt->tcp->seq);

#pragma clang loop unroll(disable)
	for (int i = 0; i < 2000000; i++) /* expect: too_complex */
		sum = sum * 31 + 7;	  /* expect: too_complex */
	return sum == 1;
}

EMPTCP_SELECTOR(too_complex, EMPTCP_HOOKS_ALL, "5.10", "", "Too much work for the verifier");
