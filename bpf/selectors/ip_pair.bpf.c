// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct ip_pair_params {
	struct emptcp_prefix src EMPTCP_DOC("Source address or prefix") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("src");
	struct emptcp_prefix dst EMPTCP_DOC("Destination address or prefix") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("dst");
	emptcp_bool either EMPTCP_DOC("Match both directions") EMPTCP_DEFAULT("false")
		EMPTCP_EVENT_FACT("either");
};

static __always_inline int ip_pair_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct ip_pair_params *p)
{
	struct emptcp_addr src, dst;

	emptcp_saddr(pkt, &src);
	emptcp_daddr(pkt, &dst);
	if (emptcp_prefix_holds(&p->src, &src, pkt->version) &&
	    emptcp_prefix_holds(&p->dst, &dst, pkt->version))
		return 1;
	return p->either && emptcp_prefix_holds(&p->src, &dst, pkt->version) &&
	       emptcp_prefix_holds(&p->dst, &src, pkt->version);
}

EMPTCP_SELECTOR(ip_pair, EMPTCP_HOOKS_ALL, "5.10", "", "Packets between two addresses or prefixes");
