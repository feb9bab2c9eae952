// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/capture.h>

struct copy_pkt_params {
	emptcp_bytes snap EMPTCP_DOC("Bytes of each packet, from its first header on")
		EMPTCP_DEFAULT("128") EMPTCP_MIN("16") EMPTCP_MAX("2048");
	emptcp_bool keys EMPTCP_DOC("With keys and HMACs, if the reader asks for them too");
	__u8 pad[7];
};

static __always_inline int copy_pkt_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct copy_pkt_params *p)
{
	return emptcp_capture(ctx, pkt, p->snap, p->keys);
}

EMPTCP_ACTOR(copy_pkt, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Copies the first bytes of packets to `emptcp capture`, while it runs");
