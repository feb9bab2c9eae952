/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Explicit congestion notification in the IP header (RFC 3168, 5). */
#ifndef __EMPTCP_ECN_H__
#define __EMPTCP_ECN_H__

#include <emptcp/parse.h>

/** The two bits of ECN in the octet of DSCP (RFC 3168, 5). */
enum emptcp_ecn {
	EMPTCP_ECN_NOT_ECT = 0,
	EMPTCP_ECN_ECT1 = 1,
	EMPTCP_ECN_ECT0 = 2,
	EMPTCP_ECN_CE = 3,
};

/** What emptcp_set_ce() did. */
enum emptcp_set_ce {
	/** The packet says now that it experienced congestion. */
	EMPTCP_CE_SET,
	/** It said so before. */
	EMPTCP_CE_WAS_SET,
	/** Its ends do not understand ECN: it is as it was, and is dropped in the place of a mark.
	 */
	EMPTCP_CE_NOT_ECT,
	/** A helper of the kernel refused to write; it is as it was. */
	EMPTCP_CE_FAILED,
};

/** ECN of the packet: enum emptcp_ecn. */
static __always_inline __u32 emptcp_ecn(const struct emptcp_pkt *pkt)
{
	if (pkt->version == 4)
		return pkt->ip4->tos & EMPTCP_ECN_CE;
	return bpf_ntohs(*(const __be16 *)pkt->ip6) >> 4 & EMPTCP_ECN_CE;
}

/**
 * Sets CE in a packet whose ends understand it, as INET_ECN_set_ce() of the
 * kernel does; of a GSO packet all segments get it. A wrong checksum of IPv4
 * stays as wrong as it was. The pointers of pkt are void after it. Returns enum
 * emptcp_set_ce.
 */
static __always_inline int emptcp_set_ce(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 ecn = emptcp_ecn(pkt);

	if (ecn == EMPTCP_ECN_NOT_ECT)
		return EMPTCP_CE_NOT_ECT;
	if (ecn == EMPTCP_ECN_CE)
		return EMPTCP_CE_WAS_SET;
	if (pkt->version == 4) {
		struct iphdr *ip = pkt->ip4;
		/* RFC 1624, equation 3, where a word grows by some: the complement gives it back.
		 */
		__u32 sum = bpf_ntohs((__u16)~ip->check) + (EMPTCP_ECN_CE - ecn);

		sum = (sum & 0xffff) + (sum >> 16);
		ip->check = ~bpf_htons(sum);
		ip->tos |= EMPTCP_ECN_CE;
	} else {
		__be32 first = *(__be32 *)pkt->ip6 | bpf_htonl(EMPTCP_ECN_CE << 20);

		if (ctx_store_ip6(ctx, pkt->ip6, pkt->ip_off, first))
			return EMPTCP_CE_FAILED;
	}
	return EMPTCP_CE_SET;
}

#endif /* __EMPTCP_ECN_H__ */
