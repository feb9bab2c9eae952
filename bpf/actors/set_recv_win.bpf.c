// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/csum.h>
#include <emptcp/edit.h>
#include <emptcp/learnt.h>
#include <emptcp/module.h>
#include <emptcp/track.h>

struct set_recv_win_params {
	emptcp_bytes bytes EMPTCP_DOC("Largest window to announce") EMPTCP_REQUIRED;
	emptcp_bytes floor EMPTCP_DOC("Never clamp below this") EMPTCP_DEFAULT("2920");
	__u8 wscale EMPTCP_DOC(
		"Window scale (RFC 7323) of the side that sent the packet; without it, "
		"the one that the tracker has learnt") EMPTCP_MAX("14") EMPTCP_TRACKED_UNLESS;
};

static __always_inline int set_recv_win_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct set_recv_win_params *p)
{
	__u64 bytes = p->bytes > p->floor ? p->bytes : p->floor;
	struct emptcp_pkt again;
	int wscale = p->wscale;
	__u64 window;

	/* The window of a SYN is not scaled, and that of a RST means nothing. */
	if (pkt->tcp->syn || pkt->tcp->rst)
		return EMPTCP_SKIP;
	if (wscale == EMPTCP_WSCALE_UNKNOWN) {
		wscale = emptcp_learnt_wscale(ctx, pkt);
		if (wscale < 0)
			return -EMPTCP_REASON_NO_WSCALE;
	}
	/* A value of a table may be any number. */
	window = bytes >> (wscale & 15);
	/* Zero would stop the sender. */
	if (!window)
		window = 1;
	if (window >= bpf_ntohs(pkt->tcp->window))
		return EMPTCP_SKIP;
	if (emptcp_unlikely(!tcpopt_is_plainly_unsigned(ctx, pkt))) {
		/* The peer would drop every packet of the connection. */
		if (tcpopt_is_signed(ctx, pkt))
			return -EMPTCP_REASON_SIGNED;
		if (emptcp_again(ctx, pkt, &again))
			return -EMPTCP_REASON_WRITE;
		return emptcp_set_window(ctx, &again, bpf_htons(window)) ?: EMPTCP_NEXT;
	}
	return emptcp_set_window(ctx, pkt, bpf_htons(window)) ?: EMPTCP_NEXT;
}

EMPTCP_ACTOR(set_recv_win, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Clamps the receive window that the packet announces; never raises it");
