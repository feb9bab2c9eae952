// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

enum conn_bytes_direction {
	CONN_BYTES_BOTH,
	/* From the client of the connection. */
	CONN_BYTES_UP,
	/* To it. */
	CONN_BYTES_DOWN,
};

struct conn_bytes_params {
	emptcp_bytes min EMPTCP_DOC("Least number of bytes") EMPTCP_DEFAULT("0")
		EMPTCP_EVENT_FACT("conn_bytes:min");
	emptcp_bytes max EMPTCP_DOC("Largest number of bytes")
		EMPTCP_DEFAULT("18446744073709551615") EMPTCP_EVENT_FACT("conn_bytes:max");
	enum conn_bytes_direction direction
		EMPTCP_DOC("What is counted: what the client sends, what the server sends, or both")
			EMPTCP_DEFAULT("both") EMPTCP_EVENT_FACT("direction");
};

static __always_inline int conn_bytes_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct conn_bytes_params *p)
{
	const struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	__u64 bytes = 0;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	conn = emptcp_tracked_conn(sub);
	if (!conn)
		return 0;
	if (p->direction != CONN_BYTES_DOWN)
		bytes += conn->bytes[0];
	if (p->direction != CONN_BYTES_UP)
		bytes += conn->bytes[1];
	return bytes >= p->min && bytes <= p->max;
}

EMPTCP_SELECTOR(conn_bytes, EMPTCP_HOOKS_ALL, "5.10",
		EMPTCP_IMPURE "," EMPTCP_TRACKED "," EMPTCP_TOTALS,
		"Payload that the connection has carried, this packet's too, without what was sent "
		"again, is in a range");
