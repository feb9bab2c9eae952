// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(strip_mptcp);

static __always_inline int strip_mptcp_visit(const struct tcpopt *opt, void *scan)
{
	emptcp_scan_option(scan, opt, mptcp_subtype(opt->at) == MPTCP_MP_CAPABLE);
	return TCPOPT_GO_ON;
}

static __always_inline int strip_mptcp_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct strip_mptcp_params *p)
{
	struct emptcp_edit edit = {};
	struct emptcp_scan scan;

	/* In the SYN alone: both ends then agree from the first packet on. */
	if (!pkt->tcp->syn || pkt->tcp->ack)
		return EMPTCP_SKIP;
	emptcp_look(ctx, pkt, &scan);
	mptcp_each(ctx, pkt, &scan.options, MPTCP_OPTIONS_MAX, strip_mptcp_visit, &scan);
	if (!scan.wanted)
		return EMPTCP_SKIP;
	if (scan.others & EMPTCP_OTHERS_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	emptcp_blank(ctx, pkt, scan.wanted, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

EMPTCP_ACTOR(strip_mptcp, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Makes new connections plain TCP: blanks MP_CAPABLE in the SYN; existing ones stay");
