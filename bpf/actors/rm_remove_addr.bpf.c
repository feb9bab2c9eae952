// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>

struct rm_remove_addr_params {
	enum emptcp_suppress mode EMPTCP_DOC("nop: NOPs where another MPTCP option stays; drop: "
					     "pure ACKs; auto: the first, else "
					     "the second; what none allows is left, as unsafe")
		EMPTCP_DEFAULT("auto");
};

static __always_inline int rm_remove_addr_visit(const struct tcpopt *opt, void *scan)
{
	emptcp_scan_option(scan, opt, mptcp_subtype(opt->at) == MPTCP_REMOVE_ADDR);
	return TCPOPT_GO_ON;
}

static __always_inline int rm_remove_addr_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct rm_remove_addr_params *p)
{
	struct emptcp_scan scan;

	emptcp_look(ctx, pkt, &scan);
	mptcp_each(ctx, pkt, &scan.options, MPTCP_OPTIONS_MAX, rm_remove_addr_visit, &scan);
	return emptcp_suppress(ctx, pkt, &scan, p->mode);
}

EMPTCP_ACTOR(rm_remove_addr, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Suppresses REMOVE_ADDR: the receiver keeps the subflows of that address");
