// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/lists.h>
#include <emptcp/module.h>
#include <emptcp/tables.h>

struct src_params {
	emptcp_prefixes in EMPTCP_DOC("Source addresses and prefixes") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("src");
};

struct {
	EMPTCP_PREFIX_TABLE;
} in_table SEC(".maps") EMPTCP_TABLE_OF(in);

struct {
	EMPTCP_PREFIX_TABLE;
} table SEC(".maps") EMPTCP_PARAM EMPTCP_LOOKUP EMPTCP_DOC("Table of prefixes or addresses");

static __always_inline int src_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct src_params *p)
{
	struct emptcp_addr addr;

	emptcp_saddr(pkt, &addr);
	if (emptcp_has_table(pkt))
		return emptcp_table_holds_addr(ctx, pkt, &table, &addr);
	return emptcp_prefixes_hold(&p->in, &in_table, &addr, pkt->version);
}

EMPTCP_SELECTOR(src, EMPTCP_HOOKS_ALL, "5.10", "",
		"Source address is in a list or a table of addresses and prefixes");
