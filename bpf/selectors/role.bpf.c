// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

enum role_end {
	ROLE_CLIENT,
	ROLE_SERVER,
};

enum role_of {
	/* Who opened its first subflow is the client. */
	ROLE_OF_CONNECTION,
	/* Who opened this subflow is. */
	ROLE_OF_SUBFLOW,
};

struct role_params {
	enum role_end is EMPTCP_DOC("Who sends the packet") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("sender");
	enum role_of of EMPTCP_DOC("Whose client: who opened the connection, or this subflow")
		EMPTCP_DEFAULT("connection") EMPTCP_EVENT_FACT("of");
};

static __always_inline int role_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct role_params *p)
{
	const struct emptcp_track_subflow *sub;
	__u8 client;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	client = p->of == ROLE_OF_SUBFLOW ? sub->opener : sub->client;
	if (client == EMPTCP_DIRECTION_UNKNOWN)
		return 0;
	return (from == client) == (p->is == ROLE_CLIENT);
}

EMPTCP_SELECTOR(role, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Packets that the client, or the server, of the connection sends");
