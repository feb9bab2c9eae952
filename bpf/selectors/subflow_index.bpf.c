// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

struct subflow_index_params {
	__u8 min EMPTCP_DOC("Least number; the first subflow has 0") EMPTCP_DEFAULT("0")
		EMPTCP_EVENT_FACT("index:min");
	__u8 max EMPTCP_DOC("Largest number") EMPTCP_DEFAULT("255") EMPTCP_EVENT_FACT("index:max");
};

static __always_inline int subflow_index_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct subflow_index_params *p)
{
	const struct emptcp_track_subflow *sub;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	/* A later one has a number as soon as its connection is known. */
	if (sub->kind != EMPTCP_TRACK_INITIAL && !(sub->flags & EMPTCP_TRACK_TIED))
		return 0;
	return sub->index >= p->min && sub->index <= p->max;
}

EMPTCP_SELECTOR(subflow_index, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Number of the subflow in its connection, in the order of handshakes, is in a "
		"range");
