// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/lists.h>
#include <emptcp/module.h>

struct cgroup_params {
	EMPTCP_LIST(struct emptcp_cgroup, EMPTCP_LIST_MAX)
	in EMPTCP_DOC("Cgroups (v2), those below them included") EMPTCP_REQUIRED;
};

static __always_inline int cgroup_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct cgroup_params *p)
{
#pragma unroll
	for (int i = 0; i < EMPTCP_LIST_MAX; i++) {
		if (i >= p->in.count)
			break;
		if (ctx_in_cgroup(ctx, &p->in.items[i]))
			return 1;
	}
	return 0;
}

EMPTCP_SELECTOR(cgroup, EMPTCP_HOOKS_TC_EGRESS, "5.10", "",
		"Sent by a process of one of these cgroups, or of one below");
