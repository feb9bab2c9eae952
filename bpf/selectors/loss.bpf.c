// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/tracked.h>

enum loss_direction {
	LOSS_BOTH,
	/* As the packet. */
	LOSS_PACKET,
	/* Against it. */
	LOSS_REPLY,
};

struct loss_params {
	emptcp_ratio min EMPTCP_DOC("Least part of the payload that was sent again, such as "
				    "\"2%\"") EMPTCP_REQUIRED;
	emptcp_bytes after EMPTCP_DOC("Payload, with what was sent again, before which no part of "
				      "it says anything") EMPTCP_DEFAULT("64KiB") EMPTCP_MIN("1")
		EMPTCP_MAX("1GiB");
	enum loss_direction direction EMPTCP_DOC("The direction of this packet, the one against it "
						 "(reply), or both") EMPTCP_DEFAULT("both");
};

static __always_inline int loss_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct loss_params *p)
{
	const struct emptcp_track_subflow *sub;
	__u64 bytes, again;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	if (p->direction == LOSS_REPLY)
		from = !from;
	bytes = sub->way[from & 1].bytes;
	again = sub->way[from & 1].retransmitted;
	if (p->direction == LOSS_BOTH) {
		bytes += sub->way[!from].bytes;
		again += sub->way[!from].retransmitted;
	}
	if (bytes < p->after)
		return 0;
	/* Below 2^32, so that the product has 64 bits; one of both is exact. */
	if (bytes >> 32) {
		bytes >>= 24;
		again >>= 24;
	}
	return bytes * p->min <= again << 32;
}

EMPTCP_SELECTOR(loss, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Part of the subflow's payload that had to be sent again");
