// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

struct subflow_count_params {
	__u32 min EMPTCP_DOC("Least number") EMPTCP_DEFAULT("0") EMPTCP_EVENT_FACT("count:min");
	__u32 max EMPTCP_DOC("Largest number") EMPTCP_DEFAULT("4294967295")
		EMPTCP_EVENT_FACT("count:max");
};

static __always_inline int subflow_count_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct subflow_count_params *p)
{
	const struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	conn = emptcp_tracked_conn(sub);
	return conn && conn->live >= p->min && conn->live <= p->max;
}

EMPTCP_SELECTOR(subflow_count, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"How many subflows the connection has now is in a range");
