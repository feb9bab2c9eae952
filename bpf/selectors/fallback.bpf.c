// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

enum fallback_cause {
	FALLBACK_SYNACK = EMPTCP_FALLBACK_SYNACK,
	FALLBACK_ACK = EMPTCP_FALLBACK_ACK,
	FALLBACK_DATA = EMPTCP_FALLBACK_DATA,
	FALLBACK_FAIL = EMPTCP_FALLBACK_FAIL,
};

struct fallback_params {
	EMPTCP_SET(enum fallback_cause)
	any EMPTCP_DOC(
		"Causes, of which one; none: whatever it was. synack, ack: the handshake went "
		"on without MP_CAPABLE; data: the first data had neither MP_CAPABLE nor "
		"DSS; fail: MP_FAIL") EMPTCP_EVENT_FACT("fallback");
};

static __always_inline int fallback_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct fallback_params *p)
{
	const struct emptcp_track_subflow *sub;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub || !sub->fallback)
		return 0;
	return !p->any.bits || p->any.bits >> (sub->fallback & 63) & 1;
}

EMPTCP_SELECTOR(fallback, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Packets of a connection that went on as plain TCP, by cause");
