/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes a RST with MP_TCPRST (RFC 8684, 3.6) of a packet: towards its sender, or
 * towards its receiver in the place of the packet.
 *
 *	struct emptcp_rst rst = {.reason = MPTCP_RST_ADMINISTRATIVELY_PROHIBITED};
 *	int err = emptcp_rst_begin(ctx, pkt, &rst);
 *
 *	if (err)
 *		return -err; (the packet is as it was)
 *	emptcp_rst_write(ctx, &rst, EMPTCP_RST_TO_SENDER);
 *	return ctx_send_back(ctx, pkt->links->hook);
 */
#ifndef __EMPTCP_RST_H__
#define __EMPTCP_RST_H__

#include <emptcp/edit.h>
#include <emptcp/length.h>

/** Reasons in MP_TCPRST (RFC 8684, 3.6), by its names. */
enum mptcp_rst_reason {
	MPTCP_RST_UNSPECIFIED = 0,
	MPTCP_RST_MPTCP_SPECIFIC = 1,
	MPTCP_RST_LACK_OF_RESOURCES = 2,
	MPTCP_RST_ADMINISTRATIVELY_PROHIBITED = 3,
	MPTCP_RST_TOO_MUCH_OUTSTANDING_DATA = 4,
	MPTCP_RST_UNACCEPTABLE_PERFORMANCE = 5,
	MPTCP_RST_MIDDLEBOX_INTERFERENCE = 6,
};

/** T of MP_TCPRST: what stood in the way may be gone soon. */
#define MPTCP_RST_TRANSIENT 0x01

/** Bytes of the TCP header of a RST: MP_TCPRST is its only option. */
#define EMPTCP_RST_TCP_LEN (sizeof(struct tcphdr) + TCPOLEN_MPTCP_RST)

/** TTL or hop limit towards the sender: that of the packet is used up in part. */
#define EMPTCP_RST_TTL 64

/** Whom a RST is for. */
enum emptcp_rst_to {
	EMPTCP_RST_TO_SENDER,
	EMPTCP_RST_TO_RECEIVER,
};

/** A packet that becomes a RST. Of the caller: reason, transient; the rest is what the packet had.
 */
struct emptcp_rst {
	/** enum mptcp_rst_reason. */
	__u8 reason;
	/** Not 0: MPTCP_RST_TRANSIENT. */
	__u8 transient;
	/** 4 or 6. */
	__u8 version;
	/** The packet has ACK. */
	__u8 has_ack;
	/** TTL or hop limit of the packet. */
	__u8 ttl;
	/** The ends of the packet are swapped. */
	__u8 swapped;
	/** Offset of the IP header from the start of the packet. */
	__u32 ip_off;
	/** Sequence number and acknowledgement of the packet. */
	__be32 seq;
	__be32 ack_seq;
	/** What its receiver acknowledges: behind payload, SYN and FIN. */
	__be32 end_seq;
};

/* Sum of numbers of 16 bits, one's complement. */
static __always_inline __u32 emptcp_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Sum of the pseudo header of a segment of len bytes, folded. */
static __always_inline __u32 emptcp_pseudo(const struct emptcp_pkt *pkt, __u32 len)
{
	__u64 sum = (__u64)bpf_htonl(len) + bpf_htons(IPPROTO_TCP);

	if (pkt->version == 4)
		sum += bpf_csum_diff(NULL, 0, &pkt->ip4->saddr, 8, 0);
	else
		sum += bpf_csum_diff(NULL, 0, (void *)&pkt->ip6->saddr, 32, 0);
	return emptcp_fold(sum);
}

/*
 * Whether the checksum of TCP is right, or still to be completed: then it holds the sum of the
 * pseudo header (__tcp_v4_send_check() of the kernel), and a program is not told more. Of a packet
 * that stands for several, GRO has looked, or it is to be completed. len: of the segment. Returns
 * 0, or the reason to leave it.
 */
static __always_inline int emptcp_rst_check(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    __u32 len)
{
	__u32 tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK, check = pkt->tcp->check;
	__u64 sum;

	if (ctx_segment_size(ctx))
		return 0;
	sum = emptcp_pseudo(pkt, len);
	if (sum == check)
		return 0;
	/* A device drops it, too, of which not all is there. */
	if (ctx_sum(ctx, tcp_off, emptcp_forget(len), &sum))
		return EMPTCP_REASON_BAD_CSUM;
	return emptcp_fold(sum) == 0xffff ? 0 : EMPTCP_REASON_BAD_CSUM;
}

/**
 * Cuts the packet to the size of a RST and notes what it had. Nothing is
 * written yet, so emptcp_rst_write() has to follow. Not for a packet that is a
 * RST itself. The pointers of pkt are void after it. Returns 0, or a value of enum
 * emptcp_reason with the packet as it was: EMPTCP_REASON_SIGNED;
 * EMPTCP_REASON_UNSAFE for fragments, options of IPv4 and extension headers, of
 * which it is not known whether they may go back; EMPTCP_REASON_BAD_CSUM, because a RST
 * would have a right one; EMPTCP_REASON_WRITE. To cut it is the last that can fail: at tc
 * that makes all of the packet linear and its own (bpf_skb_change_tail() of the kernel), so that
 * what is written behind it cannot be refused.
 */
static __always_inline int emptcp_rst_begin(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    struct emptcp_rst *rst)
{
	struct emptcp_scan scan;
	struct emptcp_pkt again;
	struct tcphdr *tcp;
	__u32 ip_len, payload;
	int err;

	emptcp_look(ctx, pkt, &scan);
	if (scan.others & EMPTCP_OTHERS_SIGNED)
		return EMPTCP_REASON_SIGNED;
	if (emptcp_again(ctx, pkt, &again))
		return EMPTCP_REASON_TRUNCATED;
	ip_len = again.version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	if (again.tcp_off - again.ip_off != ip_len)
		return EMPTCP_REASON_UNSAFE;
	if (again.version == 4 && (again.ip4->frag_off & bpf_htons(0x3fff)))
		return EMPTCP_REASON_UNSAFE;
	payload = emptcp_payload_len(ctx, &again);
	err = emptcp_rst_check(ctx, &again, again.tcp_len + payload);
	if (err)
		return err;
	tcp = again.tcp;
	rst->version = again.version;
	rst->ip_off = again.ip_off;
	rst->ttl = again.version == 4 ? again.ip4->ttl : again.ip6->hop_limit;
	rst->swapped = 0;
	rst->has_ack = tcp->ack;
	rst->seq = tcp->seq;
	rst->ack_seq = tcp->ack_seq;
	rst->end_seq = bpf_htonl(bpf_ntohl(tcp->seq) + tcp->syn + tcp->fin + payload);
	return ctx_set_len(ctx, again.tcp_off + EMPTCP_RST_TCP_LEN) ? EMPTCP_REASON_WRITE : 0;
}

/* Swaps two numbers of 32 bits. */
static __always_inline void emptcp_swap32(__be32 *a, __be32 *b)
{
	__be32 was = *a;

	*a = *b;
	*b = was;
}

/* Swaps MAC and IP addresses and ports: no sum changes by that. */
static __always_inline void emptcp_swap_ends(struct emptcp_ctx *ctx, void *ip, struct tcphdr *tcp,
					     struct emptcp_rst *rst)
{
	__be16 port = tcp->source;

	tcp->source = tcp->dest;
	tcp->dest = port;
	if (rst->version == 4) {
		struct iphdr *ip4 = ip;

		emptcp_swap32(&ip4->saddr, &ip4->daddr);
	} else {
		__be32 *addrs = ip + offsetof(struct ipv6hdr, saddr);

		for (int i = 0; i < 4; i++)
			emptcp_swap32(addrs + i, addrs + 4 + i);
	}
	if (rst->ip_off >= sizeof(struct ethhdr)) {
		__be16 *mac = ctx_data(ctx);

		/* Of its own for the verifier: clang knows that this much is there. */
		asm volatile("" : "+r"(mac));
		if ((void *)(mac + ETH_ALEN) > ctx_data_end(ctx))
			return;
		for (int i = 0; i < ETH_ALEN / 2; i++) {
			__be16 was = mac[i];

			mac[i] = mac[i + ETH_ALEN / 2];
			mac[i + ETH_ALEN / 2] = was;
		}
	}
	rst->swapped = !rst->swapped;
}

/* The IP header of a RST; without its checksum. */
static __always_inline void emptcp_rst_ip(void *ip, const struct emptcp_rst *rst, int back)
{
	struct ipv6hdr *ip6 = ip;
	struct iphdr *ip4 = ip;

	if (rst->version == 6) {
		ip6->payload_len = bpf_htons(EMPTCP_RST_TCP_LEN);
		ip6->hop_limit = back ? EMPTCP_RST_TTL : rst->ttl;
		return;
	}
	ip4->tot_len = bpf_htons(sizeof(*ip4) + EMPTCP_RST_TCP_LEN);
	ip4->ttl = back ? EMPTCP_RST_TTL : rst->ttl;
	ip4->check = 0;
	ip4->check = ~emptcp_fold(bpf_csum_diff(NULL, 0, ip, sizeof(*ip4), 0));
}

/*
 * The TCP header. The receiver gets sequence number and ACK of the packet, which
 * is in its window if the packet was; the sender what RFC 9293 (3.10.7.1) says.
 */
static __always_inline void emptcp_rst_tcp(struct tcphdr *tcp, const struct emptcp_rst *rst,
					   int back)
{
	__be32 *words = (void *)tcp;
	__u32 flags = EMPTCP_RST_TCP_LEN / 4 << 28 | 0x04 << 16;
	__be32 seq = rst->seq, ack_seq = rst->ack_seq;
	int has_ack = rst->has_ack;

	if (back && has_ack) {
		seq = rst->ack_seq;
		ack_seq = 0;
		has_ack = 0;
	} else if (back) {
		seq = 0;
		ack_seq = rst->end_seq;
		has_ack = 1;
	}
	words[1] = seq;
	words[2] = has_ack ? ack_seq : 0;
	/* Window 0. */
	words[3] = bpf_htonl(flags | (has_ack ? 0x10 << 16 : 0));
	words[4] = 0;
	words[5] =
		bpf_htonl(TCPOPT_MPTCP << 24 | TCPOLEN_MPTCP_RST << 16 |
			  (MPTCP_MP_TCPRST << 4 | (rst->transient ? MPTCP_RST_TRANSIENT : 0)) << 8 |
			  rst->reason);
}

/* The same for a length that the verifier knows. */
static __always_inline int emptcp_rst_write_len(struct emptcp_ctx *ctx, struct emptcp_rst *rst,
						int back, const __u32 ip_len, const __u32 addrs)
{
	const __u32 len = ip_len + EMPTCP_RST_TCP_LEN;
	__u32 ip_off = emptcp_forget(rst->ip_off) & 63;
	void *ip, *end;
	struct tcphdr *tcp;
	__u64 before, after, pseudo, sum;

	asm volatile("" : "+r"(ctx));
	ip = ctx_data(ctx) + ip_off;
	end = ctx_data_end(ctx);
	if (ip + len > end)
		return -1;
	tcp = ip + ip_len;
	before = bpf_csum_diff(NULL, 0, ip, len, 0);
	if (back != rst->swapped)
		emptcp_swap_ends(ctx, ip, tcp, rst);
	emptcp_rst_ip(ip, rst, back);
	emptcp_rst_tcp(tcp, rst, back);
	sum = bpf_csum_diff(NULL, 0, (void *)tcp, EMPTCP_RST_TCP_LEN, 0);
	pseudo = bpf_csum_diff(NULL, 0, ip + addrs, ip_len - addrs, 0);
	pseudo = emptcp_fold(pseudo + bpf_htons(EMPTCP_RST_TCP_LEN) + bpf_htons(IPPROTO_TCP));
	sum = emptcp_fold(sum + pseudo);
	tcp->check = ~sum;
	after = bpf_csum_diff(NULL, 0, ip, len, 0);
	return ctx_csum_done(ctx, tcp, ip_off + ip_len, pseudo,
			     emptcp_fold((__u64)(__u16)~emptcp_fold(before) + emptcp_fold(after)));
}

/**
 * Writes the RST to one of its ends, with whole checksums: also of a packet that
 * it was written to the other end before (at tc, where a clone went there). Behind
 * emptcp_rst_begin() only. Packet pointers are void after it. Returns 0, or -1
 * where the kernel refuses, which cannot be: emptcp_rst_begin() made the headers
 * linear and writable.
 */
static __always_inline int emptcp_rst_write(struct emptcp_ctx *ctx, struct emptcp_rst *rst,
					    enum emptcp_rst_to to)
{
	int back = to == EMPTCP_RST_TO_SENDER;

	if (rst->version == 4)
		return emptcp_rst_write_len(ctx, rst, back, sizeof(struct iphdr),
					    offsetof(struct iphdr, saddr));
	return emptcp_rst_write_len(ctx, rst, back, sizeof(struct ipv6hdr),
				    offsetof(struct ipv6hdr, saddr));
}

#endif /* __EMPTCP_RST_H__ */
