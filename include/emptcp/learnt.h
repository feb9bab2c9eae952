/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tracker, which has looked the subflow up anyway, hands on to the steps behind it: no
 * look-up of their own, and none of its maps. For steps in which a parameter of the tag
 * EMPTCP_TRACKED_UNLESS is not given, and for modules of the flag EMPTCP_TRACKED.
 */
#ifndef __EMPTCP_LEARNT_H__
#define __EMPTCP_LEARNT_H__

#include <emptcp/chain.h>
#include <emptcp/parse.h>

/* EMPTCP_WORD_TRACKED: window scale plus 1, or 0; from here on the lower bits of the zone. */
#define EMPTCP_LEARNT_ZONE_SHIFT 8
#define EMPTCP_LEARNT_ZONE_MASK 0xffffff

/** For the tracker: what it knows of the packet. wscale_plus: window scale of who sent it, plus 1;
 * 0: not known. */
static __always_inline void emptcp_learnt_leave(struct emptcp_ctx *ctx, __u32 zone,
						__u32 wscale_plus)
{
	__u32 word = wscale_plus | (zone & EMPTCP_LEARNT_ZONE_MASK) << EMPTCP_LEARNT_ZONE_SHIFT;

	ctx_set_word(ctx, EMPTCP_WORD_TRACKED, word);
	if (emptcp_is(EMPTCP_IS_MORE))
		ctx_hand_on(ctx, emptcp_number(EMPTCP_NUMBER_HOOK), word);
}

/**
 * Window scale (RFC 7323, 2.3) of who sent the packet, 0 to 14: 0 too where the ends have agreed on
 * none. Minus 1 where the tracker does not know it, or where a tracker of another zone came last:
 * chains of several zones at one interface and hook.
 */
static __always_inline int emptcp_learnt_wscale(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt)
{
	__u32 word = ctx_word(ctx, EMPTCP_WORD_TRACKED);

	if (word >> EMPTCP_LEARNT_ZONE_SHIFT != (pkt->links->zone & EMPTCP_LEARNT_ZONE_MASK))
		return -1;
	return (int)(word & 0xff) - 1;
}

#endif /* __EMPTCP_LEARNT_H__ */
