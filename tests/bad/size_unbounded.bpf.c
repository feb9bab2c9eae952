// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A helper writes as many bytes as the packet says. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(size_unbounded);

static __always_inline int size_unbounded_match(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt,
						const struct size_unbounded_params *p)
{
	__u8 bytes[64] = {};

	bpf_skb_load_bytes(ctx, 0, bytes, bpf_ntohs(pkt->tcp->dest)); /* expect: size_unbounded */
	return bytes[3];
}

EMPTCP_SELECTOR(size_unbounded, EMPTCP_HOOKS_TC, "5.10", "", "Length without a limit");
