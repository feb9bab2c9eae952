/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One option in whatever packet of a direction can carry it first: an ACK with room, one that gives
 * up its SACK blocks or its DSS (replace.h), or a copy of a packet with payload (carrier.h); tc
 * only. For modules with the flag EMPTCP_TRACKED:
 *
 *	struct emptcp_adding add;
 *
 *	if (!emptcp_add_begin(ctx, pkt, &add))
 *		return EMPTCP_SKIP;
 *	… whether it is to be added …
 *	if (!emptcp_add_is_turn(pkt, &add))
 *		return EMPTCP_SKIP;
 *	ret = emptcp_add_look(ctx, &add, subtype, len);
 *	if (ret != EMPTCP_NEXT)
 *		return ret;
 *	if (emptcp_add_wants_copy(&add))
 *		return emptcp_add_send_copy(ctx, &add);
 *	… write the option into add.place->option, claim …
 *	return emptcp_add_put(ctx, &add, emptcp_add_next(&add, way), way);
 *
 * Only the packet that carries the option pays for what comes behind emptcp_add_look().
 */
#ifndef __EMPTCP_ADD_OPTION_H__
#define __EMPTCP_ADD_OPTION_H__

#include <emptcp/carrier.h>
#include <emptcp/clock.h>
#include <emptcp/tracked.h>

/** An option, and NOPs behind it. May hold a HMAC: no type of the vocabulary. */
union emptcp_option {
	__u8 at[EMPTCP_GROW_MAX];
	__be16 halves[EMPTCP_GROW_MAX / 2];
	__u32 words[EMPTCP_GROW_MAX / 4];
};

/** A copy that was sent and will be the carrier when it comes by. */
struct emptcp_copy {
	/** When: CLOCK_BOOTTIME. */
	emptcp_time at;
	/** By these it is known: sequence number and bytes of payload. */
	__u32 seq;
	__u32 payload;
};

struct emptcp_copy_key {
	struct emptcp_subflow subflow;
	/** Each step waits for its own. */
	emptcp_step_id step;
};

/** Copies that are under way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_copy_key);
	__type(value, struct emptcp_copy);
	__uint(max_entries, 4096);
} copies SEC(".maps") EMPTCP_KEPT;

/** What is too large for the stack: of the packet that is treated on this CPU. */
struct emptcp_adding_place {
	/** The option that is about to be added. */
	union emptcp_option option;
	/** Of its direction and the step. */
	struct emptcp_copy_key copy;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_adding_place);
	__uint(max_entries, 1);
} adding SEC(".maps");

/** That place; NULL, which cannot be, where there is none. */
static __always_inline struct emptcp_adding_place *emptcp_adding_place(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&adding, &zero);
}

/** What is known of the packet. */
struct emptcp_adding {
	/** Never NULL. Void once a copy was sent: that comes by in between. */
	struct emptcp_adding_place *place;
	/** CLOCK_BOOTTIME. */
	__u64 now;
	/** Where its headers are, as in EMPTCP_WORD_HEADERS. */
	__u32 headers;
	__u32 seq;
	/** Bytes, segments. */
	__u32 payload;
	__u32 segments;
	/** It is the copy that is under way. */
	int is_copy;
	/** Of emptcp_add_look(): bytes of the option with NOPs; there is no room for them; which
	 * options there are, as emptcp_may_grow() says. */
	__u32 bytes;
	int is_full;
	__u32 others;
};

/*
 * What walks through options or writes is a function that the verifier looks at once. It gets
 * where the headers are, and finds the option in the map.
 */

/**
 * Whether the packet may carry so many bytes more, or a copy of it become a carrier: others of
 * that, and from bit 20 on what emptcp_may_grow() says: 0 EMPTCP_NEXT, 1 EMPTCP_SKIP, else 1 and
 * the reason.
 */
__noinline int emptcp_add_may_grow(struct emptcp_ctx *ctx, __u32 headers, __u32 bytes)
{
	struct emptcp_pkt pkt = {};
	__u32 found;
	int ret;

	if (emptcp_place_headers(ctx, headers, &pkt))
		return (EMPTCP_REASON_TRUNCATED + 1) << 20;
	ret = emptcp_may_grow(ctx, &pkt, bytes, &found);
	if (ret < 0)
		ret = 1 - ret;
	return (found & 0xfffff) | ret << 20;
}

/** emptcp_may_copy(). */
__noinline int emptcp_add_may_copy(struct emptcp_ctx *ctx, __u32 headers)
{
	struct emptcp_pkt pkt = {};

	if (emptcp_place_headers(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	return emptcp_may_copy(ctx, &pkt);
}

/** Puts the option into an ACK that has room for so many bytes more. */
__noinline int emptcp_add_grow(struct emptcp_ctx *ctx, __u32 headers, __u32 bytes)
{
	const struct emptcp_adding_place *place = emptcp_adding_place();
	union emptcp_option option;
	struct emptcp_pkt pkt = {};

	if (!place || emptcp_place_headers(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	option = place->option;
	return emptcp_grow(ctx, &pkt, option.at, bytes);
}

/** Puts it in the place of others, of which emptcp_may_grow() has said. */
__noinline int emptcp_add_replace(struct emptcp_ctx *ctx, __u32 headers, __u32 bytes, __u32 others)
{
	const struct emptcp_adding_place *place = emptcp_adding_place();
	union emptcp_option option;
	struct emptcp_pkt pkt = {};
	struct emptcp_room room;
	int ret;

	if (!place || emptcp_place_headers(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	/* One that is so long that the DSS must go is an ADD_ADDR: it proves to the receiver itself
	 * that the subflow is established. */
	ret = emptcp_may_replace(ctx, &pkt, bytes, 1, others, &room);
	if (ret != EMPTCP_NEXT)
		return ret;
	option = place->option;
	return emptcp_replace(ctx, &pkt, option.at, bytes, &room);
}

/** Makes the copy the carrier. seq: as emptcp_carry() has it. */
__noinline int emptcp_add_carry(struct emptcp_ctx *ctx, __u32 headers, __u32 seq)
{
	const struct emptcp_adding_place *place = emptcp_adding_place();
	union emptcp_option option;
	struct emptcp_pkt pkt = {};

	if (!place || emptcp_place_headers(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	option = place->option;
	return emptcp_carry(ctx, &pkt, option.at, seq);
}

/**
 * What the tracker knows of the connection; NULL: nothing, then *ret is what the module returns.
 * *sub and *from: as emptcp_tracked() has them. For a packet that emptcp_add_begin() took.
 */
static __always_inline const struct emptcp_track_conn *
emptcp_add_connection(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
		      const struct emptcp_adding *add, struct emptcp_track_subflow **sub, int *from,
		      int *ret)
{
	struct emptcp_track_subflow *found = emptcp_tracked(pkt, from);
	const struct emptcp_track_conn *conn = NULL;

	asm volatile("" : "+r"(found));
	if (found && found->client < EMPTCP_DIRECTIONS)
		conn = emptcp_tracked_conn(found);
	asm volatile("" : "+r"(conn));
	*sub = found;
	if (found && conn)
		return conn;
	/* Of plain TCP, and of a handshake, there is nothing to tell. */
	*ret = emptcp_add_may_grow(ctx, add->headers, 4) >> 20;
	*ret = *ret == EMPTCP_SKIP ? EMPTCP_SKIP : -EMPTCP_REASON_UNTRACKED;
	return NULL;
}

/** Whether the packet may be an ACK that carries an option, or a copy of it one that does, as far
 * as its fixed headers say. Cheap; changes nothing. */
static __always_inline int emptcp_add_begin(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    struct emptcp_adding *add)
{
	const struct tcphdr *tcp = pkt->tcp;

	add->place = emptcp_adding_place();
	if (!add->place || !tcp->ack || tcp->syn || tcp->fin || tcp->rst || tcp->urg)
		return 0;
	add->headers = emptcp_headers_of(pkt);
	add->seq = bpf_ntohl(tcp->seq);
	add->payload = emptcp_payload_len(ctx, pkt);
	add->segments = ctx_segments(ctx);
	/* As of an ACK: nothing stands behind it, which a carrier would lose. */
	return add->payload ? ctx_len(ctx, 0) == pkt->tcp_off + pkt->tcp_len + add->payload
			    : emptcp_can_carry(ctx, pkt);
}

/** Whether no copy is under way for this step, or the packet is that copy. Takes the time. */
static __always_inline int emptcp_add_is_turn(const struct emptcp_pkt *pkt,
					      struct emptcp_adding *add)
{
	struct emptcp_copy_key *key = &add->place->copy;
	const struct emptcp_copy *copy;

	add->now = emptcp_boot_now();
	emptcp_subflow_of(pkt, &key->subflow);
	key->step = pkt->links->step;
	copy = bpf_map_lookup_elem(&copies, key);
	add->is_copy = copy && (__s64)(add->now - copy->at) < EMPTCP_CARRIER_NS;
	return !add->is_copy || (copy->seq == add->seq && copy->payload == add->payload);
}

/**
 * Whether the options of the packet let it carry one of this subtype (enum mptcp_subtype; a
 * constant) and so many bytes, up to EMPTCP_GROW_MAX. Changes nothing. Returns EMPTCP_NEXT;
 * EMPTCP_SKIP: not this packet, perhaps the next one; or minus a reason.
 */
static __always_inline int emptcp_add_look(struct emptcp_ctx *ctx, struct emptcp_adding *add,
					   __u32 subtype, __u32 len)
{
	int ret;

	add->bytes = emptcp_grow_bytes(len);
	ret = emptcp_add_may_grow(ctx, add->headers, add->bytes);
	add->others = ret & 0xfffff;
	ret >>= 20;
	add->is_full = ret;
	/* Of two in one packet the kernel takes the last one. */
	if (ret == EMPTCP_SKIP || add->others & 1 << subtype)
		return EMPTCP_SKIP;
	if (ret && ret - 1 != EMPTCP_REASON_NO_ROOM)
		return 1 - ret;
	if (!add->payload)
		return EMPTCP_NEXT;
	/* What is taken for the copy may be a segment that was sent again, and damaged. */
	ret = emptcp_add_may_copy(ctx, add->headers);
	return ret > 0 ? EMPTCP_SKIP : ret;
}

/** Whether the packet is one of which a copy is to carry the option. */
static __always_inline int emptcp_add_wants_copy(const struct emptcp_adding *add)
{
	return add->payload && !add->is_copy;
}

/** Sends that copy; the packet goes on as it is. Returns EMPTCP_SKIP, or minus
 * EMPTCP_REASON_CLONE or _MAP_FULL. */
static __always_inline int emptcp_add_send_copy(struct emptcp_ctx *ctx,
						const struct emptcp_adding *add)
{
	struct emptcp_copy copy = {
		.at = add->now,
		.seq = add->seq,
		.payload = add->payload,
	};

	/* Before: at egress the copy comes by before it is sent. */
	if (bpf_map_update_elem(&copies, &add->place->copy, &copy, BPF_ANY))
		return -EMPTCP_REASON_MAP_FULL;
	if (ctx_send_copy(ctx, emptcp_number(EMPTCP_NUMBER_HOOK)) >= 0)
		return EMPTCP_SKIP;
	bpf_map_delete_elem(&copies, &add->place->copy);
	return -EMPTCP_REASON_CLONE;
}

/* Takes back what the tracker has counted of a copy that becomes a carrier. */
static __always_inline void emptcp_add_uncount(struct emptcp_ctx *ctx, struct emptcp_track_way *way,
					       const struct emptcp_adding *add)
{
	if (way->ifindex != ctx_ifindex(ctx) || way->hook != emptcp_number(EMPTCP_NUMBER_HOOK) + 1)
		return;
	__sync_fetch_and_add(&way->bytes, -(__u64)add->payload);
	__sync_fetch_and_add(&way->retransmitted, -(__u64)add->payload);
	__sync_fetch_and_add(&way->packets, 1 - (__u64)add->segments);
}

/**
 * Sequence number for a carrier. way: what the tracker knows of this direction; NULL: nothing.
 * Before anything is written: it may be gone afterwards.
 */
static __always_inline __u32 emptcp_add_next(const struct emptcp_adding *add,
					     const struct emptcp_track_way *way)
{
	/* What came behind the packet while the copy was on its way is in the window. */
	return way ? way->sequence.end : add->seq + add->payload;
}

/**
 * Adds what lies in add->place->option to a packet for which emptcp_add_look() has said
 * EMPTCP_NEXT, or makes it the carrier. next: of emptcp_add_next(). The pointers of pkt are void
 * after it. Returns EMPTCP_NEXT, EMPTCP_SKIP or minus a reason; then the packet is as it was.
 */
static __always_inline int emptcp_add_put(struct emptcp_ctx *ctx, const struct emptcp_adding *add,
					  __u32 next, struct emptcp_track_way *way)
{
	int ret;

	if (add->is_copy)
		bpf_map_delete_elem(&copies, &add->place->copy);
	if (add->payload)
		ret = emptcp_add_carry(ctx, add->headers, next);
	else if (add->is_full)
		ret = emptcp_add_replace(ctx, add->headers, add->bytes, add->others);
	else
		ret = emptcp_add_grow(ctx, add->headers, add->bytes);
	if (ret)
		return ret < 0 ? ret : EMPTCP_SKIP;
	if (add->payload && way)
		emptcp_add_uncount(ctx, way, add);
	return EMPTCP_NEXT;
}

#endif /* __EMPTCP_ADD_OPTION_H__ */
