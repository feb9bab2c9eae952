/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A subflow is backup as long as any of several owners wants it: the wishes, and MP_PRIO where the
 * answer of all of them together changes; tc only.
 */
#ifndef __EMPTCP_WISH_H__
#define __EMPTCP_WISH_H__

#include <emptcp/clock.h>
#include <emptcp/module.h>
#include <emptcp/once.h>
#include <emptcp/prio.h>
#include <emptcp/replace.h>
#include <emptcp/wait.h>

/** By direction of a subflow; a SYN of that direction begins anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct emptcp_prio_wish);
	__uint(max_entries, 65536);
} prio_wishes SEC(".maps") EMPTCP_KEPT;

/** What is made here, for the stack is for what puts MP_PRIO into the packet. */
struct emptcp_wish_scratch {
	struct emptcp_subflow key;
	/** A first wish. */
	struct emptcp_prio_wish first;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_wish_scratch);
	__uint(max_entries, 1);
} wish_scratch SEC(".maps");

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

/* Whether a packet is one of Multipath TCP as most systems make them: its DSS comes first, or
 * behind timestamps. A walk would cost the verifier more than all of the rest. */
static __always_inline int emptcp_wish_usual_dss(struct emptcp_ctx *ctx,
						 const struct emptcp_pkt *pkt)
{
	const __u8 *opt = (const __u8 *)(pkt->tcp + 1);

	if ((const void *)(opt + 15) > ctx_data_end(ctx))
		return 0;
	if (pkt->tcp_len >= 36 && *(const __be32 *)opt == bpf_htonl(0x0101080a))
		opt += 12;
	else if (pkt->tcp_len < 28)
		return 0;
	return opt[0] == TCPOPT_MPTCP && opt[2] >> 4 == MPTCP_DSS;
}

/** Of emptcp_wish_tell(); bits. */
enum emptcp_wish_how {
	EMPTCP_WISH_BACKUP = 1 << 0,
	EMPTCP_WISH_REPLACE = 1 << 1,
};

/**
 * Puts MP_PRIO into the packet, if that can carry it: a function of its own, which the verifier
 * looks at once, whatever it knows of wishes. headers: emptcp_headers_of(). Returns as
 * emptcp_wish().
 */
__noinline int emptcp_wish_tell(struct emptcp_ctx *ctx, __u32 headers, __u32 how)
{
	__u8 option[4] __attribute__((aligned(4))) = {
		TCPOPT_MPTCP,
		TCPOLEN_MPTCP_PRIO,
		MPTCP_MP_PRIO << 4 | (how & EMPTCP_WISH_BACKUP ? MPTCP_BACKUP : 0),
		TCPOPT_NOP,
	};
	struct emptcp_room room = {};
	struct emptcp_pkt pkt = {};
	__u32 others;
	int ret;

	if (emptcp_place_headers(ctx, headers, &pkt))
		return -EMPTCP_REASON_TRUNCATED;
	ret = emptcp_may_grow(ctx, &pkt, sizeof(option), &others);
	/* The DSS always fits beside it. */
	if (ret == -EMPTCP_REASON_NO_ROOM && how & EMPTCP_WISH_REPLACE)
		ret = emptcp_may_replace(ctx, &pkt, sizeof(option), 0, others, &room);
	if (ret != EMPTCP_NEXT)
		return ret;
	/* Of two in one packet the kernel takes the last one. */
	if (others & 1 << MPTCP_MP_PRIO)
		return EMPTCP_SKIP;
	return emptcp_grow_or_replace(ctx, &pkt, option, sizeof(option), &room);
}

/* emptcp_wish() where nobody has asked for anything in this direction. */
static __always_inline int emptcp_wish_first(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     struct emptcp_wish_scratch *scratch, __u32 owner,
					     __u8 backup, __u32 how, int carries)
{
	const struct emptcp_subflow *key = &scratch->key;
	struct emptcp_prio_wish *wish = &scratch->first;
	int ret;

	__builtin_memset(wish, 0, sizeof(*wish));
	emptcp_wish_note(wish, owner, backup);
	if (!carries) {
		/* What is not of Multipath TCP takes no room. */
		if (!emptcp_wish_usual_dss(ctx, pkt))
			return EMPTCP_SKIP;
		ret = emptcp_claim(&prio_wishes, key, wish, BPF_NOEXIST);
		if (ret != EMPTCP_NEXT)
			return ret;
		emptcp_wait(ctx, pkt, key);
		return EMPTCP_SKIP;
	}
	wish->at = emptcp_boot_now();
	wish->backup = backup;
	ret = emptcp_claim(&prio_wishes, key, wish, BPF_NOEXIST);
	if (ret != EMPTCP_NEXT)
		return ret;
	ret = emptcp_wish_tell(ctx, emptcp_headers_of(pkt),
			       how | (backup ? EMPTCP_WISH_BACKUP : 0));
	if (ret == EMPTCP_NEXT)
		emptcp_wait_over(key);
	else
		bpf_map_delete_elem(&prio_wishes, key);
	return ret;
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
	__u32 how = replace ? EMPTCP_WISH_REPLACE : 0, zero = 0;
	struct emptcp_wish_scratch *scratch;
	struct emptcp_prio_wish *wish;
	__u8 wanted, before;
	__u64 now, at;
	int ret, carries;

	scratch = bpf_map_lookup_elem(&wish_scratch, &zero);
	if (!scratch)
		return -EMPTCP_REASON_MAP_FULL;
	emptcp_subflow_of(pkt, &scratch->key);
	if (pkt->tcp->syn) {
		/* A new subflow with these ports. */
		bpf_map_delete_elem(&prio_wishes, &scratch->key);
		return EMPTCP_SKIP;
	}
	carries = emptcp_can_carry(ctx, pkt);
	wish = bpf_map_lookup_elem(&prio_wishes, &scratch->key);
	if (!wish)
		return begins ? emptcp_wish_first(ctx, pkt, scratch, owner, backup, how, carries)
			      : EMPTCP_SKIP;
	if (wish->pad_wants[owner & (EMPTCP_PRIO_OWNERS - 1)] != backup)
		emptcp_wish_note(wish, owner, backup);
	at = wish->at;
	before = wish->backup;
	wanted = emptcp_prio_wanted(wish);
	if (at && before == wanted)
		return EMPTCP_SKIP;
	if (!carries) {
		emptcp_wait(ctx, pkt, &scratch->key);
		return EMPTCP_SKIP;
	}
	now = emptcp_boot_now();
	/* Another CPU's time may lie ahead. */
	if (at && (__s64)(now - at) < EMPTCP_WISH_PAUSE_NS)
		return EMPTCP_SKIP;
	/* So that no other CPU says the same. */
	wish->backup = wanted;
	wish->at = now;
	ret = emptcp_wish_tell(ctx, emptcp_headers_of(pkt),
			       how | (wanted ? EMPTCP_WISH_BACKUP : 0));
	if (ret == EMPTCP_NEXT) {
		emptcp_wait_over(&scratch->key);
	} else {
		wish->backup = before;
		wish->at = at;
	}
	return ret;
}

#endif /* __EMPTCP_WISH_H__ */
