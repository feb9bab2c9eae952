/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the first byte of a packet to its TCP header. Nothing here trusts the
 * packet; what cannot be parsed gets a reason.
 */
#ifndef __EMPTCP_PARSE_H__
#define __EMPTCP_PARSE_H__

#include <emptcp/ctx.h>
#include <emptcp/types.h>

/** VLAN tags that are followed (802.1Q inside 802.1ad). */
#define EMPTCP_VLAN_DEPTH 2
/** Offsets into a packet that the verifier does not know are masked with this. */
#define EMPTCP_OFF_MASK 0x7fff
/** IPv6 extension headers that are followed. */
#define EMPTCP_EXT_HEADERS 8

/** 802.1Q tag behind the Ethernet addresses, and what follows it. */
struct emptcp_vlan {
	__be16 tci;
	__be16 proto;
};

/** First bytes of an IPv6 extension header (RFC 8200, 4). */
struct emptcp_ext {
	__u8 nexthdr;
	/** In units of 8 bytes without the first 8; AH: of 4 bytes, less 2. */
	__u8 len;
	/** Fragment header: offset in the upper 13 bits. */
	__be16 frag_off;
	__u8 rest[4];
};

/**
 * A parsed packet. The pointers are valid until a helper changes the packet;
 * ip4 or ip6 (by version) is checked for its fixed header, tcp for 20 bytes.
 */
struct emptcp_pkt {
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	struct tcphdr *tcp;
	/** Offset of the TCP header from the start of the packet, in bytes. */
	__u32 tcp_off;
	/** Bytes of the TCP header with its options, 20 to 60, all in the linear part. */
	__u32 tcp_len;
	/** 4 or 6. */
	__u8 version;
	/** The step that looks at it: its number, zone and hook. NULL in an entry program. */
	const struct emptcp_links *links;
};

/**
 * The same number, of which the verifier knows nothing any more: so that paths
 * on which it knew different things join, and what follows is verified once.
 * It forgets what lies at the odd half of a stack slot (check_stack_write() in
 * the kernel tracks whole slots). Mask the result before it is used as offset.
 */
static __always_inline __u32 emptcp_forget(__u32 number)
{
	volatile struct {
		__u32 even;
		__u32 odd;
	} __attribute__((aligned(8))) slot;

	slot.odd = number;
	return slot.odd;
}

/** 0 where the IP header leaves room for the TCP header; l4_len: bytes that the IP header gives to
 * TCP. */
static __always_inline int emptcp_parse_tcp(struct emptcp_ctx *ctx, struct emptcp_pkt *pkt,
					    __u32 off, __u32 l4_len)
{
	struct tcphdr *tcp = ctx_data(ctx) + off;
	void *end = ctx_data_end(ctx);
	__u32 len;

	if ((void *)(tcp + 1) > end)
		return EMPTCP_REASON_TRUNCATED;
	len = tcp->doff * 4;
	if (len < sizeof(*tcp) || len > l4_len)
		return EMPTCP_REASON_BAD_TCP;
	if ((void *)tcp + len > end)
		return EMPTCP_REASON_TRUNCATED;
	pkt->tcp = tcp;
	pkt->tcp_off = off;
	pkt->tcp_len = len;
	return EMPTCP_REASON_NONE;
}

static __always_inline int emptcp_parse_ip4(struct emptcp_ctx *ctx, struct emptcp_pkt *pkt,
					    __u32 off)
{
	struct iphdr *ip = ctx_data(ctx) + off;
	__u32 len, total;

	if ((void *)(ip + 1) > ctx_data_end(ctx))
		return EMPTCP_REASON_TRUNCATED;
	len = ip->ihl * 4;
	if (ip->version != 4 || len < sizeof(*ip))
		return EMPTCP_REASON_BAD_IP;
	if (ip->protocol != IPPROTO_TCP)
		return EMPTCP_REASON_NOT_TCP;
	if (ip->frag_off & bpf_htons(0x1fff))
		return EMPTCP_REASON_FRAGMENT;
	total = bpf_ntohs(ip->tot_len);
	/* 0 stands for more than 64 KiB (BIG TCP; iph_totlen in the kernel). */
	if (!total)
		total = 0x10000;
	if (total < len)
		return EMPTCP_REASON_BAD_IP;
	pkt->ip4 = ip;
	pkt->version = 4;
	return emptcp_parse_tcp(ctx, pkt, off + len, total - len);
}

/** Whether this number stands for an IPv6 extension header that is followed. */
static __always_inline int emptcp_is_ext(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_AH || next == IPPROTO_MH;
}

/**
 * Walks the IPv6 extension headers from next at off to TCP. Returns the offset
 * of the TCP header, or minus a value of enum emptcp_reason; left: bytes behind
 * the fixed header.
 */
static __always_inline int emptcp_walk_ext(struct emptcp_ctx *ctx, __u8 next, __u32 off, __u32 left)
{
	__u32 used = 0;

	for (int i = 0; i < EMPTCP_EXT_HEADERS; i++) {
		struct emptcp_ext *ext;
		__u32 len;

		/* Whatever the headers so far were: one round is verified once. */
		off = emptcp_forget(off) & EMPTCP_OFF_MASK;
		used = emptcp_forget(used) & EMPTCP_OFF_MASK;
		next = emptcp_forget(next);
		ext = ctx_data(ctx) + off;
		if (!emptcp_is_ext(next))
			return -EMPTCP_REASON_NOT_TCP;
		if ((void *)(ext + 1) > ctx_data_end(ctx))
			return -EMPTCP_REASON_TRUNCATED;
		if (next == IPPROTO_FRAGMENT) {
			/* Of a later one, what stands behind extension headers cannot be known. */
			if (ext->frag_off & bpf_htons(0xfff8))
				return ext->nexthdr == IPPROTO_TCP || emptcp_is_ext(ext->nexthdr)
					       ? -EMPTCP_REASON_FRAGMENT
					       : -EMPTCP_REASON_NOT_TCP;
			len = sizeof(*ext);
		} else if (next == IPPROTO_AH) {
			len = (ext->len + 2) * 4;
		} else {
			len = (ext->len + 1) * 8;
		}
		next = ext->nexthdr;
		off += len;
		used += len;
		if (used > left)
			return -EMPTCP_REASON_BAD_IP;
		if (next == IPPROTO_TCP)
			return emptcp_forget(off) & EMPTCP_OFF_MASK;
	}
	return emptcp_is_ext(next) ? -EMPTCP_REASON_EXT_HEADERS : -EMPTCP_REASON_NOT_TCP;
}

static __always_inline int emptcp_parse_ip6(struct emptcp_ctx *ctx, struct emptcp_pkt *pkt,
					    __u32 off, int entry)
{
	struct ipv6hdr *ip = ctx_data(ctx) + off;
	__u32 left, start = off + sizeof(*ip);
	int tcp_off;

	if ((void *)(ip + 1) > ctx_data_end(ctx))
		return EMPTCP_REASON_TRUNCATED;
	if (ip->version != 6)
		return EMPTCP_REASON_BAD_IP;
	left = bpf_ntohs(ip->payload_len);
	/* 0 stands for a jumbo payload (RFC 2675), of which BIG TCP makes use. */
	if (!left)
		left = 0x10000;
	pkt->ip6 = ip;
	pkt->version = 6;
	if (ip->nexthdr == IPPROTO_TCP)
		return emptcp_parse_tcp(ctx, pkt, start, left);

	if (entry) {
		tcp_off = emptcp_walk_ext(ctx, ip->nexthdr, start, left);
		if (tcp_off < 0)
			return -tcp_off;
		ctx_set_word(ctx, EMPTCP_WORD_TCP, tcp_off);
	} else {
		tcp_off = ctx_word(ctx, EMPTCP_WORD_TCP) & EMPTCP_OFF_MASK;
	}
	return emptcp_parse_tcp(ctx, pkt, tcp_off, left - (tcp_off - start));
}

/**
 * Parses from the link layer (enum emptcp_framing) to TCP. Returns a value of
 * enum emptcp_reason; the packet is described in pkt only where that is
 * EMPTCP_REASON_NONE.
 *
 * entry: in the entry program, which walks IPv6 extension headers and leaves the
 * place of the TCP header behind them to the steps (EMPTCP_WORD_TCP).
 */
static __always_inline int emptcp_parse(struct emptcp_ctx *ctx, __u32 framing,
					struct emptcp_pkt *pkt, int entry)
{
	void *data = ctx_data(ctx);
	void *end = ctx_data_end(ctx);
	__u32 off = 0;
	__be16 proto;

	if (framing == EMPTCP_FRAMING_ETHER) {
		struct ethhdr *eth = data;

		if ((void *)(eth + 1) > end)
			return EMPTCP_REASON_TRUNCATED;
		proto = eth->h_proto;
		off = sizeof(*eth);
		for (int i = 0; i < EMPTCP_VLAN_DEPTH; i++) {
			struct emptcp_vlan *vlan = data + off;

			if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
				break;
			if ((void *)(vlan + 1) > end)
				return EMPTCP_REASON_TRUNCATED;
			proto = emptcp_forget(vlan->proto);
			off = emptcp_forget(off + sizeof(*vlan)) & 31;
		}
		if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD))
			return EMPTCP_REASON_VLAN_DEPTH;
	} else {
		__u8 *first = data;

		if ((void *)(first + 1) > end)
			return EMPTCP_REASON_TRUNCATED;
		proto = *first >> 4 == 6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	}
	if (proto == bpf_htons(ETH_P_IP))
		return emptcp_parse_ip4(ctx, pkt, off);
	if (proto == bpf_htons(ETH_P_IPV6))
		return emptcp_parse_ip6(ctx, pkt, off, entry);
	return EMPTCP_REASON_NOT_TCP;
}

/** Source of the packet, IPv4 mapped. */
static __always_inline void emptcp_saddr(const struct emptcp_pkt *pkt, struct emptcp_addr *addr)
{
	if (pkt->version == 4) {
		addr->w[0] = addr->w[1] = 0;
		addr->w[2] = bpf_htonl(0xffff);
		addr->w[3] = pkt->ip4->saddr;
	} else {
		__builtin_memcpy(addr, &pkt->ip6->saddr, sizeof(*addr));
	}
}

/** Destination of the packet, IPv4 mapped. */
static __always_inline void emptcp_daddr(const struct emptcp_pkt *pkt, struct emptcp_addr *addr)
{
	if (pkt->version == 4) {
		addr->w[0] = addr->w[1] = 0;
		addr->w[2] = bpf_htonl(0xffff);
		addr->w[3] = pkt->ip4->daddr;
	} else {
		__builtin_memcpy(addr, &pkt->ip6->daddr, sizeof(*addr));
	}
}

/** Whether two addresses are the same. */
static __always_inline int emptcp_addr_equal(const struct emptcp_addr *a,
					     const struct emptcp_addr *b)
{
	return a->w[3] == b->w[3] && a->w[2] == b->w[2] && a->w[1] == b->w[1] && a->w[0] == b->w[0];
}

/** Whether the prefix holds the address; an IPv6 prefix, ::/0 too, holds no IPv4 address. */
static __always_inline int emptcp_prefix_holds(const struct emptcp_prefix *p,
					       const struct emptcp_addr *a, __u8 version)
{
	int four = p->addr.w[2] == bpf_htonl(0xffff) && !p->addr.w[1] && !p->addr.w[0] &&
		   p->mask.w[2] == 0xffffffff;

	if (four != (version == 4))
		return 0;
	if (four)
		return (a->w[3] & p->mask.w[3]) == p->addr.w[3];
	return (a->w[0] & p->mask.w[0]) == p->addr.w[0] &&
	       (a->w[1] & p->mask.w[1]) == p->addr.w[1] &&
	       (a->w[2] & p->mask.w[2]) == p->addr.w[2] && (a->w[3] & p->mask.w[3]) == p->addr.w[3];
}

#endif /* __EMPTCP_PARSE_H__ */
