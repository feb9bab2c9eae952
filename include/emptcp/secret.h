/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which bytes of a packet's TCP options must not leave the kernel: the keys of
 * a connection (RFC 8684, 3.1 and 3.5) and the HMACs that prove them (3.2,
 * 3.4.1), of version 0 (RFC 6824) and version 1.
 */
#ifndef __EMPTCP_SECRET_H__
#define __EMPTCP_SECRET_H__

#include <emptcp/mptcp.h>

/** A set of bytes of the TCP options: bit n stands for byte n of them. Those from off to end,
 * offsets from the start of the TCP header (20 to 60). */
static __always_inline __u64 mptcp_option_bytes(__u32 off, __u32 end)
{
	const __u32 first = sizeof(struct tcphdr);

	return ((1ULL << ((end - first) & 63)) - 1) & ~((1ULL << ((off - first) & 63)) - 1);
}

/**
 * The secret bytes of one option: where they begin, from its start; *end: where
 * they end. sub: its third byte; len: its length. What has a length that no
 * version knows is secret behind its first four bytes, where its subtype has
 * forms that are.
 */
static __always_inline __u32 mptcp_secret_of(__u32 sub, __u32 len, __u32 *end)
{
	__u32 from = 4;

	*end = len;
	switch (sub >> 4) {
	case MPTCP_MP_CAPABLE:
		/* Behind both keys: a length and a checksum. */
		if (len > TCPOLEN_MPTCP_MPC_ACK)
			*end = TCPOLEN_MPTCP_MPC_ACK;
		break;
	case MPTCP_MP_JOIN:
		/* Token and nonce of a SYN are no secrets, nor is the nonce of a SYN/ACK. */
		if (len == TCPOLEN_MPTCP_MPJ_SYN)
			from = len;
		else if (len == TCPOLEN_MPTCP_MPJ_SYNACK)
			*end = offsetof(struct mptcp_join_synack, nonce);
		break;
	case MPTCP_ADD_ADDR:
		if (!mptcp_add_addr_is_whole(sub, len))
			break;
		from = len;
		/* Neither an echo nor version 0. */
		if (!(sub & MPTCP_ADD_ADDR_ECHO) && (sub & 15) != 4 && (sub & 15) != 6)
			from = len - TCPOLEN_MPTCP_ADD_ADDR_HMAC;
		break;
	case MPTCP_MP_FASTCLOSE:
		break;
	default:
		from = len;
	}
	return from < *end ? from : *end;
}

/**
 * The set of secret bytes among the options of a packet. Behind the end of the
 * options (EOL, or one whose length is impossible) all bytes are taken for
 * secret but the kind and length of that one: nobody knows what they are.
 */
static __always_inline __u64 mptcp_secrets(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 tcp_off, tcp_len, off;
	__u64 set = emptcp_forget(0);
	void *tcp, *end;

	/* Unknown, as what is added to it: rounds join (see tcpopt_walk()). */
	set |= set << 32;
	off = emptcp_forget(sizeof(struct tcphdr)) & 63;
	tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	tcp_len = emptcp_forget(pkt->tcp_len) & 63;
	asm volatile("" : "+r"(ctx), "+r"(set));
	tcp = ctx_data(ctx) + tcp_off;
	end = ctx_data_end(ctx);
	for (int i = 0; i < TCPOPT_SPACE; i++) {
		__u32 from, to, len = 1;
		__s32 left;
		__u8 *opt;

		left = tcp_len - off;
		asm volatile("" : "+r"(left));
		opt = tcp + off;
		if (left < 2 || (void *)(opt + 2) > end)
			return set;
		if (opt[0] == TCPOPT_EOL)
			return set | mptcp_option_bytes(off, tcp_len);
		if (opt[0] != TCPOPT_NOP) {
			len = opt[1];
			if (len < 2 || (__s32)len > left)
				return set | mptcp_option_bytes(off + 2, tcp_len);
			if (opt[0] == TCPOPT_MPTCP && len >= TCPOLEN_MPTCP_MIN &&
			    (void *)(opt + TCPOLEN_MPTCP_MIN) <= end) {
				from = mptcp_secret_of(opt[2], len, &to);
				from = emptcp_forget(from);
				to = emptcp_forget(to);
				set |= mptcp_option_bytes(off + from, off + to);
			}
		}
		off = (off + len) & 63;
		asm volatile("" : "+r"(off), "+r"(set));
	}
	return set;
}

#endif /* __EMPTCP_SECRET_H__ */
