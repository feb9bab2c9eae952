// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>
#include <emptcp/tables.h>

struct subflow_params {
	struct emptcp_addr src EMPTCP_DOC("Source address") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("src");
	struct emptcp_addr dst EMPTCP_DOC("Destination address") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("dst");
	emptcp_port sport EMPTCP_DOC("Source port") EMPTCP_REQUIRED EMPTCP_EVENT_FACT("sport");
	emptcp_port dport EMPTCP_DOC("Destination port") EMPTCP_REQUIRED EMPTCP_EVENT_FACT("dport");
	emptcp_bool either EMPTCP_DOC("Match both directions") EMPTCP_DEFAULT("false")
		EMPTCP_EVENT_FACT("either");
};

struct {
	EMPTCP_KEY_TABLE(struct emptcp_subflow);
} table SEC(".maps") EMPTCP_PARAM EMPTCP_LOOKUP EMPTCP_DOC("Table of subflows");

/* Entries of tables have no zone. */
static __always_inline int subflow_in_table(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct subflow_params *p)
{
	__u16 sport = bpf_ntohs(pkt->tcp->source), dport = bpf_ntohs(pkt->tcp->dest);
	struct emptcp_subflow key = {.sport = sport, .dport = dport};

	emptcp_saddr(pkt, &key.src);
	emptcp_daddr(pkt, &key.dst);
	if (emptcp_table_holds(ctx, pkt, &table, &key))
		return 1;
	if (!p->either)
		return 0;
	emptcp_daddr(pkt, &key.src);
	emptcp_saddr(pkt, &key.dst);
	key.sport = dport;
	key.dport = sport;
	return emptcp_table_holds(ctx, pkt, &table, &key);
}

static __always_inline int subflow_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct subflow_params *p)
{
	__u16 sport = bpf_ntohs(pkt->tcp->source), dport = bpf_ntohs(pkt->tcp->dest);
	struct emptcp_addr src, dst;

	if (emptcp_has_table(pkt))
		return subflow_in_table(ctx, pkt, p);
	emptcp_saddr(pkt, &src);
	emptcp_daddr(pkt, &dst);
	if (sport == p->sport && dport == p->dport && emptcp_addr_equal(&src, &p->src) &&
	    emptcp_addr_equal(&dst, &p->dst))
		return 1;
	return p->either && sport == p->dport && dport == p->sport &&
	       emptcp_addr_equal(&src, &p->dst) && emptcp_addr_equal(&dst, &p->src);
}

EMPTCP_SELECTOR(subflow, EMPTCP_HOOKS_ALL, "5.10", "",
		"One subflow, by its addresses and ports, or those of a table");
