/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The context at XDP; see ctx.h. */
#ifndef __EMPTCP_CTX_XDP_H__
#define __EMPTCP_CTX_XDP_H__

/** The kernel's context of a packet. */
#define emptcp_ctx xdp_md

#define EMPTCP_CTX_SECTION "xdp"

enum {
	/** The packet goes on, past foreign programs and into the stack. */
	CTX_PASS = XDP_PASS,
	CTX_DROP = XDP_DROP,
	CTX_REDIRECT = XDP_REDIRECT,
	/** Back out of the interface. */
	CTX_TX = XDP_TX,
};

/* In ctx.h, which goes on behind this file. */
static __always_inline void *ctx_data(const struct emptcp_ctx *ctx);
static __always_inline void *ctx_data_end(const struct emptcp_ctx *ctx);

/** A policy is never split at XDP. */
static __always_inline void ctx_hand_over(struct emptcp_ctx *ctx, __u32 hook, __u64 generation,
					  __u32 later)
{
}

/** See ctx_hand_over(). */
static __always_inline void ctx_hand_on(struct emptcp_ctx *ctx, __u32 hook, __u32 tracked)
{
}

/** See ctx_hand_over(). */
static __always_inline int ctx_take_over(struct emptcp_ctx *ctx, __u32 hook, __u64 *generation,
					 __u32 *tracked)
{
	return 1;
}

/** See ctx_hand_over(). */
static __always_inline void ctx_end_here(struct emptcp_ctx *ctx, __u32 hook)
{
}

/** Bytes of the packet from its link-layer header on; frags: the program is of the xdp.frags
 * flavour. */
static __always_inline __u32 ctx_len(struct emptcp_ctx *ctx, int frags)
{
	/* A constant for the verifier: kernels before 5.18 never see the helper. */
	if (frags)
		return bpf_xdp_get_buff_len(ctx);
	return ctx->data_end - ctx->data;
}

/** Packets on the wire that this one stands for. */
static __always_inline __u32 ctx_segments(const struct emptcp_ctx *ctx)
{
	return 1;
}

/** Bytes of TCP payload of each of them but the last; 0: it is one alone. */
static __always_inline __u32 ctx_segment_size(const struct emptcp_ctx *ctx)
{
	return 0;
}

/** Interface at which the packet is. */
static __always_inline __u32 ctx_ifindex(const struct emptcp_ctx *ctx)
{
	return ctx->ingress_ifindex;
}

/** All VLAN tags are among the bytes of the packet. */
static __always_inline __be16 ctx_vlan(const struct emptcp_ctx *ctx, __u16 *tci)
{
	return 0;
}

/**
 * Copies the first len bytes of the packet (8 or more), as far as they are in its
 * linear part. max: a constant, a power of two; the memory has 8 bytes more.
 * Returns how many were copied. In words: bpf_xdp_load_bytes() is of Linux 5.18.
 */
static __always_inline __u32 ctx_copy(struct emptcp_ctx *ctx, void *to, __u32 len, const __u32 max)
{
	void *data, *end;
	__u32 off;

	data = ctx_data(ctx);
	end = ctx_data_end(ctx);
	if (len > end - data)
		len = end - data;
	for (__u32 i = 0; i < max / 8; i++) {
		__u64 *from = data + i * 8;

		if (i * 8 + 8 > len || (void *)(from + 1) > end)
			break;
		*(__u64 *)(to + i * 8) = *from;
	}
	/* What the words have left, with bytes that are there already. */
	off = (len - 8) & (max - 1);
	if (len < 8 || len > max || data + off + 8 > end)
		return 0;
	*(__u64 *)(to + off) = *(__u64 *)(data + off);
	return len;
}

/** Bytes that ctx_sum() takes at the most: of a header, not of payload. */
#define CTX_SUM_MAX 128

/**
 * Adds len bytes of the packet from off on (32 bits at the most) to sum, a one's
 * complement sum of words in the byte order of the wire. Returns 0, or -1 where they are
 * not in its first buffer or more than CTX_SUM_MAX.
 */
static __always_inline int ctx_sum(struct emptcp_ctx *ctx, __u32 off, __u32 len, __u64 *sum)
{
	const void *end = ctx_data_end(ctx);
	const __u8 *at = ctx_data(ctx);
	__u64 done = *sum;

	/* As far as offsets of headers go: a range that the verifier takes. */
	off &= 0x7fff;
	asm volatile("" : "+r"(off));
	at += off & 0x7fff;
	if (len > CTX_SUM_MAX)
		return -1;
	for (__u32 i = 0; i < CTX_SUM_MAX; i += 2) {
		const __u16 *word = (const void *)(at + i);

		asm volatile("" : "+r"(len), "+r"(done));
		if (i + 1 >= len) {
			if (i >= len)
				break;
			if ((const void *)(at + i + 1) > end)
				return -1;
			/* The last byte and a zero. */
			done += bpf_htons(at[i] << 8);
			break;
		}
		if ((const void *)(word + 1) > end)
			return -1;
		done += *word;
	}
	*sum = done;
	return 0;
}

/** Makes the first len bytes linear; 0, or negative where that cannot be. */
static __always_inline int ctx_pull(struct emptcp_ctx *ctx, __u32 len)
{
	return -1;
}

/** Word of the chain context (enum emptcp_word). */
static __always_inline __u32 ctx_word(struct emptcp_ctx *ctx, const int word)
{
	const struct emptcp_chain_words *chain = emptcp_chain_words();

	return chain ? chain->words[word] : 0;
}

/** Sets a word of the chain context. */
static __always_inline void ctx_set_word(struct emptcp_ctx *ctx, const int word, __u32 value)
{
	struct emptcp_chain_words *chain = emptcp_chain_words();

	if (chain)
		chain->words[word] = value;
}

/**
 * Replaces 16 bits that a TCP checksum covers, in the checksum only
 * (RFC 1624, equation 3): a wrong checksum stays wrong by the same difference.
 * tcp must be checked for its first 20 bytes; offset is not needed here.
 * Returns 0.
 */
static __always_inline int ctx_csum_replace2(struct emptcp_ctx *ctx, struct tcphdr *tcp,
					     __u32 offset, __be16 from, __be16 to)
{
	__u32 sum = (__u16)~tcp->check + (__u16)~from + to;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	tcp->check = ~sum;
	return 0;
}

/**
 * The same for any number of bytes, by the one's complement sum of what they
 * were (inverted) and are, in 32-bit words that are aligned to the TCP header
 * (bpf_csum_diff() makes the same). Returns 0.
 */
static __always_inline int ctx_csum_replace_diff(struct emptcp_ctx *ctx, struct tcphdr *tcp,
						 __u32 offset, __wsum diff)
{
	__u64 sum = (__u64)(__u16)~tcp->check + diff;

	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	tcp->check = ~sum;
	return 0;
}

/** Writes 4 bytes of the IP header of IPv6, which must be checked, at the address at. Returns 0. */
static __always_inline int ctx_store_ip6(struct emptcp_ctx *ctx, void *at, __u32 offset,
					 __be32 value)
{
	*(__be32 *)at = value;
	return 0;
}

/**
 * Cuts the packet to len bytes or makes it as long; the packet must have one
 * buffer. Packet pointers are void after it. Returns 0, or a negative errno with
 * the packet as it was.
 */
static __always_inline int ctx_set_len(struct emptcp_ctx *ctx, __u32 len)
{
	void *end, *data;
	__u64 have;

	/* Pointers of 64 bits: see CTX_LOAD_POINTER. */
	asm volatile("%[d] = *(u32 *)(%[c] + %[da])\n\t"
		     "%[e] = *(u32 *)(%[c] + %[ea])"
		     : [d] "=&r"(data), [e] "=r"(end)
		     : [c] "r"(ctx), [da] "i"(offsetof(struct emptcp_ctx, data)),
		       [ea] "i"(offsetof(struct emptcp_ctx, data_end)));
	have = end - data;
	return bpf_xdp_adjust_tail(ctx, (int)(len - have));
}

/** Ends a rewriting of IP and TCP header that left the whole checksum in tcp; see ctx_tc.h. */
static __always_inline int ctx_csum_done(struct emptcp_ctx *ctx, struct tcphdr *tcp, __u32 offset,
					 __u16 pseudo, __u32 diff)
{
	return 0;
}

/** Sends the packet back out of the interface: enum emptcp_verdict, with which the actor ends. */
#define ctx_send_back(ctx, hook) ((void)(hook), EMPTCP_TX)

/** Sends the packet out of an interface, as it is. Returns enum emptcp_verdict, with which the
 * actor ends. */
#define ctx_redirect(ctx, ifindex) \
	(bpf_redirect(ifindex, 0) == XDP_REDIRECT ? EMPTCP_REDIRECT : -EMPTCP_REASON_WRITE)

/** XDP knows of no next hops: minus EMPTCP_REASON_UNSAFE. */
#define ctx_redirect_via(ctx, ifindex, version, addr) (-EMPTCP_REASON_UNSAFE)

#endif /* __EMPTCP_CTX_XDP_H__ */
