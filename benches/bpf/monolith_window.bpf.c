// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* set_recv_win. */
#define STEPS 1
#include "monolith.h"

SEC(EMPTCP_CTX_SECTION)
int monolith_window(struct emptcp_ctx *ctx)
{
	struct monolith_counters *c;
	struct emptcp_pkt pkt = {};
	int found;

	if (!monolith_begin(ctx, &pkt, &c))
		return CTX_PASS;
	found = monolith_options(ctx, pkt.tcp_off, pkt.tcp_len);
	BYTES(c, 0, ctx);
	CLAMP(c, 0, ctx, &pkt, found, 65536 >> 7);
	return CTX_PASS;
}
