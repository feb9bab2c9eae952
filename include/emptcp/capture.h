/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The first bytes of packets to user space, for `emptcp capture`. Modules that
 * include this share one ring; it is there as long as the policy has a step
 * that does.
 *
 * While nobody reads, a packet costs one look at a map. The reader is not woken
 * (that takes longer than all else), it looks at the ring every few
 * milliseconds.
 */
#ifndef __EMPTCP_CAPTURE_H__
#define __EMPTCP_CAPTURE_H__

#include <emptcp/module.h>
#include <emptcp/ring_write.h>
#include <emptcp/secret.h>

/** Bytes of a packet at most. */
#define EMPTCP_CAPTURE_MAX 2048
/** Least that can be asked for. */
#define EMPTCP_CAPTURE_MIN 16

/** Records: struct emptcp_ring_packet. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} capture_ring SEC(".maps") EMPTCP_SHARED;

/** Whether the ring is read; `emptcp capture` writes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_ring_reader);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} capture_reader SEC(".maps") EMPTCP_SHARED;

struct emptcp_capture_lost {
	/** For which the ring had no room. */
	__u64 packets;
};

/** Packets that were not copied because the ring was full; of more places than the map holds
 * nothing is known, but that the step's counter says more than was read. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_ring_place);
	__type(value, struct emptcp_capture_lost);
	__uint(max_entries, 1024);
} capture_lost SEC(".maps") EMPTCP_SHARED;

/** A record as it is made. */
struct emptcp_capture_buffer {
	struct emptcp_ring_packet head;
	/** With room for options that begin inside of what is copied. */
	__u8 bytes[EMPTCP_CAPTURE_MAX + TCPOPT_SPACE];
};

/** Too large for the stack; the ring can lend only records of a fixed size. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_capture_buffer);
	__uint(max_entries, 1);
} capture_buffer SEC(".maps") EMPTCP_SHARED;

/** Zeroes a set of bytes (mptcp_secrets()) of the options that begin at off in the copy. */
static __always_inline void emptcp_capture_zero(struct emptcp_capture_buffer *to, __u32 off,
						__u64 set)
{
	for (int i = 0; i < TCPOPT_SPACE; i++) {
		if (!set)
			break;
		off = emptcp_forget(off) & (2 * EMPTCP_OFF_MASK + 1);
		if (off >= sizeof(to->bytes))
			break;
		if (set & 1)
			to->bytes[off] = 0;
		off++;
		set >>= 1;
		asm volatile("" : "+r"(set));
	}
}

/**
 * Copies the first snap bytes of the packet into the ring, if somebody reads it.
 * keys: with keys and HMACs, if the reader asked for them too; else they are
 * zero. Returns what an actor returns: EMPTCP_NEXT for a packet that was copied
 * or lost, EMPTCP_SKIP where nobody reads. The packet is left as it is, and
 * pointers to it stay valid.
 */
static __always_inline int emptcp_capture(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  __u64 snap, int keys)
{
	const struct emptcp_ring_reader *reader;
	struct emptcp_capture_buffer *to;
	__u32 zero = 0, captured, len;
	__u64 time, flags;

	reader = emptcp_ring_reader_of(&capture_reader, &time);
	if (!reader)
		return EMPTCP_SKIP;
	flags = *(const volatile __u64 *)&reader->flags;
	to = bpf_map_lookup_elem(&capture_buffer, &zero);
	if (!to)
		return EMPTCP_SKIP;

	len = ctx_len(ctx, emptcp_is(EMPTCP_IS_FRAGS));
	/* A value of a table may be anything. */
	if (snap < EMPTCP_CAPTURE_MIN)
		snap = EMPTCP_CAPTURE_MIN;
	if (snap > EMPTCP_CAPTURE_MAX)
		snap = EMPTCP_CAPTURE_MAX;
	captured = ctx_copy(ctx, to->bytes, len < snap ? len : snap, EMPTCP_CAPTURE_MAX);

	emptcp_ring_leave(&to->head.head, pkt->links);
	emptcp_ring_stamp(&to->head.head, ctx, time);
	to->head.head.type = EMPTCP_RING_PACKET;
	to->head.head.size = sizeof(to->head);
	to->head.len = len;
	to->head.captured = captured;
	to->head.flags = 0;
	to->head.vlan_tci = 0;
	to->head.vlan_proto = ctx_vlan(ctx, &to->head.vlan_tci);
	to->head.segments = ctx_segments(ctx);
	to->head.segment_size = ctx_segment_size(ctx);
	to->head.ip_off = pkt->ip_off;
	to->head.tcp_off = pkt->tcp_off;
	to->head.ip_version = pkt->version;
	if (!keys || !(flags & EMPTCP_RING_READS_KEYS)) {
		to->head.flags = EMPTCP_RING_NO_KEYS;
		emptcp_capture_zero(to, pkt->tcp_off + sizeof(struct tcphdr),
				    mptcp_secrets(ctx, pkt));
	}

	captured = emptcp_forget(captured) & (2 * EMPTCP_CAPTURE_MAX - 1);
	if (captured > EMPTCP_CAPTURE_MAX)
		return EMPTCP_SKIP;
	if (bpf_ringbuf_output(&capture_ring, to, sizeof(to->head) + captured, BPF_RB_NO_WAKEUP))
		emptcp_ring_lose(&capture_lost, &to->head.head);
	return EMPTCP_NEXT;
}

#endif /* __EMPTCP_CAPTURE_H__ */
