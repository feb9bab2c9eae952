/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Edits of TCP options that keep the length of the packet and its checksum as
 * right or wrong as it was.
 *
 * An edit has three parts: look (emptcp_look(), then mptcp_each() with a visitor
 * that calls emptcp_scan_option()), decide, write. Sets of bytes lead from one to
 * the next: bit n of a __u64 stands for byte n of the options. So options are
 * edited wherever they begin, all of a kind at once, and the checksum is changed
 * once:
 *
 *	struct emptcp_edit edit = {};
 *	struct emptcp_scan scan;
 *
 *	emptcp_look(ctx, pkt, &scan);
 *	mptcp_each(ctx, pkt, &scan.options, MPTCP_OPTIONS_MAX, my_visit, &scan);
 *	if (scan.others & EMPTCP_OTHERS_SIGNED)
 *		return -EMPTCP_REASON_SIGNED;
 *	emptcp_blank(ctx, pkt, scan.wanted, &edit);
 *	return emptcp_edit_end(ctx, pkt, &edit);
 *
 * Bytes are written directly, in words that are aligned to the TCP header, so
 * that odd offsets need no care in the checksum.
 */
#ifndef __EMPTCP_EDIT_H__
#define __EMPTCP_EDIT_H__

#include <emptcp/chain.h>
#include <emptcp/mptcp.h>

/** Bytes of a word that is edited. */
#define EMPTCP_EDIT_WORD 4
/** Bytes that are skipped where none of them is edited. */
#define EMPTCP_EDIT_SKIP 20

/** What a look at the options has found. */
struct emptcp_scan {
	/** Where the MPTCP options are. */
	struct mptcp_options options;
	/** Bytes of options that the actor wants to edit. */
	__u64 wanted;
	/**
	 * Of the other MPTCP options: 1 << enum mptcp_subtype, and the bits of
	 * enum emptcp_others.
	 */
	__u32 others;
};

enum emptcp_others {
	/** Of any MPTCP option that stays. */
	EMPTCP_OTHERS_MPTCP = 0xffff,
	/** There is a DSS with a data ACK. */
	EMPTCP_OTHERS_DATA_ACK = 1 << 16,
	/** TCP-MD5 or TCP-AO: the packet must not be edited. */
	EMPTCP_OTHERS_SIGNED = 1 << 17,
};

/**
 * What makes a subflow of Linux established, or leaves it as it is
 * (check_fully_established() in net/mptcp/options.c). A packet before that
 * without any of these makes the connection plain TCP; so does one without
 * MPTCP options for RFC 8684, 3.1. An ADD_ADDR counts too, as long as it stays.
 */
#define EMPTCP_OTHERS_KEEP (1 << MPTCP_MP_CAPABLE | 1 << MPTCP_MP_JOIN | EMPTCP_OTHERS_DATA_ACK)

static __always_inline int emptcp_look_visit(const struct tcpopt *opt, void *arg)
{
	struct emptcp_scan *scan = arg;
	__u32 kind = opt->at[0];

	scan->others |= (emptcp_is_zero(kind ^ TCPOPT_MD5SIG) | emptcp_is_zero(kind ^ TCPOPT_AO)) *
			EMPTCP_OTHERS_SIGNED;
	if (kind == TCPOPT_MPTCP && opt->len >= TCPOLEN_MPTCP_MIN)
		mptcp_collect_visit(opt, &scan->options);
	return TCPOPT_GO_ON;
}

/** An empty scan. The verifier must not know that it is: so that the rounds of walks join. */
static __always_inline void emptcp_scan_begin(struct emptcp_scan *scan)
{
	scan->options.last = 0;
	scan->options.more = 0;
	scan->wanted = emptcp_forget(0);
	scan->others = emptcp_forget(0);
}

/** Begins a scan: finds all MPTCP options, and whether the packet is signed. */
static __always_inline void emptcp_look(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					struct emptcp_scan *scan)
{
	emptcp_scan_begin(scan);
	tcpopt_walk(ctx, pkt, TCPOPT_OTHERS, 2, emptcp_look_visit, scan);
}

/** The set of len bytes from off, the offset from the start of the TCP header (20 to 59). */
static __always_inline __u64 emptcp_span(__u32 off, __u32 len)
{
	return ((1ULL << (len & 63)) - 1) << ((off - sizeof(struct tcphdr)) & 63);
}

/** Notes an MPTCP option: one that is to be edited, or one of the others. */
static __always_inline void emptcp_scan_option(struct emptcp_scan *scan, const struct tcpopt *opt,
					       int wanted)
{
	__u32 subtype = mptcp_subtype(opt->at);

	if (wanted) {
		scan->wanted |= emptcp_span(opt->off, opt->len);
		return;
	}
	scan->others |= 1 << subtype;
	if (subtype == MPTCP_DSS && tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
		scan->others |= (opt->at[3] & MPTCP_DSS_HAS_ACK) * EMPTCP_OTHERS_DATA_ACK;
}

/**
 * The packet once more, behind a walk: pointers that lived through it would
 * have several ranges, and the verifier would look at all that follows for each
 * of them. Also after a helper that made the pointers void. Returns 0, or -1
 * where the headers are not there any more.
 */
static __always_inline int emptcp_again(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					struct emptcp_pkt *again)
{
	asm volatile("" : "+r"(ctx));
	emptcp_place(again, ctx_data(ctx), emptcp_forget(pkt->ip_off) & 63,
		     emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK, emptcp_forget(pkt->version));
	if ((void *)(again->tcp + 1) > ctx_data_end(ctx) ||
	    (void *)(again->ip6 + 1) > ctx_data_end(ctx))
		return -1;
	again->tcp_len = again->tcp->doff * 4;
	again->links = pkt->links;
	return 0;
}

/** What an edit has changed so far. */
struct emptcp_edit {
	/** One's complement sum of the words before (inverted) and after. */
	__u64 diff;
	/** Bits that are not what they were. */
	__u32 changed;
};

/**
 * Sets the bits of mask in each byte of the set to those of value. All bytes
 * must lie in the options, as those of a walk do. For a word that the verifier
 * cannot find in the packet, nothing is written; that cannot be, because the
 * options of a parsed packet are all in its linear part.
 */
static __always_inline void emptcp_put(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       __u64 bytes, __u8 mask, __u8 value, struct emptcp_edit *edit)
{
	const __u32 masks = mask * 0x01010101U, values = value * 0x01010101U;
	__u32 off = sizeof(struct tcphdr), tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	__u32 changed = emptcp_forget(0), skip;
	__u64 diff = emptcp_forget(0);
	const void *end;
	void *tcp;

	/* Past timestamps and a data ACK, and what else SYNs have first. */
	skip = emptcp_is_zero(bytes & ((1 << EMPTCP_EDIT_SKIP) - 1)) * EMPTCP_EDIT_SKIP;
	/* Once, not in each round: it goes through memory, and the next round would wait for it. */
	off = emptcp_forget(off + skip);
	bytes >>= skip & 63;
	asm volatile("" : "+r"(ctx));
	tcp = ctx_data(ctx) + tcp_off;
	end = ctx_data_end(ctx);
	for (int i = 0; i < TCPOPT_SPACE / EMPTCP_EDIT_WORD && bytes; i++) {
		__u32 before, after, bits;
		__u32 *word;

		off &= 63;
		word = tcp + off;
		if ((void *)(word + 1) > end)
			break;
		/* Bit n of the first four to all bits of the nth byte of the word. */
		bits = (((__u32)bytes & 15) * 0x00204081U & 0x01010101U) * 0xff;
		bits = bpf_htonl(__builtin_bswap32(bits)) & masks;
		before = *word;
		after = (before & ~bits) | (values & bits);
		*word = after;
		changed |= before ^ after;
		diff += (__u64)(__u32)~before + after;
		bytes >>= EMPTCP_EDIT_WORD;
		off += EMPTCP_EDIT_WORD;
	}
	edit->changed |= changed;
	edit->diff += diff;
}

/** Blanks options: NOPs in the place of their bytes. See emptcp_put(). */
static __always_inline void emptcp_blank(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 __u64 bytes, struct emptcp_edit *edit)
{
	emptcp_put(ctx, pkt, bytes, 0xff, TCPOPT_NOP, edit);
}

/**
 * Ends an edit: the checksum. The pointers of pkt are void after it. Returns
 * what the actor returns: EMPTCP_NEXT, EMPTCP_SKIP where no bit has changed, or
 * minus EMPTCP_REASON_WRITE, which cannot be (ctx_csum_replace_diff()).
 */
static __always_inline int emptcp_edit_end(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct emptcp_edit *edit)
{
	__u64 diff = edit->diff;
	struct emptcp_pkt again;

	if (!edit->changed)
		return EMPTCP_SKIP;
	diff = (diff & 0xffffffff) + (diff >> 32);
	diff = (diff & 0xffffffff) + (diff >> 32);
	if (emptcp_again(ctx, pkt, &again) ||
	    ctx_csum_replace_diff(ctx, again.tcp, again.tcp_off, diff))
		return -EMPTCP_REASON_WRITE;
	return EMPTCP_NEXT;
}

/** Whether the IP packet ends with the TCP header; of BIG TCP, whose length is not told, it does
 * not. */
static __always_inline int emptcp_is_empty(const struct emptcp_pkt *pkt)
{
	__u32 headers = pkt->tcp_off - pkt->ip_off + pkt->tcp_len;

	if (pkt->version == 4)
		return bpf_ntohs(pkt->ip4->tot_len) == headers;
	return bpf_ntohs(pkt->ip6->payload_len) == headers - sizeof(struct ipv6hdr);
}

/**
 * Whether the packet does nothing but acknowledge: no payload, no SYN, FIN, RST.
 * One that is lost costs nothing, the next one acknowledges as much.
 */
static __always_inline int emptcp_is_pure_ack(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	const struct tcphdr *tcp;
	struct emptcp_pkt again;

	if (emptcp_again(ctx, pkt, &again))
		return 0;
	tcp = again.tcp;
	return tcp->ack && !tcp->syn && !tcp->fin && !tcp->rst && emptcp_is_empty(&again);
}

/** How an option is suppressed that carries no proof of its sender. */
enum emptcp_suppress {
	/** NOPs where another MPTCP option stays, else drops pure ACKs. */
	EMPTCP_SUPPRESS_AUTO,
	/** NOPs where another MPTCP option stays. */
	EMPTCP_SUPPRESS_NOP,
	/** Drops pure ACKs. */
	EMPTCP_SUPPRESS_DROP,
};

/**
 * Suppresses what a scan wants, MPTCP options, in one of the ways of enum
 * emptcp_suppress; never leaves a packet without its last MPTCP option. Returns
 * what the actor returns.
 */
static __always_inline int emptcp_suppress(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct emptcp_scan *scan, enum emptcp_suppress how)
{
	struct emptcp_edit edit = {};

	if (!scan->wanted)
		return EMPTCP_SKIP;
	if (how != EMPTCP_SUPPRESS_DROP && (scan->others & EMPTCP_OTHERS_MPTCP)) {
		if (scan->others & EMPTCP_OTHERS_SIGNED)
			return -EMPTCP_REASON_SIGNED;
		emptcp_blank(ctx, pkt, scan->wanted, &edit);
		return emptcp_edit_end(ctx, pkt, &edit);
	}
	if (how != EMPTCP_SUPPRESS_NOP && emptcp_is_pure_ack(ctx, pkt))
		return EMPTCP_DROP;
	return -EMPTCP_REASON_UNSAFE;
}

#endif /* __EMPTCP_EDIT_H__ */
