// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct redirect_params {
	emptcp_ifindex to EMPTCP_DOC("Interface that the packet leaves by")
		EMPTCP_REQUIRED EMPTCP_LEAVES_BY;
	struct emptcp_addr via EMPTCP_DOC("At tc: next hop there; without, the frame leaves as it "
					  "is, with the link-layer addresses that it has");
} EMPTCP_WARNS("packets leave past the bridge, routing, netfilter and conntrack of this machine; "
	       "conntrack may take the way back for invalid unless that is redirected too");

static __always_inline int redirect_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct redirect_params *p)
{
	const struct emptcp_addr *via = &p->via;

	if (!(via->w[0] | via->w[1] | via->w[2] | via->w[3]))
		return ctx_redirect(ctx, p->to);
	/* bpf_redirect_neigh() takes the Ethernet header off, and drops what has none. */
	if (pkt->ip_off != sizeof(struct ethhdr))
		return -EMPTCP_REASON_UNSAFE;
	if (via->w[2] != bpf_htonl(0xffff) || via->w[1] || via->w[0])
		return ctx_redirect_via(ctx, p->to, 6, via->w);
	/* Neighbours of IPv6 packets have IPv6 addresses. */
	if (pkt->version != 4)
		return -EMPTCP_REASON_UNSAFE;
	return ctx_redirect_via(ctx, p->to, 4, via->w + 3);
}

/* EMPTCP_EDITS: from a device on which checksums may be incomplete, XDP redirects a wrong one. */
EMPTCP_ACTOR(redirect, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_ENDS "," EMPTCP_EDITS,
	     "The packet leaves by another interface; routing and firewall do not see it");
