// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/held.h>

EMPTCP_NO_PARAMS(hold_join);

/** Frames are made here: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_held_frame);
	__uint(max_entries, 1);
} holding SEC(".maps");

/** Differences of the addresses, the port of the server and the zone; 0: none. */
static __always_inline __u32 hold_join_path(const struct emptcp_subflow *a,
					    const struct emptcp_subflow *b)
{
	__u32 differs = (a->dport ^ b->dport) | (a->zone ^ b->zone);

	for (int i = 0; i < 4; i++)
		differs |= (a->src.w[i] ^ b->src.w[i]) | (a->dst.w[i] ^ b->dst.w[i]);
	return differs;
}

/*
 * Copies the SYN, and completes its checksum: whoever sends it later knows nothing of the device
 * that would have. Returns 0, or the reason to leave it.
 */
static __always_inline int hold_join_copy(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  struct emptcp_held_frame *frame)
{
	__u32 tcp_off = emptcp_forget(pkt->tcp_off) & (EMPTCP_HELD_BYTES - 1);
	__u32 tcp_len = emptcp_forget(pkt->tcp_len) & 60, len = tcp_off + tcp_len;
	__u32 ip_len = pkt->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__be16 *check = (void *)(frame->bytes + tcp_off + offsetof(struct tcphdr, check));
	__u32 sum, wrong;
	__u16 tci;

	/* A routing header changes the sum of addresses; what is behind it is not kept. */
	if (pkt->tcp_off - pkt->ip_off != ip_len || !emptcp_is_empty(pkt) ||
	    (pkt->version == 4 && pkt->ip4->frag_off & bpf_htons(0x3fff)))
		return EMPTCP_REASON_UNSAFE;
	/* A tag that is not among the bytes would be lost. */
	if (len != ctx_len(ctx, 0) || len > EMPTCP_HELD_BYTES || ctx_vlan(ctx, &tci))
		return EMPTCP_REASON_UNSAFE;
	frame->len = len;
	frame->ip_off = pkt->ip_off;
	frame->tcp_off = tcp_off;
	frame->version = pkt->version;
	frame->pseudo = emptcp_pseudo(pkt, tcp_len);
	if (ctx_copy(ctx, frame->bytes, len, EMPTCP_HELD_BYTES) != len)
		return EMPTCP_REASON_TRUNCATED;
	sum = bpf_csum_diff(NULL, 0, (void *)(frame->bytes + tcp_off), tcp_len, 0);
	sum = emptcp_fold((__u64)sum + frame->pseudo);
	/* Right, or still to be completed, see emptcp_rst_check(). */
	wrong = (sum ^ 0xffff) && *check != frame->pseudo;
	if (emptcp_forget(wrong))
		return EMPTCP_REASON_BAD_CSUM;
	frame->sum = emptcp_fold(sum + (__u64)(__u16) ~*check);
	*check = ~frame->sum;
	return 0;
}

/* Finds the slot of this SYN, or one that is free. Returns what is known of an earlier one; NULL:
 * nothing. key->slot: EMPTCP_HELD_SLOTS where there is no room. *asked: whether one with these
 * addresses was asked for. */
static __always_inline struct emptcp_held_join *hold_join_find(struct emptcp_held_key *key,
							       const struct emptcp_subflow *subflow,
							       __u64 now, __u32 *asked)
{
	__u32 free = EMPTCP_HELD_SLOTS, path;

	for (int i = 0; i < EMPTCP_HELD_SLOTS; i++) {
		struct emptcp_held_join *join;

		key->slot = i;
		join = bpf_map_lookup_elem(&held_joins, key);
		if (!join) {
			if (free == EMPTCP_HELD_SLOTS)
				free = i;
			continue;
		}
		path = hold_join_path(&join->subflow, subflow);
		/* !path, without a branch, of which the verifier would follow both ways. */
		*asked |= join->asked & ((path - 1) & ~path) >> 31;
		if (!(path | (join->subflow.sport ^ subflow->sport)))
			return join;
		if (free == EMPTCP_HELD_SLOTS && (__s64)(now - join->until) > 0)
			free = i;
		free = emptcp_forget(free);
		*asked = emptcp_forget(*asked);
	}
	key->slot = free;
	return NULL;
}

/* Notes that the SYN waits. Returns 0, or the reason why it cannot. */
static __always_inline int hold_join_note(const struct emptcp_held_key *key)
{
	struct emptcp_held_list *list, none = {};

	list = bpf_map_lookup_elem(&held_lists, &key->conn);
	if (!list) {
		bpf_map_update_elem(&held_lists, &key->conn, &none, BPF_NOEXIST);
		list = bpf_map_lookup_elem(&held_lists, &key->conn);
		if (!list)
			return EMPTCP_REASON_MAP_FULL;
	}
	list->slots[key->slot & (EMPTCP_HELD_SLOTS - 1)] = 1;
	return 0;
}

static __always_inline int hold_join_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct hold_join_params *p)
{
	__u32 seq = bpf_ntohl(pkt->tcp->seq), zero = 0, asked = 0;
	const struct emptcp_track_subflow *sub;
	struct emptcp_held_join *before, join = {};
	struct emptcp_held_frame *frame;
	struct emptcp_held_key key;
	__u64 now, wait = EMPTCP_HELD_FIRST_NS;
	int from, err;

	if (!pkt->tcp->syn || pkt->tcp->ack || pkt->tcp->rst || pkt->tcp->fin)
		return EMPTCP_SKIP;
	sub = emptcp_tracked(pkt, &from);
	if (!sub || sub->kind != EMPTCP_TRACK_JOINED || sub->state != EMPTCP_TRACK_SYN ||
	    sub->opener != from || sub->proof != seq + 1)
		return EMPTCP_SKIP;
	/* Nothing would release it. */
	if (!(sub->flags & EMPTCP_TRACK_NAMES))
		return -EMPTCP_REASON_UNTRACKED;
	key.conn = sub->conn;
	join.addr_id = sub->way[from & 1].addr_id;
	join.backup = !!(sub->way[from & 1].flags & EMPTCP_WAY_ASKS_BACKUP);
	emptcp_subflow_of(pkt, &join.subflow);
	now = emptcp_boot_now();
	before = hold_join_find(&key, &join.subflow, now, &asked);
	join.first = now;
	if (before && before->seq == seq) {
		/* It was sent, whoever asks: so was this one, if it is the copy. */
		if (before->state == EMPTCP_HELD_RELEASED)
			return EMPTCP_SKIP;
		join.first = before->first;
		join.times = before->times;
		/* The time doubles, or stays. */
		wait = (now - before->last) * 2;
		wait += wait / 8;
		if (wait > EMPTCP_HELD_LAST_NS)
			wait = EMPTCP_HELD_LAST_NS;
	}
	if (key.slot >= EMPTCP_HELD_SLOTS)
		return -EMPTCP_REASON_MAP_FULL;
	frame = bpf_map_lookup_elem(&holding, &zero);
	if (!frame)
		return -EMPTCP_REASON_MAP_FULL;
	err = hold_join_copy(ctx, pkt, frame);
	if (err)
		return -err;
	join.last = now;
	join.until = now + wait;
	join.times++;
	join.seq = seq;
	join.asked = asked;
	join.interface = ctx_ifindex(ctx);
	join.hook = emptcp_number(EMPTCP_NUMBER_HOOK);
	if (bpf_map_update_elem(&held_frames, &key, frame, BPF_ANY) ||
	    bpf_map_update_elem(&held_joins, &key, &join, BPF_ANY))
		return -EMPTCP_REASON_MAP_FULL;
	err = hold_join_note(&key);
	if (err)
		return -err;
	return ctx_take(ctx);
}

EMPTCP_ACTOR(hold_join, EMPTCP_HOOKS_TC, "5.10", EMPTCP_TRACKED "," EMPTCP_OBSERVES,
	     "Holds the SYN of a further subflow (MP_JOIN) until release_join sends it, or a retry "
	     "comes that no chain holds");
