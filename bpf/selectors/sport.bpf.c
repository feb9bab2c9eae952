// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/lists.h>
#include <emptcp/module.h>

struct sport_params {
	emptcp_port_ranges in EMPTCP_DOC("Source ports and ranges of ports") EMPTCP_REQUIRED;
};

struct {
	EMPTCP_PORT_TABLE;
} in_table SEC(".maps") EMPTCP_TABLE_OF(in);

static __always_inline int sport_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct sport_params *p)
{
	return emptcp_ports_hold(&p->in, &in_table, bpf_ntohs(pkt->tcp->source));
}

EMPTCP_SELECTOR(sport, EMPTCP_HOOKS_ALL, "5.10", "",
		"Source port is in a list of ports and ranges");
