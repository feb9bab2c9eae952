// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* An offset that the packet gives, without a mask. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(offset_unbounded);

static __always_inline int offset_unbounded_match(struct emptcp_ctx *ctx,
						  const struct emptcp_pkt *pkt,
						  const struct offset_unbounded_params *p)
{
	__u64 offset = bpf_ntohl(pkt->tcp->seq);
	__u8 *byte = ctx_data(ctx) + offset;

	if ((void *)(byte + 1) > ctx_data_end(ctx))
		return 0;
	return *byte == 1; /* expect: offset_unbounded */
}

EMPTCP_SELECTOR(offset_unbounded, EMPTCP_HOOKS_ALL, "5.10", "", "Offset without a mask");
