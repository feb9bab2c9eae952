/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The context at tc ingress and egress, for clsact and TCX alike; see ctx.h. */
#ifndef __EMPTCP_CTX_TC_H__
#define __EMPTCP_CTX_TC_H__

#include <emptcp/types.h>

/** The kernel's context of a packet. */
#define emptcp_ctx __sk_buff

#define EMPTCP_CTX_SECTION "tc"

enum {
	/** The packet goes on to the next program: TC_ACT_UNSPEC, which is also TCX_NEXT. */
	CTX_PASS = TC_ACT_UNSPEC,
	CTX_DROP = TC_ACT_SHOT,
	CTX_REDIRECT = TC_ACT_REDIRECT,
	/** There is none at tc: see ctx_send_back(). */
	CTX_TX = TC_ACT_SHOT,
};

/** What parts of a split policy hand on, by hook. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_handover);
	__uint(max_entries, EMPTCP_HOOK_MAX);
} handover SEC(".maps");

/** Leaves the generation of this packet for so many later parts. */
static __always_inline void ctx_hand_over(struct emptcp_ctx *ctx, __u32 hook, __u64 generation,
					  __u32 later)
{
	struct emptcp_handover *h = bpf_map_lookup_elem(&handover, &hook);

	if (!h)
		return;
	h->packet = (unsigned long)ctx;
	h->generation = generation;
	h->left = later;
	h->tracked = 0;
}

/** Leaves what the tracker knows of this packet (EMPTCP_WORD_TRACKED) for the later parts. */
static __always_inline void ctx_hand_on(struct emptcp_ctx *ctx, __u32 hook, __u32 tracked)
{
	struct emptcp_handover *h = bpf_map_lookup_elem(&handover, &hook);

	if (h)
		h->tracked = tracked;
}

/** Takes the generation that the first part has left for this packet, and what the tracker knows
 * of it; 0 where it has not. */
static __always_inline int ctx_take_over(struct emptcp_ctx *ctx, __u32 hook, __u64 *generation,
					 __u32 *tracked)
{
	struct emptcp_handover *h = bpf_map_lookup_elem(&handover, &hook);

	if (!h || h->packet != (unsigned long)ctx || !h->left)
		return 0;
	h->left--;
	*generation = h->generation;
	*tracked = h->tracked;
	return 1;
}

/** Keeps this packet from the later parts. */
static __always_inline void ctx_end_here(struct emptcp_ctx *ctx, __u32 hook)
{
	struct emptcp_handover *h = bpf_map_lookup_elem(&handover, &hook);

	if (h)
		h->generation = 0;
}

/** Bytes of the packet from its link-layer header on. */
static __always_inline __u32 ctx_len(struct emptcp_ctx *ctx, int frags)
{
	return ctx->len;
}

/** Packets on the wire that this one stands for (GSO, GRO). */
static __always_inline __u32 ctx_segments(const struct emptcp_ctx *ctx)
{
	return ctx->gso_segs ?: 1;
}

/** Bytes of TCP payload of each of them but the last; 0 where it is one alone. */
static __always_inline __u32 ctx_segment_size(const struct emptcp_ctx *ctx)
{
	return ctx->gso_size;
}

/** Interface at which the packet is. */
static __always_inline __u32 ctx_ifindex(const struct emptcp_ctx *ctx)
{
	return ctx->ifindex;
}

/** Protocol (network byte order) of a VLAN tag that is not among the bytes of the packet, 0 where
 * there is none; *tci: its control information, in the byte order of the machine. */
static __always_inline __be16 ctx_vlan(const struct emptcp_ctx *ctx, __u16 *tci)
{
	if (!ctx->vlan_present)
		return 0;
	*tci = ctx->vlan_tci;
	return ctx->vlan_proto;
}

/**
 * Copies the first len bytes of the packet (1 to max, and as many as it has), also
 * of what is not in its linear part. max: a constant, a power of two; the memory
 * has as many bytes. Returns how many were copied: len, or 0 where that cannot be.
 */
static __always_inline __u32 ctx_copy(struct emptcp_ctx *ctx, void *to, __u32 len, const __u32 max)
{
	/* In numbers: Linux 5.10 learns nothing of a comparison with 0. */
	asm volatile("" : "+r"(len));
	len = ((len - 1) & (max - 1)) + 1;
	if (bpf_skb_load_bytes(ctx, 0, to, len))
		return 0;
	return len;
}

/** Bytes that ctx_sum() takes at the most: more than any frame that is one segment. */
#define CTX_SUM_MAX 10240
/* Bytes that are read at once. */
#define CTX_SUM_STEP 128

/**
 * Adds len bytes of the packet from off on to sum, a one's complement sum of words
 * in the byte order of the wire (bpf_csum_diff()). Returns 0, or -1 where they are not there or
 * more than CTX_SUM_MAX.
 */
static __always_inline int ctx_sum(struct emptcp_ctx *ctx, __u32 off, __u32 len, __u64 *sum)
{
	__u32 whole = len / CTX_SUM_STEP, rest = len % CTX_SUM_STEP;
	__be32 words[CTX_SUM_STEP / 4];
	__s64 done = (__u32)(*sum + (*sum >> 32));

	asm volatile("" : "+r"(whole), "+r"(rest));
	if (whole > CTX_SUM_MAX / CTX_SUM_STEP)
		return -1;
	for (__u32 i = 0; i < CTX_SUM_MAX / CTX_SUM_STEP; i++) {
		/* Numbers that the verifier does not know: so the rounds are alike to it. */
		asm volatile("" : "+r"(off), "+r"(done));
		if (i >= whole)
			break;
		if (bpf_skb_load_bytes(ctx, off, words, CTX_SUM_STEP))
			return -1;
		done = bpf_csum_diff(NULL, 0, words, CTX_SUM_STEP, done);
		off += CTX_SUM_STEP;
	}
	asm volatile("" : "+r"(rest), "+r"(off), "+r"(done));
	if (rest) {
		__builtin_memset(words, 0, sizeof(words));
		rest = ((rest - 1) & (CTX_SUM_STEP - 1)) + 1;
		if (bpf_skb_load_bytes(ctx, off, words, rest))
			return -1;
		done = bpf_csum_diff(NULL, 0, words, CTX_SUM_STEP, done);
	}
	*sum = (__u32)done;
	return 0;
}

/** Makes the first len bytes linear; 0, or negative where that cannot be. Packet pointers are void
 * after it. */
static __always_inline int ctx_pull(struct emptcp_ctx *ctx, __u32 len)
{
	return bpf_skb_pull_data(ctx, len < ctx->len ? len : ctx->len);
}

/* Else clang may share the sum of pointer and offset, which the kernel refuses. */
#define CTX_OPAQUE(ctx) asm volatile("" : "+r"(ctx))

/** Word of the chain context (enum emptcp_word). */
static __always_inline __u32 ctx_word(struct emptcp_ctx *ctx, const int word)
{
	CTX_OPAQUE(ctx);
	return ctx->cb[word];
}

/** Sets a word of the chain context. */
static __always_inline void ctx_set_word(struct emptcp_ctx *ctx, const int word, __u32 value)
{
	CTX_OPAQUE(ctx);
	ctx->cb[word] = value;
}

/** Packet mark (fwmark of the kernel's socket buffer). */
static __always_inline __u32 ctx_mark(const struct emptcp_ctx *ctx)
{
	return ctx->mark;
}

/** Sets the packet mark. */
static __always_inline void ctx_set_mark(struct emptcp_ctx *ctx, __u32 mark)
{
	/* All four bytes: clang would store only those that change, which the kernel refuses. */
	asm volatile("" : "+r"(mark));
	ctx->mark = mark;
}

/** Bytes on the wire: of a GSO packet those of all its segments, each with its headers. Of packets
 * that are sent; the kernel has it from qdisc_pkt_len_init(). */
static __always_inline __u64 ctx_wire_len(struct emptcp_ctx *ctx)
{
	CTX_OPAQUE(ctx);
	return ctx->wire_len;
}

/** When the packet is to leave (CLOCK_MONOTONIC, ns), 0 for now: TCP gives its packets one. Egress
 * only; of forwarded packets it may be a time of arrival. */
static __always_inline __u64 ctx_departure(struct emptcp_ctx *ctx)
{
	CTX_OPAQUE(ctx);
	return ctx->tstamp;
}

/** Sets when the packet is to leave; heeded by fq alone (EMPTCP_NEEDS_FQ). */
static __always_inline void ctx_set_departure(struct emptcp_ctx *ctx, __u64 at)
{
	CTX_OPAQUE(ctx);
	ctx->tstamp = at;
}

/**
 * Whether the socket that sent the packet belongs to the cgroup, or to one
 * below it. Egress only. 0 where the packet comes from no socket of this
 * machine: forwarded, or sent for a connection in TIME_WAIT.
 */
static __always_inline int ctx_in_cgroup(struct emptcp_ctx *ctx, const struct emptcp_cgroup *cgroup)
{
	__u64 id = bpf_skb_ancestor_cgroup_id(ctx, cgroup->level);

	return id && id == cgroup->id;
}

/**
 * Replaces 16 bits that a TCP checksum covers, in the checksum only, by
 * bpf_l4_csum_replace: the one way that is right for packets whose checksum is
 * still to be completed (CHECKSUM_PARTIAL) and for complete ones. offset is that
 * of the TCP header from the start of the packet. Packet pointers are void
 * after it, so it comes last. Returns 0, or a negative errno.
 */
static __always_inline int ctx_csum_replace2(struct emptcp_ctx *ctx, struct tcphdr *tcp,
					     __u32 offset, __be16 from, __be16 to)
{
	return bpf_l4_csum_replace(ctx, offset + offsetof(struct tcphdr, check), from, to,
				   sizeof(to));
}

/**
 * The same for any number of bytes, by the one's complement sum of what they
 * were (inverted) and are, in 32-bit words that are aligned to the TCP header
 * (bpf_csum_diff() makes the same). Cannot fail behind a direct write: for that
 * the kernel has made the headers writable before the program began
 * (bpf_unclone_prologue()), and that is all that the helper asks for.
 */
static __always_inline int ctx_csum_replace_diff(struct emptcp_ctx *ctx, struct tcphdr *tcp,
						 __u32 offset, __wsum diff)
{
	return bpf_l4_csum_replace(ctx, offset + offsetof(struct tcphdr, check), 0, diff, 0);
}

/**
 * Writes 4 bytes of the IP header of IPv6, which no checksum covers: but what
 * the device has summed (CHECKSUM_COMPLETE) covers them. offset is from the
 * start of the packet. Packet pointers are void after it. Returns 0, or a
 * negative errno with the packet as it was.
 */
static __always_inline int ctx_store_ip6(struct emptcp_ctx *ctx, void *at, __u32 offset,
					 __be32 value)
{
	return bpf_skb_store_bytes(ctx, offset, &value, sizeof(value), BPF_F_RECOMPUTE_CSUM);
}

/**
 * Cuts the packet to len bytes or makes it as long, linear and one segment (no
 * GSO); bytes that are new are zero. Packet pointers are void after it. Returns
 * 0, or a negative errno with the packet as it was.
 */
static __always_inline int ctx_set_len(struct emptcp_ctx *ctx, __u32 len)
{
	return bpf_skb_change_tail(ctx, len, 0);
}

/**
 * Ends a rewriting of IP and TCP header that left the whole checksum in tcp. What
 * is incomplete (CHECKSUM_PARTIAL) gets the sum of the pseudo header in its place,
 * which a device or the kernel completes; what the device has summed
 * (CHECKSUM_COMPLETE) grows by diff, after less before. offset is that of the TCP
 * header, pseudo folded to 16 bits. Packet pointers are void after it. Returns 0,
 * or a negative errno.
 */
static __always_inline int ctx_csum_done(struct emptcp_ctx *ctx, struct tcphdr *tcp, __u32 offset,
					 __u16 pseudo, __u32 diff)
{
	__u32 whole = (__u16)~tcp->check;

	bpf_csum_update(ctx, diff);
	tcp->check = pseudo;
	/*
	 * A program is not told which of them it is, but the helper takes no notice of
	 * changes behind the pseudo header where the checksum is incomplete. Else it leaves
	 * ~(diff + ~pseudo), with this diff ~whole.
	 */
	return ctx_csum_replace_diff(ctx, tcp, offset, whole + pseudo);
}

/** Where the sender of a packet of this hook is, as flags of bpf_redirect() and its like. */
static __always_inline __u64 ctx_back(__u32 hook)
{
	return hook == EMPTCP_HOOK_TC_EGRESS ? BPF_F_INGRESS : 0;
}

/**
 * Sends a copy of the packet, as it is now, to where the packet came from, by the
 * interface at which it is. Packet pointers are void after it. 0, or a negative
 * errno.
 */
static __always_inline int ctx_copy_back(struct emptcp_ctx *ctx, __u32 hook)
{
	return bpf_clone_redirect(ctx, ctx->ifindex, ctx_back(hook));
}

/**
 * Sends a copy of the packet, which is at this hook, by the tc hook at (enum emptcp_hook) of an
 * interface of the same network namespace: at egress that is over when this returns, at ingress it
 * comes when the kernel has time. Packet pointers are void after it. Negative errno where it was
 * not sent.
 */
static __always_inline int ctx_send_copy_at(struct emptcp_ctx *ctx, __u32 hook, __u32 ifindex,
					    __u32 at)
{
	struct emptcp_handover *h = bpf_map_lookup_elem(&handover, &hook), kept = {};
	int ret;

	/* The copy leaves its own there, while later parts have not met this packet. */
	if (h)
		kept = *h;
	ret = bpf_clone_redirect(ctx, ifindex, at == EMPTCP_HOOK_TC_INGRESS ? BPF_F_INGRESS : 0);
	if (h)
		*h = kept;
	return ret;
}

/** The same by the hook and interface at which the packet is: once more. */
static __always_inline int ctx_send_copy(struct emptcp_ctx *ctx, __u32 hook)
{
	return ctx_send_copy_at(ctx, hook, ctx->ifindex, hook);
}

/**
 * Takes the packet away, with which the actor ends: returns enum emptcp_verdict. To who sent it, it
 * was sent, while TCP takes EMPTCP_DROP at egress for a full queue and tries again at once, for a
 * few seconds (tcp_retransmit_timer() of the kernel). TC_ACT_STOLEN would do, but not at TCX
 * (tcx_action_code()): so it is redirected to no interface at all, which ends the same way
 * (sch_handle_egress(): NET_XMIT_SUCCESS).
 */
#define ctx_take(ctx) (bpf_redirect(0, 0) == TC_ACT_REDIRECT ? EMPTCP_REDIRECT : EMPTCP_DROP)

/** Sends the packet itself there: returns enum emptcp_verdict, with which the actor ends. */
#define ctx_send_back(ctx, hook)                                                           \
	(bpf_redirect((ctx)->ifindex, ctx_back(hook)) == TC_ACT_REDIRECT ? EMPTCP_REDIRECT \
									 : EMPTCP_DROP)

/** Sends the packet out of an interface, as it is. Returns enum emptcp_verdict, with which the
 * actor ends. */
#define ctx_redirect(ctx, ifindex) \
	(bpf_redirect(ifindex, 0) == TC_ACT_REDIRECT ? EMPTCP_REDIRECT : -EMPTCP_REASON_WRITE)

/**
 * The same towards a next hop, whose link-layer address the kernel finds as for
 * packets that it routes (bpf_redirect_neigh(), Linux 5.10). addr: 1 word of IPv4
 * or 4 of IPv6, of which IPv4 packets may take either. The packet must begin with
 * an Ethernet header without tags. Returns TC_ACT_REDIRECT or TC_ACT_SHOT.
 */
static __always_inline int ctx_redirect_neigh(struct emptcp_ctx *ctx, __u32 ifindex, int version,
					      const __be32 *addr)
{
	struct bpf_redir_neigh hop = {.nh_family = version == 4 ? 2 : 10};

	if (version == 4)
		hop.ipv4_nh = addr[0];
	else
		__builtin_memcpy(hop.ipv6_nh, addr, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(ifindex, &hop, sizeof(hop), 0);
}

/** The same as enum emptcp_verdict, with which the actor ends. */
#define ctx_redirect_via(ctx, ifindex, version, addr)                       \
	(ctx_redirect_neigh(ctx, ifindex, version, addr) == TC_ACT_REDIRECT \
		 ? EMPTCP_REDIRECT                                          \
		 : -EMPTCP_REASON_WRITE)

#endif /* __EMPTCP_CTX_TC_H__ */
