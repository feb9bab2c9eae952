// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

enum subflow_bytes_direction {
	SUBFLOW_BYTES_BOTH,
	/* From the client of the connection. */
	SUBFLOW_BYTES_UP,
	/* To it. */
	SUBFLOW_BYTES_DOWN,
	/* As the packet, whoever sends it. */
	SUBFLOW_BYTES_PACKET,
	/* Against it. */
	SUBFLOW_BYTES_REPLY,
};

struct subflow_bytes_params {
	emptcp_bytes min EMPTCP_DOC("Least number of bytes") EMPTCP_DEFAULT("0")
		EMPTCP_EVENT_FACT("subflow_bytes:min");
	emptcp_bytes max EMPTCP_DOC("Largest number of bytes")
		EMPTCP_DEFAULT("18446744073709551615") EMPTCP_EVENT_FACT("subflow_bytes:max");
	enum subflow_bytes_direction direction EMPTCP_DOC(
		"What is counted: what the client of the connection sends (up), what its "
		"server sends (down), the direction of this packet, the one against it "
		"(reply), or both") EMPTCP_DEFAULT("both") EMPTCP_EVENT_FACT("direction");
};

/* Without what was sent again. */
static __always_inline __u64 subflow_bytes_of(const struct emptcp_track_way *way)
{
	return way->bytes - way->retransmitted;
}

static __always_inline int subflow_bytes_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct subflow_bytes_params *p)
{
	const struct emptcp_track_subflow *sub;
	__u64 bytes;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	if (p->direction == SUBFLOW_BYTES_BOTH) {
		bytes = subflow_bytes_of(&sub->way[0]) + subflow_bytes_of(&sub->way[1]);
	} else {
		if (p->direction == SUBFLOW_BYTES_UP || p->direction == SUBFLOW_BYTES_DOWN) {
			if (sub->client == EMPTCP_DIRECTION_UNKNOWN)
				return 0;
			from = sub->client;
		}
		if (p->direction == SUBFLOW_BYTES_DOWN || p->direction == SUBFLOW_BYTES_REPLY)
			from = !from;
		bytes = subflow_bytes_of(&sub->way[from & 1]);
	}
	return bytes >= p->min && bytes <= p->max;
}

EMPTCP_SELECTOR(subflow_bytes, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Payload that the subflow has carried, this packet's too, without what was sent "
		"again, is in a range");
