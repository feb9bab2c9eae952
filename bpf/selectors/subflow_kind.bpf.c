// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

enum subflow_kind_name {
	SUBFLOW_KIND_INITIAL = EMPTCP_TRACK_INITIAL,
	SUBFLOW_KIND_JOINED = EMPTCP_TRACK_JOINED,
};

struct subflow_kind_params {
	enum subflow_kind_name is EMPTCP_DOC("initial: began with MP_CAPABLE; joined: with MP_JOIN")
		EMPTCP_REQUIRED EMPTCP_EVENT_FACT("kind");
};

static __always_inline int subflow_kind_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct subflow_kind_params *p)
{
	const struct emptcp_track_subflow *sub;
	int from;

	sub = emptcp_tracked(pkt, &from);
	return sub && sub->kind == p->is;
}

EMPTCP_SELECTOR(subflow_kind, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Packets of the first subflow of a connection, or of a later one");
