// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Brings back what rm_add_addr suppressed. The HMAC of an ADD_ADDR covers address id, address and
 * port alone (RFC 8684, 3.4.1), so it is as right later as it was, and on each subflow of the
 * connection on which its sender sends.
 */
#include <emptcp/add_option.h>
#include <emptcp/once.h>
#include <emptcp/stash.h>
#include <emptcp/wait.h>

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

/* What is looked for: the stack is for what puts the option into the packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct restore_addr_key);
	__uint(max_entries, 1);
} restoring SEC(".maps");

/* FNV-1a over words. */
static __always_inline __u32 restore_addr_hash(const union emptcp_option *option)
{
	__u32 hash = 2166136261U;

	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++)
		hash = (hash ^ option->words[i]) * 16777619U;
	return hash;
}

/*
 * What waits to be restored by this packet, first of its connection, then of its subflow; NULL:
 * nothing. Leaves whose it is in owner. *since: when that began, so that nothing of an earlier
 * connection or subflow counts.
 */
static __always_inline struct emptcp_stash_list *
restore_addr_list(const struct emptcp_pkt *pkt, const struct emptcp_track_subflow *sub, int from,
		  struct emptcp_stash_owner *owner, __u64 *since)
{
	const struct emptcp_track_conn *conn = NULL;
	struct emptcp_stash_list *list = NULL;

	if (sub && sub->flags & EMPTCP_TRACK_TIED && sub->client < EMPTCP_DIRECTIONS) {
		emptcp_stash_of_end(owner, sub->conn.zone, sub->conn.token, from != sub->client);
		list = bpf_map_lookup_elem(&stash_lists, owner);
		if (list && list->ids)
			conn = emptcp_tracked_conn(sub);
		asm volatile("" : "+r"(conn));
		if (conn) {
			*since = conn->created;
			return list;
		}
	}
	__builtin_memset(owner, 0, sizeof(*owner));
	emptcp_subflow_of(pkt, &owner->subflow);
	list = bpf_map_lookup_elem(&stash_lists, owner);
	/* One that was taken over is older than the tracker, and what was suppressed may be, too.
	 */
	*since = sub && !(sub->flags & EMPTCP_TRACK_TAKEN_OVER) ? sub->created : 0;
	return list && list->ids ? list : NULL;
}

/*
 * The option that is to be restored, and its key. since: of restore_addr_list(). Returns its
 * length, or 0 where it is none of this owner, was restored before, or is longer than what fits
 * beside timestamps. *how: as emptcp_claim() has it.
 */
static __always_inline __u32 restore_addr_find(struct restore_addr_key *key, __u64 since,
					       union emptcp_option *option, __u32 *how)
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

static __always_inline int restore_addr_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct restore_addr_params *p)
{
	__u32 how = BPF_NOEXIST, len, next, zero = 0;
	struct emptcp_track_way *way = NULL;
	struct emptcp_track_subflow *sub;
	struct emptcp_stash_list *list;
	struct restore_addr_key *key;
	struct emptcp_adding add;
	struct emptcp_pkt again;
	__u64 since = 0;
	int ret, from;

	if (!emptcp_add_begin(ctx, pkt, &add))
		return EMPTCP_SKIP;
	key = bpf_map_lookup_elem(&restoring, &zero);
	if (!key)
		return EMPTCP_SKIP;
	sub = emptcp_tracked(pkt, &from);
	asm volatile("" : "+r"(sub));
	list = restore_addr_list(pkt, sub, from, &key->announcement.owner, &since);
	if (!list || !emptcp_add_is_turn(pkt, &add))
		return EMPTCP_SKIP;
	if (sub)
		way = &sub->way[from & 1];
	next = emptcp_add_next(&add, way);

	key->announcement.addr_id = list->ids & 0xff;
	len = restore_addr_find(key, since, &add.place->option, &how);
	if (!len) {
		list->ids >>= 8;
		return EMPTCP_SKIP;
	}
	ret = emptcp_add_look(ctx, &add, MPTCP_ADD_ADDR, len);
	if (ret < 0 && !emptcp_again(ctx, pkt, &again))
		emptcp_wait(ctx, &again, &add.place->copy.subflow);
	if (ret != EMPTCP_NEXT)
		return ret;
	if (emptcp_add_wants_copy(&add))
		return emptcp_add_send_copy(ctx, &add);

	ret = emptcp_claim(&restored, key, &add.now, how);
	if (ret != EMPTCP_NEXT)
		return ret;
	ret = emptcp_add_put(ctx, &add, next, way);
	if (ret != EMPTCP_NEXT) {
		bpf_map_delete_elem(&restored, key);
		return ret;
	}
	list->ids >>= 8;
	emptcp_wait_over(&add.place->copy.subflow);
	return EMPTCP_NEXT;
}

EMPTCP_ALIAS(restore_addr, "recover_add_addr");
EMPTCP_ACTOR(restore_addr, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS "," EMPTCP_TRACKED,
	     "Brings back announcements (ADD_ADDR) that rm_add_addr has suppressed, once each");
