// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Brings back what rm_add_addr suppressed. The HMAC of an ADD_ADDR covers address id, address and
 * port alone (RFC 8684, 3.4.1), so it is as right later as it was.
 */
#include <emptcp/add_option.h>
#include <emptcp/once.h>
#include <emptcp/stash.h>

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

/* FNV-1a over words. */
static __always_inline __u32 restore_addr_hash(const union emptcp_option *option)
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
	struct restore_addr_key key = {};
	struct emptcp_stash_list *list;
	struct emptcp_track_way *way;
	__u32 how = BPF_NOEXIST, len, next;
	struct emptcp_adding add;
	__u64 since = 0;
	int ret;

	if (!emptcp_add_begin(ctx, pkt, &add))
		return EMPTCP_SKIP;
	emptcp_subflow_of(pkt, &key.announcement.subflow);
	list = bpf_map_lookup_elem(&stash_lists, &key.announcement.subflow);
	if (!list || !list->ids || !emptcp_add_is_turn(pkt, &add))
		return EMPTCP_SKIP;
	way = restore_addr_way(pkt, &since);
	next = emptcp_add_next(&add, way);

	key.announcement.addr_id = list->ids & 0xff;
	len = restore_addr_find(&key, since, &add.place->option, &how);
	if (!len) {
		list->ids >>= 8;
		return EMPTCP_SKIP;
	}
	ret = emptcp_add_look(ctx, &add, MPTCP_ADD_ADDR, len);
	if (ret != EMPTCP_NEXT)
		return ret;
	if (emptcp_add_wants_copy(&add))
		return emptcp_add_send_copy(ctx, &add);

	ret = emptcp_claim(&restored, &key, &add.now, how);
	if (ret != EMPTCP_NEXT)
		return ret;
	ret = emptcp_add_put(ctx, &add, next, way);
	if (ret != EMPTCP_NEXT) {
		bpf_map_delete_elem(&restored, &key);
		return ret;
	}
	list->ids >>= 8;
	return EMPTCP_NEXT;
}

EMPTCP_ALIAS(restore_addr, "recover_add_addr");
EMPTCP_ACTOR(restore_addr, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS "," EMPTCP_TRACKED,
	     "Brings back announcements (ADD_ADDR) that rm_add_addr has suppressed, once each");
