// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The check is for two bytes, the access takes four. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(packet_beyond);

static __always_inline int packet_beyond_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct packet_beyond_params *p)
{
	void *data = ctx_data(ctx);

	if (data + 2 > ctx_data_end(ctx))
		return 0;
	return *(volatile __u32 *)data == 1; /* expect: packet_beyond */
}

EMPTCP_SELECTOR(packet_beyond, EMPTCP_HOOKS_ALL, "5.10", "", "Reads behind its check");
