/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An option in an ACK that has no room for it: one ACK gives up its SACK blocks, and its DSS
 * where that does not fit beside timestamps and option either; tc only. The next ACK says both
 * again (RFC 2018, 4; RFC 8684, 3.3.2: data ACKs are cumulative), so what is lost is time.
 *
 *	struct emptcp_room room;
 *
 *	ret = emptcp_may_grow(ctx, pkt, bytes, &others);
 *	if (ret == -EMPTCP_REASON_NO_ROOM)
 *		ret = emptcp_may_replace(ctx, pkt, bytes, 0, others, &room);
 *	…
 *	return emptcp_grow_or_replace(ctx, pkt, option, bytes, &room);
 *
 * with room.len 0 where emptcp_may_replace() was not asked. Not for what is done to every ACK:
 * a sender that never sees SACK blocks recovers slowly.
 */
#ifndef __EMPTCP_REPLACE_H__
#define __EMPTCP_REPLACE_H__

#include <emptcp/grow.h>

/* Of timestamps (RFC 7323, 3.2). */
#define EMPTCP_TIMESTAMPS_LEN 10
/* NOP, NOP, timestamps: what most systems send, and the kernel parses fastest. */
#define EMPTCP_TIMESTAMPS_SPACE 12

/** What remains of the options of an ACK. */
struct emptcp_room {
	/** Two NOPs and the timestamps. */
	__u8 timestamps[EMPTCP_TIMESTAMPS_SPACE] __attribute__((aligned(4)));
	/** A data ACK of 8 bytes; of one of 4 bytes the last four are zero. */
	__u8 dss[12] __attribute__((aligned(4)));
	/** Bytes of both: 12 or 0; 12, 8 or 0. */
	__u32 timestamps_len;
	__u32 dss_len;
	/** Bytes of options that it will have; 0: nothing is replaced. */
	__u32 len;
};

/* Takes the timestamps along, where there are some. 0, or -1. */
static __always_inline int emptcp_room_timestamps(struct emptcp_ctx *ctx,
						  const struct emptcp_pkt *pkt,
						  struct emptcp_room *room)
{
	__u32 at = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK, off;
	__u32 *first = (__u32 *)room->timestamps;

	room->timestamps_len = EMPTCP_TIMESTAMPS_SPACE;
	/* Where they are as a rule; there are more options, or there would be room. */
	if (bpf_skb_load_bytes(ctx, at + sizeof(struct tcphdr), first, EMPTCP_TIMESTAMPS_SPACE))
		return -1;
	if (*first == bpf_htonl(0x0101080a))
		return 0;
	off = tcpopt_find(ctx, pkt, EMPTCP_KIND_TIMESTAMPS, EMPTCP_TIMESTAMPS_LEN);
	/* The rounds in which the walk can have ended join here. */
	off = emptcp_forget(off);
	if (!off) {
		room->timestamps_len = 0;
		return 0;
	}
	off = (at + off) & EMPTCP_OFF_MASK;
	if (bpf_skb_load_bytes(ctx, off, room->timestamps + 2, EMPTCP_TIMESTAMPS_LEN))
		return -1;
	room->timestamps[0] = TCPOPT_NOP;
	room->timestamps[1] = TCPOPT_NOP;
	return *first == bpf_htonl(0x0101080a) ? 0 : -1;
}

/* Takes the DSS along, which is there. 0, or -1 where it does more than acknowledge. */
static __always_inline int emptcp_room_dss(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   struct emptcp_room *room)
{
	__u32 off = mptcp_find_subtype(ctx, pkt, MPTCP_DSS, TCPOLEN_MPTCP_DSS_BASE), len;

	off = (emptcp_forget(pkt->tcp_off) + emptcp_forget(off)) & EMPTCP_OFF_MASK;
	__builtin_memset(room->dss, 0, sizeof(room->dss));
	if (bpf_skb_load_bytes(ctx, off, room->dss, 8))
		return -1;
	len = mptcp_dss_len(room->dss[3] & 3);
	if (room->dss[1] != len || len < 8 || (room->dss[3] & 0x1d) != MPTCP_DSS_HAS_ACK)
		return -1;
	if (len > 8 && bpf_skb_load_bytes(ctx, off + 8, room->dss + 8, 4))
		return -1;
	room->dss_len = len > 8 ? 12 : 8;
	return 0;
}

/**
 * Whether a packet for which emptcp_may_grow() has said minus EMPTCP_REASON_NO_ROOM, with these
 * others, may give up options for one of so many bytes (4 to EMPTCP_GROW_MAX, a multiple of 4): it
 * has none but timestamps, SACK, and a DSS that only acknowledges. established: who receives it has
 * had a DSS before, or takes the option itself for a proof (ADD_ADDR); else the DSS must stay,
 * because without it the connection may become plain TCP (check_fully_established() of the
 * kernel). Changes nothing. Returns EMPTCP_NEXT, or minus EMPTCP_REASON_NO_ROOM; room says what
 * remains.
 */
static __always_inline int emptcp_may_replace(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      __u32 bytes, int established, __u32 others,
					      struct emptcp_room *room)
{
	__u32 len;

	room->len = 0;
	if ((others & EMPTCP_OTHERS_MPTCP) != 1 << MPTCP_DSS || (others & EMPTCP_OTHERS_UNKNOWN))
		return -EMPTCP_REASON_NO_ROOM;
	if (emptcp_room_timestamps(ctx, pkt, room) || emptcp_room_dss(ctx, pkt, room))
		return -EMPTCP_REASON_NO_ROOM;
	len = room->timestamps_len + bytes;
	if (len + room->dss_len > TCPOPT_SPACE) {
		if (!established || len > TCPOPT_SPACE)
			return -EMPTCP_REASON_NO_ROOM;
		room->dss_len = 0;
	}
	len += room->dss_len;
	if (pkt->tcp_off - pkt->ip_off + sizeof(struct tcphdr) + len > EMPTCP_GROW_IP_MAX)
		return -EMPTCP_REASON_NO_ROOM;
	/* One state for the verifier, whatever remains. */
	room->timestamps_len = emptcp_forget(room->timestamps_len);
	room->dss_len = emptcp_forget(room->dss_len);
	room->len = emptcp_forget(len);
	return EMPTCP_NEXT;
}

/**
 * Puts an option in the place of others, as emptcp_may_replace() has said in room; option and bytes
 * as of emptcp_grow(). The order is timestamps, option, DSS. Lengths, data offset and both
 * checksums follow; a wrong checksum stays as wrong as it was. Counted as replaced. The pointers
 * of pkt are void after it. Returns as emptcp_grow().
 */
static __always_inline int emptcp_replace(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const __u8 *option, __u32 bytes,
					  const struct emptcp_room *room)
{
	__u32 tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	__u32 at = tcp_off + sizeof(struct tcphdr), more;
	__u64 len = emptcp_forget(pkt->tcp_len - sizeof(struct tcphdr)) & 63;
	__u8 options[TCPOPT_SPACE] __attribute__((aligned(4)));
	struct emptcp_grow_fixed before;
	struct emptcp_pkt again;
	__u64 size = bytes;
	__be16 doff;
	__s64 diff;
	int ret;

	/* As in emptcp_grow(). */
	if (emptcp_grow_unbounded(&size))
		return -EMPTCP_REASON_NO_ROOM;
	if (len < 4)
		return -EMPTCP_REASON_UNSAFE;
	asm volatile("" : "+r"(len));
	if (len > TCPOPT_SPACE)
		return -EMPTCP_REASON_NO_ROOM;
	more = room->len - len;
	if (emptcp_grow_read(ctx, pkt, &again, &before))
		return -EMPTCP_REASON_TRUNCATED;
	doff = emptcp_grow_doff(&before, more);
	if (bpf_skb_load_bytes(ctx, at, options, len) ||
	    bpf_skb_change_tail(ctx, ctx->len + more, 0))
		return -EMPTCP_REASON_WRITE;
	/* All of it is linear and ours from here on: nothing can fail any more. */
	diff = bpf_csum_diff((__be32 *)options, len, NULL, 0, 0);
	if (bpf_skb_store_bytes(ctx, tcp_off + EMPTCP_GROW_DOFF, &doff, sizeof(doff), 0))
		return -EMPTCP_REASON_WRITE;
	if (room->timestamps_len) {
		if (bpf_skb_store_bytes(ctx, at, room->timestamps, sizeof(room->timestamps), 0))
			return -EMPTCP_REASON_WRITE;
		diff = bpf_csum_diff(NULL, 0, (__be32 *)room->timestamps, sizeof(room->timestamps),
				     diff);
		at += sizeof(room->timestamps);
	}
	at = emptcp_forget(at) & EMPTCP_OFF_MASK;
	/* Once more each time: what lay on the stack meanwhile has no bounds on Linux 5.10. */
	if (emptcp_grow_unbounded(&size) || bpf_skb_store_bytes(ctx, at, option, size, 0))
		return -EMPTCP_REASON_WRITE;
	if (emptcp_grow_unbounded(&size))
		return -EMPTCP_REASON_WRITE;
	diff = bpf_csum_diff(NULL, 0, (__be32 *)option, size, diff);
	at += size;
	if (room->dss_len) {
		diff = bpf_csum_diff(NULL, 0, (__be32 *)room->dss, sizeof(room->dss), diff);
		if (bpf_skb_store_bytes(ctx, at, room->dss, 8, 0) ||
		    (room->dss_len > 8 && bpf_skb_store_bytes(ctx, at + 8, room->dss + 8, 4, 0)))
			return -EMPTCP_REASON_WRITE;
	}
	ret = emptcp_grow_end(ctx, pkt, &before, more, (__u32)diff);
	if (ret == EMPTCP_NEXT)
		emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), EMPTCP_REASON_REPLACED);
	return ret;
}

/** emptcp_replace() where emptcp_may_replace() has said so, else emptcp_grow(). */
static __always_inline int emptcp_grow_or_replace(struct emptcp_ctx *ctx,
						  const struct emptcp_pkt *pkt, const __u8 *option,
						  __u32 bytes, const struct emptcp_room *room)
{
	if (room->len)
		return emptcp_replace(ctx, pkt, option, bytes, room);
	return emptcp_grow(ctx, pkt, option, bytes);
}

#endif /* __EMPTCP_REPLACE_H__ */
