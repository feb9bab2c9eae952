/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the first byte of a packet to its TCP header. Nothing here trusts the
 * packet; what cannot be parsed gets a reason.
 */
#ifndef __EMPTCP_PARSE_H__
#define __EMPTCP_PARSE_H__

#include <emptcp/step.h>
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
	/** Offset of the IP header from the start of the packet, in bytes. */
	__u32 ip_off;
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

	/* No code: else clang keeps the half that is used only, and puts it anywhere. */
	asm volatile("" : "=m"(slot));
	slot.odd = number;
	return slot.odd;
}

/** 1 where the number is 0, else 0; below 2^31. Without a branch, of which the verifier would
 * follow both sides. */
static __always_inline __u32 emptcp_is_zero(__u32 number)
{
	number -= 1;
	asm volatile("" : "+r"(number));
	return number >> 31;
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
	pkt->ip_off = off;
	pkt->version = 4;
	return emptcp_parse_tcp(ctx, pkt, off + len, total - len);
}

/**
 * Whether this is an IPv6 extension header that is followed. By a set of bits:
 * of comparisons the verifier would follow each by itself.
 */
static __always_inline int emptcp_is_ext(__u32 next)
{
	const __u64 set = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
			  1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_AH | 1ULL << IPPROTO_DSTOPTS;
	__u64 bits = set;

	if (next == IPPROTO_MH)
		return 1;
	/* Hidden from clang, which would make comparisons of it. */
	asm volatile("" : "+r"(bits));
	return next < 64 && (bits >> next & 1);
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
					    __u32 off)
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
	pkt->ip_off = off;
	pkt->version = 6;
	if (ip->nexthdr == IPPROTO_TCP)
		return emptcp_parse_tcp(ctx, pkt, start, left);
	tcp_off = emptcp_walk_ext(ctx, ip->nexthdr, start, left);
	if (tcp_off < 0)
		return -tcp_off;
	return emptcp_parse_tcp(ctx, pkt, tcp_off, left - (tcp_off - start));
}

/**
 * Parses from the link layer (enum emptcp_framing) to TCP. Returns a value of
 * enum emptcp_reason; the packet is described in pkt only where that is
 * EMPTCP_REASON_NONE.
 */
static __always_inline int emptcp_parse(struct emptcp_ctx *ctx, __u32 framing,
					struct emptcp_pkt *pkt)
{
	void *data = ctx_data(ctx);
	void *end = ctx_data_end(ctx);
	__u32 off = 0;
	__be16 proto;

	if (framing == EMPTCP_FRAMING_ETHER) {
		struct ethhdr *eth = data;

		if ((void *)(eth + 1) > end)
			return EMPTCP_REASON_TRUNCATED;
		/* The structure is packed: clang would load bytes. */
		proto = *(__be16 *)(data + offsetof(struct ethhdr, h_proto));
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
		return emptcp_parse_ip6(ctx, pkt, off);
	return EMPTCP_REASON_NOT_TCP;
}

/** Offset of the TCP header of the packets that emptcp_is_common() means. */
#define EMPTCP_COMMON_TCP (sizeof(struct ethhdr) + sizeof(struct iphdr))

/**
 * At XDP, whether the packet is what most are: IPv4 without options behind
 * Ethernet without tags. For these a step needs no word of the chain context,
 * whose look-up takes longer than this test. At tc a word is one load.
 */
static __always_inline int emptcp_is_common(int raw_ip, const void *data, const void *end)
{
#ifdef EMPTCP_XDP
	return !raw_ip && data + EMPTCP_COMMON_TCP + sizeof(struct tcphdr) <= end &&
	       *(const __be16 *)(data + offsetof(struct ethhdr, h_proto)) == bpf_htons(ETH_P_IP) &&
	       *(const __u8 *)(data + sizeof(struct ethhdr)) == 0x45;
#else
	return 0;
#endif
}

/** In the word about the headers, between the steps of one program: no signature covers them. */
#define EMPTCP_HEADERS_UNSIGNED 0x8000

/** Where the headers are, as in EMPTCP_WORD_HEADERS: what a function gets that the verifier looks
 * at once. */
static __always_inline __u32 emptcp_headers_of(const struct emptcp_pkt *pkt)
{
	return pkt->tcp_off | pkt->ip_off << 16 | (__u32)pkt->version << 24;
}

/** Leaves to the steps of this run where the headers are; raw_ip: see emptcp_is_common(). */
static __always_inline void emptcp_leave_parsed(struct emptcp_ctx *ctx, int raw_ip,
						const struct emptcp_pkt *pkt)
{
	if (emptcp_is_common(raw_ip, ctx_data(ctx), ctx_data_end(ctx)))
		return;
	ctx_set_word(ctx, EMPTCP_WORD_HEADERS, emptcp_headers_of(pkt));
}

/** Sets the places of the headers. */
static __always_inline void emptcp_place(struct emptcp_pkt *pkt, void *data, __u32 ip_off,
					 __u32 tcp_off, __u8 version)
{
	pkt->ip_off = ip_off;
	pkt->tcp_off = tcp_off;
	pkt->version = version;
	pkt->ip6 = data + ip_off;
	pkt->tcp = data + tcp_off;
	/* Pointers from here on: clang would add up again where the ways have joined. */
	asm volatile("" : "+r"(pkt->ip6), "+r"(pkt->tcp));
}

/** The packet whose headers are there (emptcp_headers_of()); pkt->links stays as it is. Returns 0,
 * or -1 where they are not. */
static __always_inline int emptcp_place_headers(struct emptcp_ctx *ctx, __u32 headers,
						struct emptcp_pkt *pkt)
{
	asm volatile("" : "+r"(ctx));
	emptcp_place(pkt, ctx_data(ctx), headers >> 16 & 63, headers & EMPTCP_OFF_MASK,
		     headers >> 24);
	if ((void *)(pkt->tcp + 1) > ctx_data_end(ctx) ||
	    (void *)(pkt->ip6 + 1) > ctx_data_end(ctx))
		return -1;
	pkt->tcp_len = pkt->tcp->doff * 4;
	return 0;
}

/** Where the headers are, for a step that others follow in its program. */
static __always_inline __u32 emptcp_headers(struct emptcp_ctx *ctx, const void *data,
					    const void *end)
{
	__u32 word;

	if (emptcp_is_common(emptcp_is(EMPTCP_IS_RAW_IP), data, end))
		word = EMPTCP_COMMON_TCP | sizeof(struct ethhdr) << 16 | 4U << 24;
	else
		word = ctx_word(ctx, EMPTCP_WORD_HEADERS);
	/* One state for the verifier, else it looks at all that follows twice. */
	return emptcp_forget(word);
}

/**
 * Takes up what the entry program found, or the step before in this program:
 * steps do not parse again, which would cost each of them more than all else
 * that the engine does. pkt->links must be set. Returns a value of enum
 * emptcp_reason.
 */
static __always_inline int emptcp_take_parsed(struct emptcp_ctx *ctx, struct emptcp_pkt *pkt)
{
	void *data, *end;
	__u64 word;

	if (emptcp_is(EMPTCP_IS_POINTERS)) {
		EMPTCP_FRAME_LOAD(word, HEADERS);
		EMPTCP_FRAME_LOAD(pkt->tcp, TCP);
		EMPTCP_FRAME_LOAD(pkt->ip6, IP);
		pkt->ip_off = word >> 16 & 63;
		pkt->tcp_off = word & EMPTCP_OFF_MASK;
		pkt->version = word >> 24;
		pkt->tcp_len = pkt->tcp->doff * 4;
		return EMPTCP_REASON_NONE;
	}
	data = ctx_data(ctx);
	end = ctx_data_end(ctx);
	if (emptcp_is(EMPTCP_IS_JOINED)) {
		EMPTCP_FRAME_LOAD(word, HEADERS);
	} else if (emptcp_is(EMPTCP_IS_FOLLOWED)) {
		word = emptcp_headers(ctx, data, end);
		EMPTCP_FRAME_STORE(HEADERS, word);
	} else if (emptcp_is_common(emptcp_is(EMPTCP_IS_RAW_IP), data, end)) {
		emptcp_place(pkt, data, sizeof(struct ethhdr), EMPTCP_COMMON_TCP, 4);
		pkt->tcp_len = pkt->tcp->doff * 4;
		return EMPTCP_REASON_NONE;
	} else {
		word = ctx_word(ctx, EMPTCP_WORD_HEADERS);
	}
	emptcp_place(pkt, data, word >> 16 & 63, word & EMPTCP_OFF_MASK, word >> 24);
	/* The fixed header of IPv6 is as long as those of IPv4 and TCP together. */
	if (emptcp_unlikely((void *)(pkt->tcp + 1) > end || (void *)(pkt->ip6 + 1) > end))
		return EMPTCP_REASON_TRUNCATED;
	if (emptcp_is(EMPTCP_IS_FOLLOWED)) {
		EMPTCP_FRAME_STORE(TCP, pkt->tcp);
		EMPTCP_FRAME_STORE(IP, pkt->ip6);
	}
	/* Read anew: a step may have changed the options. The entry saw that it is right. */
	pkt->tcp_len = pkt->tcp->doff * 4;
	return EMPTCP_REASON_NONE;
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

/** The key of this direction of the packet's subflow, in the zone of the step. */
static __always_inline void emptcp_subflow_of(const struct emptcp_pkt *pkt,
					      struct emptcp_subflow *key)
{
	emptcp_saddr(pkt, &key->src);
	emptcp_daddr(pkt, &key->dst);
	key->sport = bpf_ntohs(pkt->tcp->source);
	key->dport = bpf_ntohs(pkt->tcp->dest);
	key->zone = pkt->links->zone;
}

/** Whether the source of a subflow is its higher end, by address and then port. */
static __always_inline int emptcp_is_higher(const struct emptcp_subflow *s)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (s->src.w[i] != s->dst.w[i])
			return s->src.w[i] > s->dst.w[i];
	}
	return s->sport > s->dport;
}

/** Turns the key of one direction of a subflow into that of the other one. */
static __always_inline void emptcp_turn(struct emptcp_subflow *s)
{
	struct emptcp_addr addr = s->src;
	emptcp_port port = s->sport;

	s->src = s->dst;
	s->sport = s->dport;
	s->dst = addr;
	s->dport = port;
}

/** Whether two keys of subflows are the same, direction and zone included. In numbers, without
 * branches, of which the verifier would follow each. */
static __always_inline int emptcp_subflow_equal(const struct emptcp_subflow *a,
						const struct emptcp_subflow *b)
{
	const __u32 *one = (const void *)a, *other = (const void *)b;
	__u32 differs = 0;

	for (int i = 0; i < sizeof(*a) / sizeof(*one); i++)
		differs |= one[i] ^ other[i];
	return !differs;
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
