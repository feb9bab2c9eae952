// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tables.h>
#include <emptcp/tracked.h>

struct connection_params {
	emptcp_token token EMPTCP_DOC("Token of one of its ends") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("token");
};

struct {
	EMPTCP_KEY_TABLE(emptcp_token);
} table SEC(".maps") EMPTCP_PARAM EMPTCP_LOOKUP EMPTCP_DOC("Table of tokens");

static __always_inline int connection_is(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct connection_params *p, emptcp_token token)
{
	if (emptcp_has_table(pkt))
		return emptcp_table_holds(ctx, pkt, &table, &token);
	return token == p->token;
}

static __always_inline int connection_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct connection_params *p)
{
	const struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	emptcp_token token;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	if (!(sub->flags & (EMPTCP_TRACK_TIED | EMPTCP_TRACK_NAMES))) {
		/* Of a connection that was not seen one knows what the MP_JOIN said. */
		if (!(sub->flags & EMPTCP_TRACK_HAS_TOKEN))
			return 0;
		return connection_is(ctx, pkt, p, sub->token);
	}
	token = sub->conn.token;
	conn = emptcp_tracked_conn(sub);
	if (connection_is(ctx, pkt, p, token))
		return 1;
	if (!conn || !(conn->flags & EMPTCP_CONN_HAS_CLIENT_TOKEN))
		return 0;
	return connection_is(ctx, pkt, p, conn->client_token);
}

EMPTCP_SELECTOR(connection, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"One connection, by the token of either end, or those of a table");
