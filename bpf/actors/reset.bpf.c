// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>
#include <emptcp/rst.h>

struct reset_params {
	enum mptcp_rst_reason reason EMPTCP_DOC("Reason in MP_TCPRST (RFC 8684, 3.6)")
		EMPTCP_DEFAULT("administratively_prohibited");
	emptcp_bool transient EMPTCP_DOC("Tell that a new subflow may be tried soon")
		EMPTCP_DEFAULT("false");
};

static __always_inline int reset_lost(void)
{
	emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), EMPTCP_REASON_WRITE);
	return EMPTCP_DROP;
}

static __always_inline int reset_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct reset_params *p)
{
	struct emptcp_rst rst = {.reason = p->reason, .transient = p->transient};
	__u32 hook = pkt->links->hook;
	int err;

	/* Also what comes from here, at the other hook of the interface. */
	if (pkt->tcp->rst)
		return EMPTCP_SKIP;
	err = emptcp_rst_begin(ctx, pkt, &rst);
	if (err)
		return -err;
	/* What cannot be refused (emptcp_rst_begin()) is dropped all the same: half a RST must not
	 * go on. */
	if (emptcp_rst_write(ctx, &rst, EMPTCP_RST_TO_SENDER))
		return reset_lost();
	/* A SYN without ACK: its receiver has nothing to end yet. */
	if (!rst.has_ack)
		return ctx_send_back(ctx, hook);
	/* Where it cannot be sent, the next packet of the sender tries again. */
	if (ctx_copy_back(ctx, hook))
		emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), EMPTCP_REASON_CLONE);
	if (emptcp_rst_write(ctx, &rst, EMPTCP_RST_TO_RECEIVER))
		return reset_lost();
	/* Later chains would take it for a packet of its sender. */
	return EMPTCP_ACCEPT;
}

EMPTCP_ACTOR(reset, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS,
	     "Ends the subflow: the packet becomes a RST with MP_TCPRST, its sender gets one, too");
