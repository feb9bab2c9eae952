// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/lists.h>
#include <emptcp/module.h>

struct dst_params {
	emptcp_prefixes in EMPTCP_DOC("Destination addresses and prefixes") EMPTCP_REQUIRED;
};

struct {
	EMPTCP_PREFIX_TABLE;
} in_table SEC(".maps") EMPTCP_TABLE_OF(in);

static __always_inline int dst_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct dst_params *p)
{
	struct emptcp_addr addr;

	emptcp_daddr(pkt, &addr);
	return emptcp_prefixes_hold(&p->in, &in_table, &addr, pkt->version);
}

EMPTCP_SELECTOR(dst, EMPTCP_HOOKS_ALL, "5.10", "",
		"Destination address is in a list of addresses and prefixes");
