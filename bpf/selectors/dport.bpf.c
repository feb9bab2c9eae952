// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/lists.h>
#include <emptcp/module.h>
#include <emptcp/tables.h>

struct dport_params {
	emptcp_port_ranges in EMPTCP_DOC("Destination ports and ranges of ports") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("dport");
};

struct {
	EMPTCP_PORT_TABLE;
} in_table SEC(".maps") EMPTCP_TABLE_OF(in);

struct {
	EMPTCP_PORT_TABLE;
} table SEC(".maps") EMPTCP_PARAM EMPTCP_LOOKUP EMPTCP_DOC("Table of ports");

static __always_inline int dport_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct dport_params *p)
{
	__u16 port = bpf_ntohs(pkt->tcp->dest);

	if (emptcp_has_table(pkt))
		return emptcp_table_holds_port(ctx, pkt, &table, port);
	return emptcp_ports_hold(&p->in, &in_table, port);
}

EMPTCP_SELECTOR(dport, EMPTCP_HOOKS_ALL, "5.10", "",
		"Destination port is in a list or a table of ports");
