/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SYNs that open further subflows. */
#ifndef __EMPTCP_JOIN_H__
#define __EMPTCP_JOIN_H__

#include <emptcp/mptcp.h>

/**
 * Whether the packet is the SYN of a further subflow. With a MP_JOIN of any length: a SYN whose
 * MP_JOIN was not understood would be taken for one of plain TCP, to a socket that may be no
 * listener of its own.
 */
static __always_inline int emptcp_is_join_syn(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	return pkt->tcp->syn && !pkt->tcp->ack &&
	       mptcp_find_subtype(ctx, pkt, MPTCP_MP_JOIN, TCPOLEN_MPTCP_MIN) != 0;
}

#endif /* __EMPTCP_JOIN_H__ */
