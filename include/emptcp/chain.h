/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a step ends: it counts, and hands the packet to the next step. */
#ifndef __EMPTCP_CHAIN_H__
#define __EMPTCP_CHAIN_H__

#include <emptcp/ctx.h>
#include <emptcp/maps.h>

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

/**
 * Goes on to the slot; its value comes from the loader's frozen map, so that
 * the verifier knows it and only one of the three ends below is left.
 */
static __always_inline int emptcp_goto(struct emptcp_ctx *ctx, __u32 slot, __u32 hook)
{
	if (slot == EMPTCP_SLOT_PASS)
		return CTX_PASS;
	if (slot == EMPTCP_SLOT_DROP)
		return CTX_DROP;
	EMPTCP_TAIL_CALL(ctx, &progs, slot);
	emptcp_count_reason(hook, EMPTCP_REASON_TAIL_CALL);
	return CTX_PASS;
}

/** Counts a run of the step. bytes: of the packet, for the first actor of a chain. */
static __always_inline void emptcp_count(const struct emptcp_links *links, int matched, int failed,
					 __u64 bytes)
{
	struct emptcp_counter *c;
	__u32 key = links->step;

	if (links->flags & EMPTCP_STEP_NO_COUNTERS)
		return;
	c = bpf_map_lookup_elem(&counters, &key);
	if (emptcp_unlikely(!c))
		return;
	c->evaluated++;
	if (matched)
		c->matched++;
	if (emptcp_unlikely(failed))
		c->errors++;
	if (links->flags & EMPTCP_STEP_CHAIN_BYTES)
		c->bytes += bytes;
}

/** Counts a step that failed. reason: enum emptcp_reason. */
static __always_inline void emptcp_failed(const struct emptcp_links *links, __u32 reason,
					  __u64 bytes)
{
	emptcp_count(links, 0, 1, bytes);
	emptcp_count_reason(links->hook, reason);
}

/*
 * Where an error leads to the same step as a miss does (or, for actors, as
 * success does), both take one tail call: each one that is loaded is patched
 * into the code of all CPUs.
 */

/** Ends a selector: 1 match, 0 miss, negative: minus a value of enum emptcp_reason. */
static __always_inline int emptcp_selector_end(struct emptcp_ctx *ctx,
					       const struct emptcp_links *links, int result)
{
	if (emptcp_unlikely(result < 0)) {
		emptcp_failed(links, -result, 0);
		if (links->error != links->miss)
			return emptcp_goto(ctx, links->error, links->hook);
	} else {
		emptcp_count(links, result, 0, 0);
		if (result)
			return emptcp_goto(ctx, links->match, links->hook);
	}
	return emptcp_goto(ctx, links->miss, links->hook);
}

/** Ends an actor: enum emptcp_verdict, or minus a value of enum emptcp_reason. */
static __always_inline int
emptcp_actor_end(struct emptcp_ctx *ctx, const struct emptcp_links *links, int verdict, __u64 bytes)
{
	if (emptcp_unlikely(verdict < 0)) {
		emptcp_failed(links, -verdict, bytes);
		if (links->error != links->match)
			return emptcp_goto(ctx, links->error, links->hook);
	} else {
		emptcp_count(links, verdict != EMPTCP_SKIP, 0, bytes);
		if (verdict == EMPTCP_ACCEPT)
			return CTX_PASS;
		if (verdict == EMPTCP_DROP)
			return CTX_DROP;
		if (verdict == EMPTCP_REDIRECT)
			return CTX_REDIRECT;
	}
	return emptcp_goto(ctx, links->match, links->hook);
}

#endif /* __EMPTCP_CHAIN_H__ */
