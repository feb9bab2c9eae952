/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps that every step knows. The sizes here are placeholders: the loader puts
 * the real map in the place of each when it loads a step.
 *
 * map          lives as long as    replaced by an apply
 * progs        a generation        yes (kept where its chains did not change)
 * counters     the policy          no
 * reasons      the policy          no
 * chain_words  a generation        yes
 * handover     the policy          no (ctx_tc.h)
 * replay_clock a replay            not in force (clock.h)
 */
#ifndef __EMPTCP_MAPS_H__
#define __EMPTCP_MAPS_H__

#include <emptcp/abi.h>

/** Steps of one generation, hook and class of interfaces. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} progs SEC(".maps");

/** The block of counters in which the step counts. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_counters);
	__uint(max_entries, 1);
} counters SEC(".maps");

/** Packets by hook * EMPTCP_REASON_MAX + reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, EMPTCP_HOOK_MAX *EMPTCP_REASON_MAX);
} reasons SEC(".maps");

/** Counts a packet of the hook under the reason. */
static __always_inline void emptcp_count_reason(__u32 hook, __u32 reason)
{
	__u32 key = hook * EMPTCP_REASON_MAX + reason;
	__u64 *n = bpf_map_lookup_elem(&reasons, &key);

	if (n)
		(*n)++;
}

#endif /* __EMPTCP_MAPS_H__ */
