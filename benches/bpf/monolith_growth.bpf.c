// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * inject of MP_PRIO with B, into all packets that can carry it: 4 bytes more. At tc
 * only (EMPTCP_HOOKS_TC): packets do not grow at their tail at XDP.
 */
#define STEPS 1
#include "monolith.h"

#define OPTION_LEN 4

/* Bits of what the walk finds, above those of the subtypes. */
#define DATA_ACK 0x10000
#define SIGNED 0x20000

static __always_inline int growth_visit(const struct tcpopt *opt, void *arg)
{
	__u32 kind = opt->at[0], *found = arg, flags, sub;

	*found |= (kind == TCPOPT_MD5SIG || kind == TCPOPT_AO) * SIGNED;
	if (kind != TCPOPT_MPTCP || !tcpopt_has(opt, 3))
		return TCPOPT_GO_ON;
	sub = opt->at[2] >> 4;
	*found |= 1 << sub;
	if (sub != MPTCP_DSS || !tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
		return TCPOPT_GO_ON;
	flags = opt->at[3];
	if (flags & MPTCP_DSS_HAS_ACK && mptcp_dss_is_whole(flags, opt->len))
		*found |= DATA_ACK;
	return TCPOPT_GO_ON;
}

/** What is among the options: the bits above. */
__noinline int growth_options(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = {
		.tcp = ctx_data(ctx) + (tcp_off & EMPTCP_OFF_MASK),
		.tcp_off = tcp_off & EMPTCP_OFF_MASK,
		.tcp_len = tcp_len & 63,
	};
	__u32 found = 0;

	tcpopt_walk(ctx, &pkt, TCPOPT_OTHERS, 2, growth_visit, &found);
	return found;
}

static __always_inline int grow(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt, __u32 len)
{
	struct {
		__be32 option;
		__u8 others[TCPOPT_SPACE];
	} opts = {bpf_htonl(TCPOPT_MPTCP << 24 | TCPOLEN_MPTCP_PRIO << 16 |
			    (MPTCP_MP_PRIO << 4 | MPTCP_BACKUP) << 8 | TCPOPT_NOP)};
	__u32 tcp_off = pkt->tcp_off & EMPTCP_OFF_MASK, ip_off = pkt->ip_off & 63;
	__u32 at = tcp_off + sizeof(struct tcphdr), check = tcp_off + 16;
	__be16 doff, more, ip_len, ip_more;
	__u32 ip_len_off = ip_off + (pkt->version == 4 ? 2 : 4);
	__u64 diff;

	len &= 63;
	if (len < 4)
		return -EMPTCP_REASON_UNSAFE;
	asm volatile("" : "+r"(len));
	if (len > TCPOPT_SPACE - OPTION_LEN)
		return -EMPTCP_REASON_NO_ROOM;
	if (bpf_skb_load_bytes(ctx, at, opts.others, len) ||
	    bpf_skb_load_bytes(ctx, tcp_off + 12, &doff, 2) ||
	    bpf_skb_load_bytes(ctx, ip_len_off, &ip_len, 2) ||
	    bpf_skb_change_tail(ctx, ctx->len + OPTION_LEN, 0))
		return -EMPTCP_REASON_WRITE;
	more = bpf_htons(bpf_ntohs(doff) + (OPTION_LEN << 10));
	ip_more = bpf_htons(bpf_ntohs(ip_len) + OPTION_LEN);
	if (bpf_skb_store_bytes(ctx, at, &opts, OPTION_LEN + len, 0) ||
	    bpf_skb_store_bytes(ctx, tcp_off + 12, &more, 2, 0) ||
	    bpf_skb_store_bytes(ctx, ip_len_off, &ip_more, 2, 0))
		return -EMPTCP_REASON_WRITE;
	if (pkt->version == 4 && bpf_l3_csum_replace(ctx, ip_off + 10, ip_len, ip_more, 2))
		return -EMPTCP_REASON_WRITE;
	if (bpf_l4_csum_replace(ctx, check, bpf_htons(20 + len), bpf_htons(20 + OPTION_LEN + len),
				BPF_F_PSEUDO_HDR | 2))
		return -EMPTCP_REASON_WRITE;
	diff = (__u64)opts.option + (__u16)~doff + more;
	diff = (diff & 0xffffffff) + (diff >> 32);
	return bpf_l4_csum_replace(ctx, check, 0, diff, 0) ? -EMPTCP_REASON_WRITE : 1;
}

static __always_inline int inject(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	const struct tcphdr *tcp = pkt->tcp;
	__u32 headers = pkt->tcp_off - pkt->ip_off + pkt->tcp_len, fragment;
	int found;

	fragment = pkt->version == 4 && pkt->ip4->frag_off & bpf_htons(0x3fff);
	if (!tcp->ack || tcp->syn || tcp->fin || tcp->rst || tcp->urg || ctx->gso_size ||
	    ctx->len != pkt->tcp_off + pkt->tcp_len)
		return 0;
	if (pkt->version == 4 ? bpf_ntohs(pkt->ip4->tot_len) != headers
			      : bpf_ntohs(pkt->ip6->payload_len) != headers - 40)
		return 0;
	found = growth_options(ctx, pkt->tcp_off, pkt->tcp_len);
	if (found & SIGNED)
		return -EMPTCP_REASON_SIGNED;
	if (!(found & DATA_ACK) ||
	    found & (1 << MPTCP_MP_CAPABLE | 1 << MPTCP_MP_JOIN | 1 << MPTCP_MP_FASTCLOSE))
		return 0;
	if (pkt->tcp_len + OPTION_LEN > 60)
		return -EMPTCP_REASON_NO_ROOM;
	/* IPv6 with extension headers is left alone: one chain need not carry all. */
	if (fragment || (pkt->version == 6 && headers != 40 + pkt->tcp_len))
		return -EMPTCP_REASON_UNSAFE;
	if (found & 1 << MPTCP_MP_PRIO)
		return 0;
	return grow(ctx, pkt, pkt->tcp_len - sizeof(struct tcphdr));
}

SEC(EMPTCP_CTX_SECTION)
int monolith_growth(struct emptcp_ctx *ctx)
{
	struct monolith_counters *c;
	struct emptcp_pkt pkt = {};
	int ret;

	if (!monolith_begin(ctx, &pkt, &c))
		return CTX_PASS;
	BYTES(c, 0, ctx);
	ret = inject(ctx, &pkt);
	if (ret > 0)
		MATCHED(c, 0);
	else if (!ret)
		MISSED(c, 0);
	else
		FAILED(c, 0, -ret);
	return CTX_PASS;
}
