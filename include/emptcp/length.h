/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Lengths of a packet, as its IP header tells them: without padding of the link layer. */
#ifndef __EMPTCP_LENGTH_H__
#define __EMPTCP_LENGTH_H__

#include <emptcp/parse.h>

/**
 * Bytes from the IP header to the end of the packet; of a GSO or GRO packet
 * those of all its segments, with one set of headers.
 */
static __always_inline __u32 emptcp_ip_len(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 len;

	if (pkt->version == 4) {
		len = bpf_ntohs(pkt->ip4->tot_len);
	} else {
		len = bpf_ntohs(pkt->ip6->payload_len);
		if (len)
			len += sizeof(*pkt->ip6);
	}
	/* Longer than the field can tell: BIG TCP, or a jumbo payload (RFC 2675). */
	if (emptcp_unlikely(!len))
		len = ctx_len(ctx, emptcp_is(EMPTCP_IS_FRAGS)) - pkt->ip_off;
	return len;
}

/** Bytes of headers among those of emptcp_ip_len(): IP, with what extends it, and TCP. */
static __always_inline __u32 emptcp_headers_len(const struct emptcp_pkt *pkt)
{
	return pkt->tcp_off - pkt->ip_off + pkt->tcp_len;
}

/** Bytes of TCP payload; of a GSO or GRO packet those of all its segments. */
static __always_inline __u32 emptcp_payload_len(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt)
{
	__u32 len = emptcp_ip_len(ctx, pkt), headers = emptcp_headers_len(pkt);

	return len > headers ? len - headers : 0;
}

/**
 * Packets on the wire that this one stands for (GSO, GRO). Of one that a guest made
 * the kernel does not believe the number (SKB_GSO_DODGY): it is counted here, as in
 * qdisc_pkt_len_init() of the kernel.
 */
static __always_inline __u32 emptcp_segments(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 len = ctx_len(ctx, emptcp_is(EMPTCP_IS_FRAGS)), headers = pkt->tcp_off + pkt->tcp_len;
	__u32 segments = ctx_segments(ctx), size = ctx_segment_size(ctx);

	if (size && segments < 2 && len > headers)
		segments = (len - headers + size - 1) / size;
	return segments;
}

/**
 * Bytes that the packet takes on the wire, from its link-layer header on: each of
 * its segments, so many as emptcp_segments() says, has headers of its own there.
 * Without preamble, checksum of the frame and gap.
 */
static __always_inline __u32 emptcp_wire_len(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     __u32 segments)
{
	__u32 len = ctx_len(ctx, emptcp_is(EMPTCP_IS_FRAGS)), headers = pkt->tcp_off + pkt->tcp_len;

	return len + (segments - 1) * headers;
}

#endif /* __EMPTCP_LENGTH_H__ */
