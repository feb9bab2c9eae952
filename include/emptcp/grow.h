/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One more option in the TCP header of a packet that only acknowledges; tc only.
 *
 * Packets without payload are the only ones that have room for sure: they are
 * far from the MTU, are never segmented, and one more or less of them does no
 * harm. An actor asks four things, the cheapest first:
 *
 *	__u8 option[EMPTCP_GROW_MAX] = {…};
 *	__u32 others;
 *	int ret;
 *
 *	if (!emptcp_can_carry(ctx, pkt))
 *		return EMPTCP_SKIP;
 *	if (… the subflow has it already, from a map of the module …)
 *		return EMPTCP_SKIP;
 *	ret = emptcp_may_grow(ctx, pkt, bytes, &others);
 *	if (ret != EMPTCP_NEXT)
 *		return ret;
 *	… note in the map that the subflow has it …
 *	return emptcp_grow(ctx, pkt, option, bytes);
 *
 * The packet grows at its tail (bpf_skb_change_tail()), and all that stands
 * behind the fixed TCP header moves there: bpf_skb_adjust_room() would move the
 * header instead, and leave behind where the checksum of a CHECKSUM_PARTIAL
 * packet begins. Everything is written by helpers, so that packets that do not
 * grow pay nothing for what the kernel does before direct writes.
 */
#ifndef __EMPTCP_GROW_H__
#define __EMPTCP_GROW_H__

#include <emptcp/edit.h>

#ifndef EMPTCP_TC
#error "a packet grows at tc only: declare the module with EMPTCP_HOOKS_TC"
#endif

/** Bytes that a packet can grow by at once. */
#define EMPTCP_GROW_MAX 28

/**
 * Longest IP packet that may come of it, in bytes: the least MTU of IPv6 (RFC
 * 8200, 5). An ACK of IPv4 has 120 at the most.
 */
#define EMPTCP_GROW_IP_MAX 1280

/* Kinds of options that an ACK has beside those of Multipath TCP, RFC 2018 and RFC 7323. */
#define EMPTCP_KIND_SACK 5
#define EMPTCP_KIND_TIMESTAMPS 8

/** What emptcp_may_grow() says, beside enum emptcp_others: there is another option than those
 * and what is of Multipath TCP. */
#define EMPTCP_OTHERS_UNKNOWN (1 << 18)

/* The 16 bits with data offset and flags, from the start of the TCP header. */
#define EMPTCP_GROW_DOFF (offsetof(struct tcphdr, ack_seq) + sizeof(__be32))

/** Bytes that an option of this length takes: whole words of 4. */
static __always_inline __u32 emptcp_grow_bytes(__u32 len)
{
	return (len + 3) & ~3U;
}

/**
 * Whether the packet may carry one more option, as far as its fixed headers say:
 * it does nothing but acknowledge, is one segment, and nothing stands behind it:
 * Ethernet pads no ACK of Multipath TCP, but tags of switches may be there. Cheap;
 * changes nothing.
 */
static __always_inline int emptcp_can_carry(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	const struct tcphdr *tcp = pkt->tcp;

	return tcp->ack && !tcp->syn && !tcp->fin && !tcp->rst && !tcp->urg &&
	       emptcp_is_empty(pkt) && ctx_len(ctx, 0) == pkt->tcp_off + pkt->tcp_len &&
	       !ctx_segment_size(ctx);
}

/* IPv6 extension headers: 1 where none of them would have to change or vouches for the rest. */
static __always_inline int emptcp_grow_ext(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 off = pkt->ip_off + sizeof(struct ipv6hdr);
	__u8 ext[2] = {pkt->ip6->nexthdr};

	for (int i = 0; i <= EMPTCP_EXT_HEADERS; i++) {
		__u32 next = emptcp_forget(ext[0]) & 0xff;

		if (next == IPPROTO_TCP)
			return 1;
		if (next == IPPROTO_FRAGMENT || next == IPPROTO_AH)
			return 0;
		off = emptcp_forget(off) & EMPTCP_OFF_MASK;
		if (bpf_skb_load_bytes(ctx, off, ext, sizeof(ext)))
			return 0;
		off += (ext[1] + 1) * 8;
	}
	return 0;
}

static __always_inline int emptcp_grow_visit(const struct tcpopt *opt, void *arg)
{
	__u32 kind = opt->at[0], *others = arg, found, unknown;

	/* In numbers: the verifier would follow each branch in every round. */
	found = (emptcp_is_zero(kind ^ TCPOPT_MD5SIG) | emptcp_is_zero(kind ^ TCPOPT_AO)) *
		EMPTCP_OTHERS_SIGNED;
	unknown = (emptcp_is_zero(kind ^ TCPOPT_MPTCP) | emptcp_is_zero(kind ^ EMPTCP_KIND_SACK) |
		   emptcp_is_zero(kind ^ EMPTCP_KIND_TIMESTAMPS)) ^
		  1;
	found |= unknown * EMPTCP_OTHERS_UNKNOWN;
	if (kind == TCPOPT_MPTCP && tcpopt_has(opt, TCPOLEN_MPTCP_MIN)) {
		__u32 subtype = mptcp_subtype(opt->at);

		found |= 1 << subtype;
		if (tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE)) {
			__u32 flags = opt->at[3];

			found |= (emptcp_is_zero(subtype ^ MPTCP_DSS) & flags & MPTCP_DSS_HAS_ACK &
				  mptcp_dss_is_whole(flags, opt->len)) *
				 EMPTCP_OTHERS_DATA_ACK;
		}
	}
	*others = emptcp_forget(*others | found);
	return TCPOPT_GO_ON;
}

/**
 * Whether a packet that emptcp_can_carry() may grow by so many bytes (4 to
 * EMPTCP_GROW_MAX, a multiple of 4). Its subflow must be established, which
 * nobody but the packet itself can tell: it has a DSS with a data ACK
 * (check_fully_established() in net/mptcp/options.c). others says which options it
 * has: of Multipath TCP 1 << enum mptcp_subtype, enum emptcp_others, and
 * EMPTCP_OTHERS_UNKNOWN. Changes nothing.
 *
 * EMPTCP_NEXT: it may. EMPTCP_SKIP: not this packet, perhaps the next one. Minus
 * EMPTCP_REASON_NO_ROOM: there are not so many bytes left of the 40, or up to
 * EMPTCP_GROW_IP_MAX (see replace.h). _SIGNED: TCP-MD5 or TCP-AO. _UNSAFE: a fragment, or IPsec
 * (RFC 4302) vouches for the header. _TRUNCATED: the headers are not there.
 */
static __always_inline int emptcp_may_grow(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   __u32 bytes, __u32 *others)
{
	struct emptcp_pkt again;

	/* One state for the verifier, of IPv4 and IPv6. */
	if (emptcp_again(ctx, pkt, &again))
		return -EMPTCP_REASON_TRUNCATED;
	*others = emptcp_forget(0);
	tcpopt_walk(ctx, &again, TCPOPT_OTHERS, 2, emptcp_grow_visit, others);
	if (*others & EMPTCP_OTHERS_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	/* A handshake, or the end of the connection, is none of our business. */
	if (!(*others & EMPTCP_OTHERS_DATA_ACK) ||
	    (*others & (1 << MPTCP_MP_CAPABLE | 1 << MPTCP_MP_JOIN | 1 << MPTCP_MP_FASTCLOSE)))
		return EMPTCP_SKIP;
	if (emptcp_again(ctx, pkt, &again))
		return -EMPTCP_REASON_TRUNCATED;
	if (again.version == 4 ? again.ip4->frag_off & bpf_htons(0x3fff)
			       : !emptcp_grow_ext(ctx, &again))
		return -EMPTCP_REASON_UNSAFE;
	if (again.tcp_len + bytes > sizeof(struct tcphdr) + TCPOPT_SPACE ||
	    again.tcp_off - again.ip_off + again.tcp_len + bytes > EMPTCP_GROW_IP_MAX)
		return -EMPTCP_REASON_NO_ROOM;
	return EMPTCP_NEXT;
}

/* What of the fixed headers goes with the length of the options. */
struct emptcp_grow_fixed {
	/* Data offset and flags of TCP. */
	__be16 doff;
	/* Length in the IP header. */
	__be16 ip_len;
};

/* Reads it; again: emptcp_again(). 0, or -1 where the headers are not there. */
static __always_inline int emptcp_grow_read(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    struct emptcp_pkt *again,
					    struct emptcp_grow_fixed *fixed)
{
	if (emptcp_again(ctx, pkt, again))
		return -1;
	fixed->doff = *(const __be16 *)((const void *)again->tcp + EMPTCP_GROW_DOFF);
	fixed->ip_len = again->version == 4 ? again->ip4->tot_len : again->ip6->payload_len;
	return 0;
}

/* Data offset and flags of a header that is longer by so many bytes (modulo 2^32). */
static __always_inline __be16 emptcp_grow_doff(const struct emptcp_grow_fixed *fixed, __u32 bytes)
{
	return bpf_htons(bpf_ntohs(fixed->doff) + (bytes << 10));
}

/* The length in the IP header. 0, or -1 where a helper refuses, which cannot be. */
static __always_inline int emptcp_grow_ip(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  __be16 before, __u32 bytes)
{
	__u32 off = pkt->ip_off + (pkt->version == 4 ? offsetof(struct iphdr, tot_len)
						     : offsetof(struct ipv6hdr, payload_len));
	__be16 after = bpf_htons(bpf_ntohs(before) + bytes);

	if (bpf_skb_store_bytes(ctx, off, &after, sizeof(after), 0))
		return -1;
	if (pkt->version != 4)
		return 0;
	return bpf_l3_csum_replace(ctx, pkt->ip_off + offsetof(struct iphdr, check), before, after,
				   sizeof(after))
		       ? -1
		       : 0;
}

/*
 * Ends a change of the options by diff, as bpf_csum_diff() has it, that made them longer by bytes,
 * or shorter (modulo 2^32), of a packet whose data offset is written: length in the IP header, and
 * the checksum of TCP, which covers the length in the pseudo header, too. Where it is still
 * to be completed it holds the pseudo header alone, which BPF_F_PSEUDO_HDR tells the helper.
 */
static __always_inline int emptcp_grow_end(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct emptcp_grow_fixed *before, __u32 bytes,
					   __s64 diff)
{
	__u32 check =
		(emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK) + offsetof(struct tcphdr, check);
	__u64 sum = (__u64)(__u32)diff + (__u16)~before->doff + emptcp_grow_doff(before, bytes);

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	if (diff < 0 || emptcp_grow_ip(ctx, pkt, before->ip_len, bytes) ||
	    bpf_l4_csum_replace(ctx, check, bpf_htons(pkt->tcp_len),
				bpf_htons(pkt->tcp_len + bytes),
				BPF_F_PSEUDO_HDR | sizeof(__be16)) ||
	    bpf_l4_csum_replace(ctx, check, 0, sum, 0))
		return -EMPTCP_REASON_WRITE;
	return EMPTCP_NEXT;
}

/*
 * Whether a number of bytes is none that a packet can grow by; the verifier learns its bounds. Two
 * comparisons, kept apart, and with 4, not with 0: else older ones do not.
 */
static __always_inline int emptcp_grow_unbounded(__u64 *bytes)
{
	*bytes = emptcp_forget(*bytes) & 31;
	if (*bytes < 4)
		return 1;
	asm volatile("" : "+r"(*bytes));
	return *bytes > EMPTCP_GROW_MAX;
}

/**
 * Puts an option before all others. option: on the stack, aligned to 4 bytes,
 * with NOPs behind it up to bytes, which is as in emptcp_may_grow(); that must
 * have said EMPTCP_NEXT. Lengths, data offset and both checksums follow; a wrong
 * checksum stays as wrong as it was. The pointers of pkt are void after it.
 * Returns EMPTCP_NEXT, or minus EMPTCP_REASON_WRITE where the kernel has no
 * memory for the packet, or decapsulates it: then it is as it was.
 */
static __always_inline int emptcp_grow(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const __u8 *option, __u32 bytes)
{
	__u32 tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	/* Of the others: a DSS and what is beside it; then of all. */
	__u64 len = emptcp_forget(pkt->tcp_len - sizeof(struct tcphdr)) & 63;
	/* From the data offset to the last option: one call writes all. */
	struct {
		__be16 doff;
		/* Window, checksum, urgent pointer. */
		__be16 rest[3];
		__be32 options[TCPOPT_SPACE / sizeof(__be32)];
	} after = {};
	const __u32 fixed = offsetof(typeof(after), options);
	struct emptcp_grow_fixed before;
	struct emptcp_pkt again;
	__u64 diff = 0, more = bytes;

	if (emptcp_grow_unbounded(&more))
		return -EMPTCP_REASON_NO_ROOM;
	bytes = more;
	len += bytes;
	if (len < bytes + 4)
		return -EMPTCP_REASON_UNSAFE;
	asm volatile("" : "+r"(len));
	if (len > TCPOPT_SPACE)
		return -EMPTCP_REASON_NO_ROOM;
	/* Begins so far in front that the others come to lie where they go. */
	if (bpf_skb_load_bytes(ctx, tcp_off + EMPTCP_GROW_DOFF - bytes, &after, fixed + len))
		return -EMPTCP_REASON_TRUNCATED;
	if (emptcp_grow_read(ctx, pkt, &again, &before))
		return -EMPTCP_REASON_TRUNCATED;
	after.doff = emptcp_grow_doff(&before, bytes);
	after.rest[0] = again.tcp->window;
	after.rest[1] = again.tcp->check;
	after.rest[2] = again.tcp->urg_ptr;
	/* Moved by whole words, the others sum to what they did. In words of the stack: the helper
	 * that sums them takes longer than the sum. */
	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++) {
		__be32 word;

		if (i * 4 >= bytes)
			break;
		/* Else clang makes a call to memcpy() of the loop. */
		word = emptcp_forget(((const __be32 *)option)[i]);
		after.options[i] = word;
		diff += word;
	}
	diff = (diff & 0xffffffff) + (diff >> 32);
	diff = (diff & 0xffffffff) + (diff >> 32);
	if (bpf_skb_change_tail(ctx, ctx->len + bytes, 0))
		return -EMPTCP_REASON_WRITE;
	/* All of it is linear and ours from here on: nothing can fail any more. */
	if (bpf_skb_store_bytes(ctx, tcp_off + EMPTCP_GROW_DOFF, &after, fixed + len, 0))
		return -EMPTCP_REASON_WRITE;
	return emptcp_grow_end(ctx, pkt, &before, bytes, diff);
}

#endif /* __EMPTCP_GROW_H__ */
