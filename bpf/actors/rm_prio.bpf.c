// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>

struct rm_prio_params {
	enum emptcp_suppress mode EMPTCP_DOC("nop: NOPs where another MPTCP option stays; drop: "
					     "pure ACKs; auto: the first, else "
					     "the second; what none allows is left, as unsafe")
		EMPTCP_DEFAULT("auto");
};

static __always_inline int rm_prio_visit(const struct tcpopt *opt, void *scan)
{
	emptcp_scan_option(scan, opt, mptcp_subtype(opt->at) == MPTCP_MP_PRIO);
	return TCPOPT_GO_ON;
}

static __always_inline int rm_prio_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct rm_prio_params *p)
{
	struct emptcp_scan scan;

	emptcp_look(ctx, pkt, &scan);
	mptcp_each(ctx, pkt, &scan.options, MPTCP_OPTIONS_MAX, rm_prio_visit, &scan);
	return emptcp_suppress(ctx, pkt, &scan, p->mode);
}

EMPTCP_ACTOR(rm_prio, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Suppresses MP_PRIO: the receiver does not learn of a change of backup");
