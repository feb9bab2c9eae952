// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Payload is read, and nobody has looked whether there is any. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(packet_unchecked);

static __always_inline int packet_unchecked_match(struct emptcp_ctx *ctx,
						  const struct emptcp_pkt *pkt,
						  const struct packet_unchecked_params *p)
{
	const __u8 *data = ctx_data(ctx);

	return data[0] == 1; /* expect: packet_unchecked */
}

EMPTCP_SELECTOR(packet_unchecked, EMPTCP_HOOKS_ALL, "5.10", "", "Reads without a check");
