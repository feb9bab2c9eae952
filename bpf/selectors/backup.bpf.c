// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct backup_params {
	emptcp_bool set EMPTCP_DOC("Value of the B bit") EMPTCP_DEFAULT("true")
		EMPTCP_EVENT_FACT("backup");
};

static __always_inline int backup_visit(const struct tcpopt *opt, void *arg)
{
	const struct backup_params *p = arg;
	__u32 subtype;

	subtype = mptcp_subtype(opt->at);
	/* That of a third ACK is longer, and has no such bit. */
	if (subtype == MPTCP_MP_JOIN) {
		if (opt->len != TCPOLEN_MPTCP_MPJ_SYN && opt->len != TCPOLEN_MPTCP_MPJ_SYNACK)
			return TCPOPT_GO_ON;
	} else if (subtype == MPTCP_MP_PRIO) {
		if (opt->len > TCPOLEN_MPTCP_PRIO_ID)
			return TCPOPT_GO_ON;
	} else {
		return TCPOPT_GO_ON;
	}
	return (opt->at[2] & MPTCP_BACKUP) == p->set ? TCPOPT_STOP : TCPOPT_GO_ON;
}

static __always_inline int backup_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct backup_params *p)
{
	return mptcp_walk(ctx, pkt, TCPOLEN_MPTCP_MIN, backup_visit, (void *)p) != 0;
}

EMPTCP_SELECTOR(backup, EMPTCP_HOOKS_ALL, "5.10", "",
		"Backup bit of MP_JOIN (SYN, SYN/ACK) or MP_PRIO");
