/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a step ends: it counts, and hands the packet to the next step. */
#ifndef __EMPTCP_CHAIN_H__
#define __EMPTCP_CHAIN_H__

#include <emptcp/ctx.h>
#include <emptcp/maps.h>
#include <emptcp/step.h>

/** What an actor decides. */
enum emptcp_verdict {
	/** Treated; on with the next step. */
	EMPTCP_NEXT,
	/** Nothing to do for this packet; on with the next step. */
	EMPTCP_SKIP,
	/** Passes; no further step of emptcp at this hook. */
	EMPTCP_ACCEPT,
	EMPTCP_DROP,
	/** After bpf_redirect() and its like. */
	EMPTCP_REDIRECT,
	/** Back out of the interface at XDP; see ctx_send_back(). */
	EMPTCP_TX,
};

/**
 * A tail call with text of its own: of two plain bpf_tail_call()s that differ
 * in the slot only, clang makes one with the slot in a register, which the JIT
 * cannot turn into a direct jump. Returns only where the call failed.
 */
#define EMPTCP_TAIL_CALL(ctx, map, slot)                         \
	asm volatile("r1 = %[c]\n\t"                             \
		     "r2 = %[m]\n\t"                             \
		     "r3 = %[s]\n\t"                             \
		     "call 12 /* %= */\n\t"                      \
		     :                                           \
		     : [c] "r"(ctx), [m] "r"(map), [s] "r"(slot) \
		     : "r0", "r1", "r2", "r3", "r4", "r5", "memory")

/** Goes on to where the way leads; one of the four ends below is left. */
static __always_inline int emptcp_goto(struct emptcp_ctx *ctx, const enum emptcp_way way)
{
	if (emptcp_is(EMPTCP_IS_PASS + way))
		return CTX_PASS;
	if (emptcp_is(EMPTCP_IS_DROP + way))
		return CTX_DROP;
	if (emptcp_is(EMPTCP_IS_JUMP + way))
		EMPTCP_JUMP(ctx, way);
	EMPTCP_TAIL_CALL(ctx, &progs, emptcp_number(EMPTCP_NUMBER_SLOT + way));
	emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), EMPTCP_REASON_TAIL_CALL);
	return CTX_PASS;
}

static __always_inline void *emptcp_block(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&counters, &key);
}

/**
 * Leaves the block of counters to the steps that follow in this program. 0, or
 * -1 where there is none, which cannot be: the map is an array of one value.
 */
static __always_inline int emptcp_leave_counters(void)
{
	void *block;

	if (!emptcp_is(EMPTCP_IS_FOLLOWED) || emptcp_is(EMPTCP_IS_COUNTERS) ||
	    emptcp_is(EMPTCP_IS_UNCOUNTED))
		return 0;
	block = emptcp_block();
	if (emptcp_unlikely(!block))
		return -1;
	EMPTCP_FRAME_STORE(COUNTERS, block);
	return 0;
}

/** What became of a packet in a step. */
enum emptcp_outcome {
	EMPTCP_MATCHED,
	EMPTCP_MISSED,
	EMPTCP_FAILED,
};

/** Counts a run of the step. bytes: of the packet, for the first actor of a chain. */
static __always_inline void emptcp_count(const enum emptcp_outcome outcome, __u64 bytes)
{
	struct emptcp_counter *c;
	void *block;

	if (emptcp_is(EMPTCP_IS_UNCOUNTED))
		return;
	if (emptcp_is(EMPTCP_IS_COUNTERS) || emptcp_is(EMPTCP_IS_FOLLOWED)) {
		EMPTCP_FRAME_LOAD(block, COUNTERS);
	} else {
		block = emptcp_block();
		if (emptcp_unlikely(!block))
			return;
	}
	c = block + emptcp_number(EMPTCP_NUMBER_COUNTER);
	if (outcome == EMPTCP_MATCHED)
		c->matched++;
	else if (outcome == EMPTCP_MISSED)
		c->missed++;
	else
		c->errors++;
	if (emptcp_is(EMPTCP_IS_CHAIN_BYTES))
		c->bytes += bytes;
}

/** Counts a step that failed. reason: enum emptcp_reason. */
static __always_inline void emptcp_failed(__u32 reason, __u64 bytes)
{
	emptcp_count(EMPTCP_FAILED, bytes);
	emptcp_count_reason(emptcp_number(EMPTCP_NUMBER_HOOK), reason);
}

/**
 * Ends a step that does not find the headers which the entry program found: the
 * run ends here, because steps that follow in this program count on them.
 */
static __always_inline int emptcp_lost(__u32 reason, __u64 bytes)
{
	emptcp_failed(reason, bytes);
	return emptcp_is(EMPTCP_IS_DROP + EMPTCP_WAY_ERROR) ? CTX_DROP : CTX_PASS;
}

/*
 * Where an error leads to the same step as a miss does (or, for actors, as
 * success does), both take one tail call: each one that is loaded is patched
 * into the code of all CPUs.
 */

/** Ends a selector: 1 match, 0 miss, negative: minus a value of enum emptcp_reason. */
static __always_inline int emptcp_selector_end(struct emptcp_ctx *ctx, int result)
{
	if (emptcp_unlikely(result < 0)) {
		emptcp_failed(-result, 0);
		if (!emptcp_is(EMPTCP_IS_ERROR_SAME))
			return emptcp_goto(ctx, EMPTCP_WAY_ERROR);
	} else if (result) {
		emptcp_count(EMPTCP_MATCHED, 0);
		return emptcp_goto(ctx, EMPTCP_WAY_MATCH);
	} else {
		emptcp_count(EMPTCP_MISSED, 0);
	}
	return emptcp_goto(ctx, EMPTCP_WAY_MISS);
}

/** Ends an actor: enum emptcp_verdict, or minus a value of enum emptcp_reason. */
static __always_inline int emptcp_actor_end(struct emptcp_ctx *ctx, int verdict, __u64 bytes)
{
	if (emptcp_unlikely(verdict < 0)) {
		emptcp_failed(-verdict, bytes);
		if (!emptcp_is(EMPTCP_IS_ERROR_SAME))
			return emptcp_goto(ctx, EMPTCP_WAY_ERROR);
	} else if (verdict == EMPTCP_SKIP) {
		emptcp_count(EMPTCP_MISSED, bytes);
	} else {
		emptcp_count(EMPTCP_MATCHED, bytes);
		if (verdict == EMPTCP_ACCEPT) {
			if (emptcp_is(EMPTCP_IS_MORE))
				ctx_end_here(ctx, emptcp_number(EMPTCP_NUMBER_HOOK));
			return CTX_PASS;
		}
		if (verdict == EMPTCP_DROP)
			return CTX_DROP;
		if (verdict == EMPTCP_REDIRECT)
			return CTX_REDIRECT;
		if (verdict == EMPTCP_TX)
			return CTX_TX;
	}
	return emptcp_goto(ctx, EMPTCP_WAY_MATCH);
}

#endif /* __EMPTCP_CHAIN_H__ */
