/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tracker: what connections have carried. */
#ifndef __EMPTCP_TRACK_TOTAL_H__
#define __EMPTCP_TRACK_TOTAL_H__

#include <emptcp/tracked.h>

/** What a direction of a subflow keeps of its connection's bytes at most. */
#define TRACK_UNTOLD_MAX (1U << 30)

/** The connection to which a subflow belongs; NULL: none. */
static __always_inline struct emptcp_track_conn *track_own(const struct emptcp_track_subflow *sub)
{
	/* What one that is not proven says counts for nothing. */
	return sub->flags & EMPTCP_TRACK_TIED ? emptcp_tracked_conn(sub) : NULL;
}

/** Adds to a connection what this direction of a subflow has carried and has not told yet; NULL:
 * nothing. */
static __always_inline void track_told(struct emptcp_track_conn *conn,
				       struct emptcp_track_subflow *sub, int from)
{
	struct emptcp_track_way *way = &sub->way[from & 1];
	__u32 untold = way->untold, by_server;

	if (!conn)
		return;
	/* In numbers: the verifier would follow each branch through all that comes. */
	by_server = emptcp_forget(from ^ sub->client) & 1;
	__sync_fetch_and_add(&way->untold, -untold);
	__sync_fetch_and_add(&conn->bytes[by_server], untold);
}

/** Adds to what the connection has carried; where nothing goes by that (totals), the subflow keeps
 * it, for a look-up is what most of a packet's time goes to. */
static __always_inline void track_total(struct emptcp_track_subflow *sub, int from, __u32 payload,
					__u32 totals)
{
	struct emptcp_track_way *way = &sub->way[from & 1];
	/* Once more, in numbers. */
	__u32 tied = emptcp_forget(sub->flags) / EMPTCP_TRACK_TIED & 1;

	__sync_fetch_and_add(&way->untold, payload * tied);
	if (emptcp_forget((totals | way->untold / TRACK_UNTOLD_MAX) & tied))
		track_told(emptcp_tracked_conn(sub), sub, from);
}

#endif /* __EMPTCP_TRACK_TOTAL_H__ */
