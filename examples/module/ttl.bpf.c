// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A module outside of the tree of emptcp: see docs/writing-modules.md. */
#include <emptcp/module.h>

struct ttl_params {
	__u8 min EMPTCP_DOC("Smallest TTL or hop limit") EMPTCP_DEFAULT("0");
	__u8 max EMPTCP_DOC("Largest TTL or hop limit") EMPTCP_DEFAULT("255");
};

static __always_inline int ttl_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct ttl_params *p)
{
	__u8 ttl = pkt->version == 4 ? pkt->ip4->ttl : pkt->ip6->hop_limit;

	return ttl >= p->min && ttl <= p->max;
}

EMPTCP_SELECTOR(ttl, EMPTCP_HOOKS_ALL, "5.10", "", "TTL or hop limit is in a range");
