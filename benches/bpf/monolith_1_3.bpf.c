// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* mptcp; record, set_recv_win, accept. */
#define STEPS 4
#include "monolith.h"

SEC(EMPTCP_CTX_SECTION)
int monolith_1_3(struct emptcp_ctx *ctx)
{
	struct monolith_counters *c;
	struct emptcp_pkt pkt = {};
	int found;

	if (!monolith_begin(ctx, &pkt, &c))
		return CTX_PASS;
	found = monolith_options(ctx, pkt.tcp_off, pkt.tcp_len);
	if (!(found & MONOLITH_MPTCP)) {
		MISSED(c, 0);
		return CTX_PASS;
	}
	MATCHED(c, 0);
	BYTES(c, 1, ctx);
	if (monolith_record(ctx, &pkt, 1))
		MATCHED(c, 1);
	else
		MISSED(c, 1);
	CLAMP(c, 2, ctx, &pkt, found, 65536 >> 7);
	MATCHED(c, 3);
	return CTX_PASS;
}
