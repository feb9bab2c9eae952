// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/join.h>
#include <emptcp/module.h>
#include <emptcp/rst.h>

enum reject_join_with {
	REJECT_JOIN_WITH_DROP,
	REJECT_JOIN_WITH_RST,
};

struct reject_join_params {
	enum reject_join_with
		with EMPTCP_DOC("drop: the client tries again for a while; rst: it is "
				"answered with RST and MP_TCPRST, and gives up")
			EMPTCP_DEFAULT("drop") EMPTCP_EDITS_IF;
	enum mptcp_rst_reason reason EMPTCP_DOC("Of rst: reason in MP_TCPRST (RFC 8684, 3.6)")
		EMPTCP_DEFAULT("administratively_prohibited");
};

static __always_inline int reject_join_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct reject_join_params *p)
{
	struct emptcp_rst rst = {.reason = p->reason};
	/* Before the walk, behind which the verifier knows several places of the header. */
	__u32 hook = pkt->links->hook, is_rst = emptcp_forget(pkt->tcp->rst);

	if (!emptcp_is_join_syn(ctx, pkt))
		return EMPTCP_SKIP;
	/* A RST is never answered by one (RFC 9293, 3.10.7.1). */
	if (p->with == REJECT_JOIN_WITH_DROP || is_rst)
		return EMPTCP_DROP;
	/* Of what no RST can be made, that is left: it must not pass. */
	if (emptcp_rst_begin(ctx, pkt, &rst) || emptcp_rst_write(ctx, &rst, EMPTCP_RST_TO_SENDER))
		return EMPTCP_DROP;
	return ctx_send_back(ctx, hook);
}

/*
 * EMPTCP_EDITS: a RST has a whole checksum, but at generic XDP the packet goes back as the socket
 * buffer that it is (generic_xdp_tx()), and an incomplete one would be completed over it.
 */
EMPTCP_ACTOR(reject_join, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS "," EMPTCP_OBSERVES,
	     "Rejects the SYN of further subflows (MP_JOIN); existing subflows stay");
