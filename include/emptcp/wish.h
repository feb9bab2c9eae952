/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A subflow is backup as long as any of several owners wants it: the wishes, and MP_PRIO where the
 * answer of all of them together changes; tc only.
 */
#ifndef __EMPTCP_WISH_H__
#define __EMPTCP_WISH_H__

#include <emptcp/clock.h>
#include <emptcp/module.h>
#include <emptcp/prio.h>
#include <emptcp/replace.h>

/** By direction of a subflow; a SYN of that direction begins anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct emptcp_prio_wish);
	__uint(max_entries, 65536);
} prio_wishes SEC(".maps") EMPTCP_KEPT;

/** Least time between two MP_PRIO of a direction: steps of one owner that contradict each other
 * would else fill each ACK with what the other one wants. */
#define EMPTCP_WISH_PAUSE_NS 100000000LL

/** Notes what an owner wants; for people also which owners there are. */
static __always_inline void emptcp_wish_note(struct emptcp_prio_wish *wish, __u32 owner,
					     __u8 backup)
{
	__u32 owners = 0;

	wish->pad_wants[owner & (EMPTCP_PRIO_OWNERS - 1)] = backup;
#pragma unroll
	for (int i = 0; i < EMPTCP_PRIO_OWNERS; i++)
		owners |= (__u32)(wish->pad_wants[i] & 1) << i;
	wish->owners = owners;
}

/** The wishes for this direction, with that of the owner; NULL: nobody has any, or no room (*ret:
 * minus EMPTCP_REASON_MAP_FULL). begins: this one may be the first. */
static __always_inline struct emptcp_prio_wish *
emptcp_wish_take(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
		 const struct emptcp_subflow *key, __u32 owner, __u8 backup, int begins, int *ret)
{
	struct emptcp_prio_wish *wish = bpf_map_lookup_elem(&prio_wishes, key);

	*ret = EMPTCP_SKIP;
	if (!wish) {
		struct emptcp_prio_wish first = {};

		/* What is not of Multipath TCP takes no room. */
		if (!begins || !mptcp_find_subtype(ctx, pkt, MPTCP_DSS, TCPOLEN_MPTCP_DSS_BASE))
			return NULL;
		bpf_map_update_elem(&prio_wishes, key, &first, BPF_NOEXIST);
		wish = bpf_map_lookup_elem(&prio_wishes, key);
		if (!wish) {
			*ret = -EMPTCP_REASON_MAP_FULL;
			return NULL;
		}
	}
	if (wish->pad_wants[owner & (EMPTCP_PRIO_OWNERS - 1)] != backup)
		emptcp_wish_note(wish, owner, backup);
	return wish;
}

/**
 * Notes whether an owner (0 to EMPTCP_PRIO_OWNERS - 1) wants who receives these packets to treat
 * the subflow as backup (0, 1), and puts MP_PRIO into the packet where all owners together now want
 * something else than was last told; the first wish is told in any case, for nobody knows what the
 * peer thinks. Any packet notes a wish, a pure ACK carries it. begins: where there are no wishes
 * yet, this one is the first; else nothing is done then. replace: an ACK without room gives up its
 * SACK blocks for it. Pointers of pkt are void after it.
 *
 * EMPTCP_NEXT: the packet carries MP_PRIO. EMPTCP_SKIP: nothing to say, or not in this packet.
 * Minus a reason: as of emptcp_may_grow() and emptcp_grow(), EMPTCP_REASON_MAP_FULL.
 */
static __always_inline int emptcp_wish(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       __u32 owner, __u8 backup, int begins, int replace)
{
	__u8 option[4] __attribute__((aligned(4))) = {
		TCPOPT_MPTCP,
		TCPOLEN_MPTCP_PRIO,
		MPTCP_MP_PRIO << 4,
		TCPOPT_NOP,
	};
	struct emptcp_room room = {};
	struct emptcp_prio_wish *wish;
	struct emptcp_subflow key;
	struct emptcp_scan scan;
	__u8 wanted, before;
	__u64 now, at;
	int ret;

	emptcp_subflow_of(pkt, &key);
	if (pkt->tcp->syn) {
		/* A new subflow with these ports. */
		bpf_map_delete_elem(&prio_wishes, &key);
		return EMPTCP_SKIP;
	}
	wish = emptcp_wish_take(ctx, pkt, &key, owner, backup, begins, &ret);
	if (!wish)
		return ret;
	at = wish->at;
	before = wish->backup;
	wanted = emptcp_prio_wanted(wish);
	if (at && before == wanted)
		return EMPTCP_SKIP;
	if (!emptcp_can_carry(ctx, pkt))
		return EMPTCP_SKIP;
	now = emptcp_boot_now();
	/* Another CPU's time may lie ahead. */
	if (at && (__s64)(now - at) < EMPTCP_WISH_PAUSE_NS)
		return EMPTCP_SKIP;
	/* One state for the verifier, else it looks at all that follows twice. */
	wanted = emptcp_forget(wanted);
	ret = emptcp_may_grow(ctx, pkt, sizeof(option), &scan);
	/* The DSS always fits beside it. */
	if (ret == -EMPTCP_REASON_NO_ROOM && replace)
		ret = emptcp_may_replace(ctx, pkt, sizeof(option), 0, &scan, &room);
	if (ret != EMPTCP_NEXT)
		return ret;
	/* Of two in one packet the kernel takes the last one. */
	if (scan.others & 1 << MPTCP_MP_PRIO)
		return EMPTCP_SKIP;
	option[2] |= wanted & MPTCP_BACKUP;
	wish->backup = wanted;
	wish->at = now;
	ret = emptcp_grow_or_replace(ctx, pkt, option, sizeof(option), &room);
	if (ret != EMPTCP_NEXT) {
		wish->backup = before;
		wish->at = at;
	}
	return ret;
}

#endif /* __EMPTCP_WISH_H__ */
