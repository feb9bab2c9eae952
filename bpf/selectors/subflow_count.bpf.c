// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/listed.h>

struct subflow_count_params {
	__u32 min EMPTCP_DOC("Least number") EMPTCP_DEFAULT("0") EMPTCP_EVENT_FACT("count:min");
	__u32 max EMPTCP_DOC("Largest number") EMPTCP_DEFAULT("4294967295")
		EMPTCP_EVENT_FACT("count:max");
	emptcp_bool joining EMPTCP_DOC("Those that are being opened count, too: of a SYN the ones "
				       "whose SYN came before, in the last 3 s");
};

/*
 * How many subflows are being opened whose first packet was seen before, ns of CLOCK_BOOTTIME. A
 * SYN that is sent again keeps its place, so of those that come at once the first ones have the
 * room that there is. A function that the verifier looks at once.
 */
__noinline int subflow_count_joining(emptcp_token token, __u32 zone, __u64 before)
{
	const struct emptcp_listed_found *found = emptcp_listed_found();
	__u32 count = 0;

	if (!found)
		return 0;
	for (int i = 0; i < EMPTCP_TRACK_LIST_MAX; i++) {
		__u32 joins = emptcp_listed_at(token, zone, i) == EMPTCP_LISTED_JOINS;

		count += emptcp_forget(joins & (found->created < before)) & 1;
	}
	return count;
}

static __always_inline int subflow_count_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct subflow_count_params *p)
{
	const struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	__u32 count;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	conn = emptcp_tracked_conn(sub);
	if (!conn)
		return 0;
	count = conn->live;
	if (p->joining)
		count += subflow_count_joining(sub->conn.token, sub->conn.zone,
					       sub->state < EMPTCP_TRACK_ESTABLISHED ? sub->created
										     : ~0ULL);
	return count >= p->min && count <= p->max;
}

EMPTCP_SELECTOR(subflow_count, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"How many subflows the connection has now is in a range");
