// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

/* Bits of byte 13 of the TCP header (RFC 9293, 3.1). */
enum tcp_flag {
	TCP_FIN,
	TCP_SYN,
	TCP_RST,
	TCP_PSH,
	TCP_ACK,
	TCP_URG,
	TCP_ECE,
	TCP_CWR,
};

struct tcp_params {
	EMPTCP_SET(enum tcp_flag) flags EMPTCP_DOC("Flags that are all set");
	EMPTCP_SET(enum tcp_flag) not_flags EMPTCP_DOC("Flags of which none is set");
};

static __always_inline int tcp_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct tcp_params *p)
{
	__u8 flags = ((const __u8 *)pkt->tcp)[13];

	return (flags & p->flags.bits) == p->flags.bits && !(flags & p->not_flags.bits);
}

EMPTCP_SELECTOR(tcp, EMPTCP_HOOKS_ALL, "5.10", "", "TCP packets, of all kinds or by their flags");
