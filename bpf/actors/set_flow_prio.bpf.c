// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/wish.h>

struct set_flow_prio_params {
	emptcp_bool backup EMPTCP_DOC(
		"Whether who receives these packets shall treat the subflow as backup when it "
		"sends") EMPTCP_REQUIRED;
	emptcp_bool replace EMPTCP_DOC("An ACK without room gives up its SACK blocks for it; else "
				       "the next one is tried") EMPTCP_DEFAULT("true");
	__u8 owner EMPTCP_DOC("Whose wish it is: a subflow is backup while any owner wants it")
		EMPTCP_DEFAULT("0") EMPTCP_MAX("31");
};

static __always_inline int set_flow_prio_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct set_flow_prio_params *p)
{
	/* A value of a table may be any number. */
	return emptcp_wish(ctx, pkt, p->owner, p->backup & 1, 1, p->replace);
}

EMPTCP_ACTOR(
	set_flow_prio, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS,
	"Makes a subflow backup, or not: MP_PRIO in one ACK to the end that is to stop sending");
