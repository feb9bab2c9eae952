// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>

struct join_backup_params {
	emptcp_bool backup EMPTCP_DOC("Value of the B bit") EMPTCP_DEFAULT("true");
};

static __always_inline int join_backup_visit(const struct tcpopt *opt, void *arg)
{
	struct emptcp_scan *scan = arg;

	emptcp_scan_option(scan, opt, 0);
	if (mptcp_subtype(opt->at) == MPTCP_MP_JOIN &&
	    (opt->len == TCPOLEN_MPTCP_MPJ_SYN || opt->len == TCPOLEN_MPTCP_MPJ_SYNACK))
		scan->wanted |= emptcp_span(opt->off + offsetof(struct mptcp_join_syn, sub), 1);
	return TCPOPT_GO_ON;
}

static __always_inline int join_backup_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct join_backup_params *p)
{
	struct emptcp_edit edit = {};
	struct emptcp_scan scan;

	/* That of the third ACK has no such bit. */
	if (!pkt->tcp->syn)
		return EMPTCP_SKIP;
	emptcp_look(ctx, pkt, &scan);
	mptcp_each(ctx, pkt, &scan.options, MPTCP_OPTIONS_MAX, join_backup_visit, &scan);
	if (!scan.wanted)
		return EMPTCP_SKIP;
	if (scan.others & EMPTCP_OTHERS_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	/* Neither token nor HMAC covers it (RFC 8684, 3.2). */
	emptcp_put(ctx, pkt, scan.wanted, MPTCP_BACKUP, p->backup ? MPTCP_BACKUP : 0, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

EMPTCP_ACTOR(join_backup, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Sets or clears the backup bit of MP_JOIN in SYN and SYN/ACK");
