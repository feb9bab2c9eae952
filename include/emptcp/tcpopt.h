/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP options: one walk that hostile packets neither trap nor mislead. */
#ifndef __EMPTCP_TCPOPT_H__
#define __EMPTCP_TCPOPT_H__

#include <emptcp/parse.h>

#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_MPTCP 30

/** In the place of a kind: options of every kind but NOP and EOL. */
#define TCPOPT_ANY TCPOPT_EOL
/** The same without timestamps that come first, which costs less. */
#define TCPOPT_OTHERS TCPOPT_NOP

/** Kinds of options that sign the header, RFC 2385 and RFC 5925. */
#define TCPOPT_MD5SIG 19
#define TCPOPT_AO 29

/** Bytes of options at the most. */
#define TCPOPT_SPACE 40

/** An option that a walk has come to. */
struct tcpopt {
	/** Its kind byte. len bytes from here lie in the TCP header, of which the verifier knows
	   two: see tcpopt_has(). */
	__u8 *at;
	/** Its length with kind and length, 2 to 40 bytes. */
	__u32 len;
	/** Its offset from the start of the TCP header, 20 to 58. */
	__u32 off;
	/** Behind the last byte that can be read. */
	const void *end;
};

/** What the visitor of a walk returns. */
enum tcpopt_visit {
	/** On to the next option. */
	TCPOPT_GO_ON,
	/** The walk ends here. */
	TCPOPT_STOP,
};

/**
 * Whether the option has these many bytes (a constant). Lengths are compared
 * for the option, addresses for the verifier.
 */
static __always_inline int tcpopt_has(const struct tcpopt *opt, const __u32 bytes)
{
	return opt->len >= bytes && (const void *)(opt->at + bytes) <= opt->end;
}

/**
 * Calls visit for each option of this kind that is at least min_len (2 or more)
 * bytes long and ends inside the header, in their order. Returns the offset
 * from the start of the TCP header of the option at which it returned
 * TCPOPT_STOP, 0 where it never did. An option of length 0 or 1, or one that
 * runs past the header, ends the walk, as it does in tcp_parse_options() of the
 * kernel. visit may write into the option.
 *
 * visit is verified in each of 40 rounds: keep it short, without branches if
 * that can be. For options of Multipath TCP see mptcp_walk().
 *
 * The offset starts as a number that the verifier does not know, so that the
 * paths of one round join in the next: some 2,000 instructions instead of
 * 250,000.
 */
static __always_inline __u32 tcpopt_walk(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 __u8 kind, __u32 min_len,
					 int (*visit)(const struct tcpopt *opt, void *arg),
					 void *arg)
{
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	__u32 tcp_off, tcp_len, off = sizeof(struct tcphdr);
	void *tcp, *end;

	/*
	 * What most packets of most systems begin with: NOP NOP timestamps. In
	 * numbers, without a branch: the sign of differs says no.
	 */
	if (kind != TCPOPT_ANY && (const void *)(ts + 3) <= ctx_data_end(ctx)) {
		__u32 differs = *ts ^ bpf_htonl(0x0101080a);

		differs |= -differs;
		differs |= pkt->tcp_len - 32;
		asm volatile("" : "+r"(differs));
		off += 12 - 12 * (differs >> 31);
	}
	/* Fresh numbers and pointers: what is known of the old ones differs from path to path. */
	off = emptcp_forget(off) & 63;
	tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	tcp_len = emptcp_forget(pkt->tcp_len) & 63;
	asm volatile("" : "+r"(ctx));
	tcp = ctx_data(ctx) + tcp_off;
	end = ctx_data_end(ctx);

	for (int i = 0; i < TCPOPT_SPACE; i++) {
		__u8 *opt;
		__u32 len = 1;
		__s32 left;

		/* A number of its own: bounds that tcp_len got here would tell the rounds apart. */
		left = tcp_len - off;
		asm volatile("" : "+r"(left));
		opt = tcp + off;
		if (left < 2 || (const void *)(opt + 2) > end)
			return 0;
		if (opt[0] == TCPOPT_EOL)
			return 0;
		if (opt[0] != TCPOPT_NOP) {
			len = opt[1];
			if (len < 2 || (__s32)len > left)
				return 0;
			if ((kind <= TCPOPT_OTHERS || opt[0] == kind) && len >= min_len) {
				const struct tcpopt here = {
					.at = opt,
					.len = len,
					.off = off,
					.end = end,
				};

				if (visit(&here, arg) == TCPOPT_STOP)
					return off;
			}
		}
		/* One place for both ways, so that they join. */
		off = (off + len) & 63;
		asm volatile("" : "+r"(off));
	}
	return 0;
}

static __always_inline int tcpopt_stop(const struct tcpopt *opt, void *arg)
{
	return TCPOPT_STOP;
}

/**
 * Offset from the start of the TCP header of the first option of this kind
 * that is at least min_len (2 or more) bytes long; 0 where there is none. See
 * tcpopt_walk().
 */
static __always_inline __u32 tcpopt_find(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 __u8 kind, __u32 min_len)
{
	return tcpopt_walk(ctx, pkt, kind, min_len, tcpopt_stop, NULL);
}

static __always_inline int tcpopt_signed_visit(const struct tcpopt *opt, void *arg)
{
	return opt->at[0] == TCPOPT_MD5SIG || opt->at[0] == TCPOPT_AO ? TCPOPT_STOP : TCPOPT_GO_ON;
}

/** Notes for the steps that follow in this program that no signature covers the header. */
static __always_inline void tcpopt_leave_unsigned(void)
{
	__u64 word;

	if (!emptcp_is(EMPTCP_IS_FOLLOWED))
		return;
	EMPTCP_FRAME_LOAD(word, HEADERS);
	/* One state for the verifier, whether it was found or known. */
	word = emptcp_forget(word | EMPTCP_HEADERS_UNSIGNED);
	EMPTCP_FRAME_STORE(HEADERS, word);
}

/**
 * Whether it can be said without a walk that no signature covers the header: a
 * step before in this program knows, or the options are those of most packets,
 * timestamps and one of Multipath TCP that fills the rest. Pointers stay good.
 */
static __always_inline int tcpopt_is_plainly_unsigned(struct emptcp_ctx *ctx,
						      const struct emptcp_pkt *pkt)
{
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	const __u16 *next = (const void *)(ts + 3);

	/* Cheaper than to leave it for the next step; one branch for kinds and length. */
	if ((const void *)(next + 1) <= ctx_data_end(ctx)) {
		__u32 differs = *ts ^ bpf_htonl(0x0101080a);

		differs |= *next ^ bpf_htons(TCPOPT_MPTCP << 8 | ((pkt->tcp_len - 32) & 63));
		if (!differs)
			return 1;
	}
	if (emptcp_is(EMPTCP_IS_JOINED) || emptcp_is(EMPTCP_IS_POINTERS)) {
		__u64 word;

		EMPTCP_FRAME_LOAD(word, HEADERS);
		if (word & EMPTCP_HEADERS_UNSIGNED)
			return 1;
	}
	return 0;
}

/** Whether TCP-MD5 or TCP-AO covers the header, so that it must not be edited; by a walk. */
static __always_inline int tcpopt_is_signed(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	if (tcpopt_walk(ctx, pkt, TCPOPT_OTHERS, 2, tcpopt_signed_visit, NULL))
		return 1;
	tcpopt_leave_unsigned();
	return 0;
}

/**
 * The option at an offset that a walk returned, of which this many bytes (a
 * constant) can be read and written; NULL where they cannot. Valid until a
 * helper changes the packet, as pkt->tcp.
 */
static __always_inline __u8 *tcpopt_at(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       __u32 off, const __u32 bytes)
{
	__u8 *opt;

	opt = ctx_data(ctx) + (emptcp_forget(pkt->tcp_off + off) & EMPTCP_OFF_MASK);
	if ((void *)(opt + bytes) > ctx_data_end(ctx))
		return NULL;
	return opt;
}

#endif /* __EMPTCP_TCPOPT_H__ */
