// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Brings back what rm_add_addr suppressed. The HMAC of an ADD_ADDR covers address id, address and
 * port alone (RFC 8684, 3.4.1), so it is as right later as it was.
 */
#include <emptcp/carrier.h>
#include <emptcp/once.h>
#include <emptcp/stash.h>
#include <emptcp/tracked.h>

EMPTCP_NO_PARAMS(restore_addr);

struct restore_addr_key {
	struct emptcp_stash_key announcement;
	/* Of the option: another address with the same id is another announcement. */
	__u32 hash;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct restore_addr_key);
	/* When: CLOCK_BOOTTIME. */
	__type(value, emptcp_time);
	__uint(max_entries, 16384);
} restored SEC(".maps") EMPTCP_KEPT;

union restore_addr_option {
	__u8 at[EMPTCP_GROW_MAX];
	__u32 words[EMPTCP_GROW_MAX / 4];
};

/* FNV-1a over words. */
static __always_inline __u32 restore_addr_hash(const union restore_addr_option *option)
{
	__u32 hash = 2166136261U;

	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++)
		hash = (hash ^ option->words[i]) * 16777619U;
	return hash;
}

/*
 * The option that is to be restored, and its key. since: when the subflow began, so that nothing
 * of an earlier one with its ports counts. Returns its length, or 0 where it is none of this
 * subflow, was restored before, or is longer than what fits beside timestamps. *how: as
 * emptcp_claim() has it.
 */
static __always_inline __u32 restore_addr_find(struct restore_addr_key *key, __u64 since,
					       union restore_addr_option *option, __u32 *how)
{
	const struct emptcp_stashed *found = bpf_map_lookup_elem(&stash, &key->announcement);
	const emptcp_time *done;
	__u32 len;

	if (!found || found->at < since)
		return 0;
	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++)
		option->words[i] = *(const __u32 *)(found->option + 4 * i);
	len = found->len;
	key->hash = restore_addr_hash(option);
	done = bpf_map_lookup_elem(&restored, key);
	if (done && *done >= since)
		return 0;
	*how = done ? BPF_EXIST : BPF_NOEXIST;
	return len <= EMPTCP_GROW_MAX ? len : 0;
}

/*
 * What walks through options or writes is a function that the verifier looks at once. It gets
 * where the headers are, as emptcp_headers() has it, and finds the option in restoring.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, union restore_addr_option);
	__uint(max_entries, 1);
} restoring SEC(".maps");

static __always_inline union restore_addr_option *restore_addr_option(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&restoring, &zero);
}

/* The packet; 0, or -1. */
static __always_inline int restore_addr_at(struct emptcp_ctx *ctx, __u32 headers,
					   struct emptcp_pkt *pkt)
{
	asm volatile("" : "+r"(ctx));
	emptcp_place(pkt, ctx_data(ctx), headers >> 16 & 63, headers & EMPTCP_OFF_MASK,
		     headers >> 24);
	if ((void *)(pkt->tcp + 1) > ctx_data_end(ctx) ||
	    (void *)(pkt->ip6 + 1) > ctx_data_end(ctx))
		return -1;
	pkt->tcp_len = pkt->tcp->doff * 4;
	return 0;
}

/**
 * Whether the packet may carry so many bytes more, or a copy of it become a carrier: others of the
 * scan, and from bit 20 on what emptcp_may_grow() says: 0 EMPTCP_NEXT, 1 EMPTCP_SKIP, else 1 and
 * the reason.
 */
__noinline int restore_addr_look(struct emptcp_ctx *ctx, __u32 headers, __u32 bytes)
{
	struct emptcp_pkt pkt = {};
	struct emptcp_scan scan;
	int ret;

	if (restore_addr_at(ctx, headers, &pkt))
		return (EMPTCP_REASON_TRUNCATED + 1) << 20;
	ret = emptcp_may_grow(ctx, &pkt, bytes, &scan);
	if (ret < 0)
		ret = 1 - ret;
	return (scan.others & 0xfffff) | ret << 20;
}

/** emptcp_may_copy(). */
__noinline int restore_addr_may_copy(struct emptcp_ctx *ctx, __u32 headers)
{
	struct emptcp_pkt pkt = {};

	if (restore_addr_at(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	return emptcp_may_copy(ctx, &pkt);
}

/** Puts the option into an ACK that has room for so many bytes more. */
__noinline int restore_addr_grow(struct emptcp_ctx *ctx, __u32 headers, __u32 bytes)
{
	union restore_addr_option *found = restore_addr_option(), option;
	struct emptcp_pkt pkt = {};

	if (!found || restore_addr_at(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	option = *found;
	return emptcp_grow(ctx, &pkt, option.at, bytes);
}

/** Puts it in the place of others; of the scan. */
__noinline int restore_addr_replace(struct emptcp_ctx *ctx, __u32 headers, __u32 bytes,
				    __u32 others)
{
	union restore_addr_option *found = restore_addr_option(), option;
	struct emptcp_scan scan = {.others = others};
	struct emptcp_pkt pkt = {};
	struct emptcp_room room;
	int ret;

	if (!found || restore_addr_at(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	/* The option itself proves to the receiver that the subflow is established. */
	ret = emptcp_may_replace(ctx, &pkt, bytes, 1, &scan, &room);
	if (ret != EMPTCP_NEXT)
		return ret;
	option = *found;
	return emptcp_replace(ctx, &pkt, option.at, bytes, &room);
}

/** Makes the copy the carrier. seq: as emptcp_carry() has it. */
__noinline int restore_addr_carry(struct emptcp_ctx *ctx, __u32 headers, __u32 seq)
{
	union restore_addr_option *found = restore_addr_option(), option;
	struct emptcp_pkt pkt = {};

	if (!found || restore_addr_at(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	option = *found;
	return emptcp_carry(ctx, &pkt, option.at, seq);
}

/* Takes back what the tracker has counted of a copy that becomes a carrier. */
static __always_inline void restore_addr_uncount(struct emptcp_ctx *ctx,
						 struct emptcp_track_way *way, __u32 payload,
						 __u32 segments)
{
	if (way->ifindex != ctx_ifindex(ctx) || way->hook != emptcp_number(EMPTCP_NUMBER_HOOK) + 1)
		return;
	__sync_fetch_and_add(&way->bytes, -(__u64)payload);
	__sync_fetch_and_add(&way->retransmitted, -(__u64)payload);
	__sync_fetch_and_add(&way->packets, 1 - (__u64)segments);
}

/* What the tracker knows of this direction of the subflow; NULL: nothing. */
static __always_inline struct emptcp_track_way *restore_addr_way(const struct emptcp_pkt *pkt,
								 __u64 *since)
{
	struct emptcp_track_subflow *sub;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return NULL;
	*since = sub->created;
	return &sub->way[from & 1];
}

static __always_inline int restore_addr_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct restore_addr_params *p)
{
	__u32 headers = pkt->tcp_off | pkt->ip_off << 16 | (__u32)pkt->version << 24;
	__u32 seq = bpf_ntohl(pkt->tcp->seq), next, segments, payload, len, bytes, others;
	union restore_addr_option *option = restore_addr_option();
	const struct tcphdr *tcp = pkt->tcp;
	struct restore_addr_key key = {};
	struct emptcp_stash_list *list;
	struct emptcp_track_way *way;
	__u64 now, since = 0;
	__u32 how = BPF_NOEXIST;
	int ret, copied;

	if (!tcp->ack || tcp->syn || tcp->fin || tcp->rst || tcp->urg || !option)
		return EMPTCP_SKIP;
	emptcp_subflow_of(pkt, &key.announcement.subflow);
	list = bpf_map_lookup_elem(&stash_lists, &key.announcement.subflow);
	if (!list || !list->ids)
		return EMPTCP_SKIP;
	payload = emptcp_payload_len(ctx, pkt);
	segments = ctx_segments(ctx);
	/* As of an ACK: nothing stands behind it, which a carrier would lose. */
	if (payload ? ctx_len(ctx, 0) != pkt->tcp_off + pkt->tcp_len + payload
		    : !emptcp_can_carry(ctx, pkt))
		return EMPTCP_SKIP;
	now = emptcp_boot_now();
	copied = list->copied && (__s64)(now - list->copied) < EMPTCP_CARRIER_NS;
	if (copied && (list->seq != seq || list->payload != payload))
		return EMPTCP_SKIP;
	next = seq + payload;
	way = restore_addr_way(pkt, &since);
	/* What came behind the packet while the copy was on its way is in the window. */
	if (way)
		next = way->sequence.end;

	key.announcement.addr_id = list->ids & 0xff;
	len = restore_addr_find(&key, since, option, &how);
	if (!len) {
		list->ids >>= 8;
		return EMPTCP_SKIP;
	}
	bytes = emptcp_grow_bytes(len);
	ret = restore_addr_look(ctx, headers, bytes);
	others = ret & 0xfffff;
	ret >>= 20;
	/* Of two in one packet the kernel takes the last one. */
	if (ret == EMPTCP_SKIP || others & 1 << MPTCP_ADD_ADDR)
		return EMPTCP_SKIP;
	if (ret && ret - 1 != EMPTCP_REASON_NO_ROOM)
		return 1 - ret;
	if (payload) {
		/* What is taken for the copy may be a segment that was sent again, and damaged. */
		ret = restore_addr_may_copy(ctx, headers);
		if (ret)
			return ret < 0 ? ret : EMPTCP_SKIP;
	}
	if (payload && !copied) {
		list->seq = seq;
		list->payload = payload;
		list->copied = now;
		if (ctx_send_copy(ctx, emptcp_number(EMPTCP_NUMBER_HOOK)) >= 0)
			return EMPTCP_SKIP;
		list->copied = 0;
		return -EMPTCP_REASON_CLONE;
	}

	copied = emptcp_claim(&restored, &key, &now, how);
	if (copied != EMPTCP_NEXT)
		return copied;
	list->copied = 0;
	if (payload)
		ret = restore_addr_carry(ctx, headers, next);
	else if (ret)
		ret = restore_addr_replace(ctx, headers, bytes, others);
	else
		ret = restore_addr_grow(ctx, headers, bytes);
	if (ret) {
		bpf_map_delete_elem(&restored, &key);
		return ret < 0 ? ret : EMPTCP_SKIP;
	}
	list->ids >>= 8;
	if (payload && way)
		restore_addr_uncount(ctx, way, payload, segments);
	return EMPTCP_NEXT;
}

EMPTCP_ALIAS(restore_addr, "recover_add_addr");
EMPTCP_ACTOR(restore_addr, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS "," EMPTCP_TRACKED,
	     "Brings back announcements (ADD_ADDR) that rm_add_addr has suppressed, once each");
