// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

enum version_number {
	VERSION_V0,
	VERSION_V1,
};

struct version_params {
	EMPTCP_SET(enum version_number)
	any EMPTCP_DOC("Versions, of which the option has one") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("version");
};

static __always_inline int version_visit(const struct tcpopt *opt, void *arg)
{
	const struct version_params *p = arg;

	if (mptcp_subtype(opt->at) != MPTCP_MP_CAPABLE)
		return TCPOPT_GO_ON;
	return p->any.bits >> (opt->at[2] & 15) & 1 ? TCPOPT_STOP : TCPOPT_GO_ON;
}

static __always_inline int version_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct version_params *p)
{
	return mptcp_walk(ctx, pkt, TCPOLEN_MPTCP_MPC_SYN, version_visit, (void *)p) != 0;
}

EMPTCP_SELECTOR(version, EMPTCP_HOOKS_ALL, "5.10", "",
		"Version in MP_CAPABLE; packets without that option do not tell, and do not match");
