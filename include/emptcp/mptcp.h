/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Multipath TCP options (RFC 8684, 3; version 0: RFC 6824, 3). */
#ifndef __EMPTCP_MPTCP_H__
#define __EMPTCP_MPTCP_H__

#include <emptcp/tcpopt.h>

/** The shortest MPTCP option: kind, length, subtype. */
#define TCPOLEN_MPTCP_MIN 3

/**
 * Offset from the start of the TCP header of the packet's first MPTCP option,
 * 0 where it has none.
 */
static __always_inline __u32 mptcp_find(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	return tcpopt_find(ctx, pkt, TCPOPT_MPTCP, TCPOLEN_MPTCP_MIN);
}

#endif /* __EMPTCP_MPTCP_H__ */
