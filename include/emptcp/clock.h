/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The time, for modules. In a policy in force it is the kernel's; where
 * "emptcp replay" runs a capture it is that of the packet, so that a limit on a
 * rate or the age of an entry means what it meant when the packet was captured,
 * and gives the same result each time. A step asks nobody which of the two
 * counts: the loader leaves the other one out.
 */
#ifndef __EMPTCP_CLOCK_H__
#define __EMPTCP_CLOCK_H__

#include <emptcp/ctx.h>
#include <emptcp/step.h>

/** Time of the packet that is replayed, in nanoseconds; unused in a policy in force. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} replay_clock SEC(".maps");

/** Time of the packet that is replayed, in nanoseconds; never goes back. */
static __always_inline __u64 emptcp_replayed_now(void)
{
	__u32 zero = 0;
	const volatile __u64 *now = bpf_map_lookup_elem(&replay_clock, &zero);

	return now ? *now : 0;
}

/**
 * Now, in nanoseconds since the machine began, without the time that it slept
 * (CLOCK_MONOTONIC, bpf_ktime_get_ns()): for distances in time. Two CPUs may be
 * a little apart: a time that another one has left can lie ahead. Replayed
 * packets: their own time, counted from a start that is not 0.
 */
static __always_inline __u64 emptcp_now(void)
{
	if (emptcp_is(EMPTCP_IS_REPLAYED))
		return emptcp_replayed_now();
	return bpf_ktime_get_ns();
}

/**
 * The same with the time that the machine slept (CLOCK_BOOTTIME,
 * bpf_ktime_get_boot_ns()): what tables expire by, and what a process outside
 * can compare with. Replayed packets have one time for both.
 */
static __always_inline __u64 emptcp_boot_now(void)
{
	if (emptcp_is(EMPTCP_IS_REPLAYED))
		return emptcp_replayed_now();
	return bpf_ktime_get_boot_ns();
}

#endif /* __EMPTCP_CLOCK_H__ */
