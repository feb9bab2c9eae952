/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet made of another one, to carry an option while nothing but data flows; tc only.
 *
 * A packet with payload has no room for one more option. So an actor sends a copy of it
 * (ctx_send_copy()) and lets the packet go on as it is. The copy comes by the same hook once
 * more: at egress before the packet itself, at ingress a little later. There the actor makes the
 * carrier of it: an ACK with the timestamps of the packet and the option. Nothing marks the copy;
 * the actor knows it by its sequence number and payload. So what goes on is at all times a packet
 * of the connection: a copy that the actor does not meet again is a segment that came twice, and
 * where it takes a segment that was sent again for the copy, the copy carries the data.
 *
 * Steps before the actor see the copy as what it is: a segment that came twice.
 */
#ifndef __EMPTCP_CARRIER_H__
#define __EMPTCP_CARRIER_H__

#include <emptcp/replace.h>
#include <emptcp/rst.h>

/** Bytes of the TCP header of a carrier: it is full, with NOPs, so that its length is constant. */
#define EMPTCP_CARRIER_TCP (sizeof(struct tcphdr) + TCPOPT_SPACE)

/** A copy that has not come by for so long will not, in nanoseconds. */
#define EMPTCP_CARRIER_NS 1000000000LL

/* Flags that a carrier keeps, in the fourth word of the TCP header: ACK, and ECE, which is repeated
 * until it is answered. */
#define EMPTCP_CARRIER_FLAGS (0x10 << 16 | 0x40 << 16)

/** The TCP header of a carrier. */
union emptcp_carrier {
	__be32 words[EMPTCP_CARRIER_TCP / 4];
	struct {
		struct tcphdr tcp;
		__u8 timestamps[EMPTCP_TIMESTAMPS_SPACE];
		__u8 option[EMPTCP_GROW_MAX];
	};
};

/**
 * Whether a copy of a packet with payload can become a carrier; emptcp_may_grow() must have
 * looked at its options before, and said EMPTCP_NEXT or minus EMPTCP_REASON_NO_ROOM. Changes
 * nothing. Returns EMPTCP_NEXT, or minus EMPTCP_REASON_UNSAFE: extension headers of IPv6 (a
 * routing header changes the sum of addresses); _BAD_CSUM: the carrier would have a right checksum;
 * _TRUNCATED.
 */
static __always_inline int emptcp_may_copy(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	struct emptcp_pkt again;
	int err;

	if (emptcp_again(ctx, pkt, &again))
		return -EMPTCP_REASON_TRUNCATED;
	if (again.version == 6 && again.tcp_off - again.ip_off != sizeof(struct ipv6hdr))
		return -EMPTCP_REASON_UNSAFE;
	err = emptcp_rst_check(ctx, &again, again.tcp_len + emptcp_payload_len(ctx, &again));
	return err ? -err : EMPTCP_NEXT;
}

/* Sum of the pseudo header of a carrier. */
static __always_inline __u32 emptcp_carrier_pseudo(const struct emptcp_pkt *pkt)
{
	__u64 sum = bpf_htonl(EMPTCP_CARRIER_TCP) + (__u64)bpf_htons(IPPROTO_TCP);
	__be32 addrs[8] = {};

	if (pkt->version == 4) {
		addrs[0] = pkt->ip4->saddr;
		addrs[1] = pkt->ip4->daddr;
	} else {
		__builtin_memcpy(addrs, &pkt->ip6->saddr, sizeof(addrs));
	}
	sum += bpf_csum_diff(NULL, 0, addrs, sizeof(addrs), 0);
	return emptcp_fold(sum);
}

/* The length in the IP header, whatever it was. 0, or -1. */
static __always_inline int emptcp_carrier_ip(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 ip_off = emptcp_forget(pkt->ip_off) & 63;
	__be16 before, after;

	if (pkt->version != 4) {
		after = bpf_htons(EMPTCP_CARRIER_TCP);
		return bpf_skb_store_bytes(ctx, ip_off + offsetof(struct ipv6hdr, payload_len),
					   &after, sizeof(after), BPF_F_RECOMPUTE_CSUM)
			       ? -1
			       : 0;
	}
	after = bpf_htons(pkt->tcp_off - pkt->ip_off + EMPTCP_CARRIER_TCP);
	if (bpf_skb_load_bytes(ctx, ip_off + offsetof(struct iphdr, tot_len), &before,
			       sizeof(before)) ||
	    bpf_skb_store_bytes(ctx, ip_off + offsetof(struct iphdr, tot_len), &after,
				sizeof(after), 0) ||
	    bpf_l3_csum_replace(ctx, ip_off + offsetof(struct iphdr, check), before, after,
				sizeof(after)))
		return -1;
	return 0;
}

/**
 * Makes a carrier of a packet for which emptcp_may_copy() has said EMPTCP_NEXT. option:
 * EMPTCP_GROW_MAX bytes on the stack, aligned to 4, NOPs behind the option. seq: sequence number,
 * in the byte order of the machine, which must be in the window of the receiver when the carrier
 * comes. Both checksums follow. The pointers of pkt are void after it. Returns EMPTCP_NEXT, or
 * minus a reason with the packet as it was.
 */
static __always_inline int emptcp_carry(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const __u8 *option, __u32 seq)
{
	__u32 tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	__u32 check = tcp_off + offsetof(struct tcphdr, check), sum, flags;
	union emptcp_carrier carrier;
	struct emptcp_room room;
	struct emptcp_pkt again;
	__u16 pseudo;

	/* Beside a data ACK. */
	room.timestamps_len = 0;
	if (pkt->tcp_len >= sizeof(struct tcphdr) + 2 * EMPTCP_TIMESTAMPS_LEN &&
	    emptcp_room_timestamps(ctx, pkt, &room))
		return -EMPTCP_REASON_TRUNCATED;
	if (emptcp_again(ctx, pkt, &again))
		return -EMPTCP_REASON_TRUNCATED;
	pseudo = emptcp_carrier_pseudo(&again);
	flags = bpf_ntohl(((const __be32 *)again.tcp)[3]);
	carrier.words[0] = ((const __be32 *)again.tcp)[0];
	carrier.words[1] = bpf_htonl(seq);
	carrier.words[2] = again.tcp->ack_seq;
	carrier.words[3] = bpf_htonl((__u32)EMPTCP_CARRIER_TCP / 4 << 28 |
				     (flags & (EMPTCP_CARRIER_FLAGS | 0xffff)));
	carrier.words[4] = 0;
	if (!room.timestamps_len)
		__builtin_memset(room.timestamps, TCPOPT_NOP, sizeof(room.timestamps));
	__builtin_memcpy(carrier.timestamps, room.timestamps, sizeof(room.timestamps));
	__builtin_memcpy(carrier.option, option, EMPTCP_GROW_MAX);
	sum = emptcp_fold(bpf_csum_diff(NULL, 0, carrier.words, sizeof(carrier), 0) +
			  (__u64)pseudo);
	carrier.tcp.check = ~sum;

	if (ctx_set_len(ctx, tcp_off + EMPTCP_CARRIER_TCP))
		return -EMPTCP_REASON_WRITE;
	/*
	 * All of it is linear and ours from here on: nothing can fail any more. What the device
	 * has summed (CHECKSUM_COMPLETE) follows what is written, with the whole checksum in it;
	 * then an incomplete one gets the sum of the pseudo header, as in ctx_csum_done().
	 */
	if (bpf_skb_store_bytes(ctx, tcp_off, carrier.words, sizeof(carrier),
				BPF_F_RECOMPUTE_CSUM) ||
	    emptcp_carrier_ip(ctx, pkt) ||
	    bpf_skb_store_bytes(ctx, check, &pseudo, sizeof(pseudo), 0) ||
	    bpf_l4_csum_replace(ctx, check, 0, sum + pseudo, 0))
		return -EMPTCP_REASON_WRITE;
	return EMPTCP_NEXT;
}

#endif /* __EMPTCP_CARRIER_H__ */
