/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who wants a subflow treated as backup, and what its peer was told: the value of the map
 * prio_wishes (wish.h), whose key is the direction of a subflow (struct emptcp_subflow as packets
 * of that direction have it) in which MP_PRIO goes out. Whoever receives these packets shall stop
 * sending (RFC 8684, 3.3.8). Reaches BTF, and so the loader, through a global of bpf/entry.bpf.c.
 */
#ifndef __EMPTCP_PRIO_H__
#define __EMPTCP_PRIO_H__

#include <emptcp/types.h>

/** Owners that there can be, 0 to 31: whoever asks for backup on grounds of his own. */
#define EMPTCP_PRIO_OWNERS 32
/** Further ones, which have names: those of `emptcp set-prio`. */
#define EMPTCP_PRIO_NAMED 8

/**
 * What was told is behind what is wanted where `at` is 0 or `backup` is not what
 * emptcp_prio_wanted() says: then the next packet with room carries MP_PRIO. Programs store single
 * members. User space can write a value only whole (bpf(2)); a wish that it overwrites meanwhile
 * comes back with the next packet of its owner.
 */
struct emptcp_prio_wish {
	/** When MP_PRIO was last sent; CLOCK_BOOTTIME, nanoseconds; 0: never. */
	emptcp_time at;
	/** Owners that want backup, bit n for owner n: what pad_wants says, for people. */
	__u32 owners;
	/** What it asked for. */
	emptcp_bool backup;
	__u8 pad[3];
	/**
	 * Whether owner n wants backup: 0, 1. A byte each, because Linux 5.10 has no atomic OR:
	 * owners on several CPUs do not undo each other.
	 */
	__u8 pad_wants[EMPTCP_PRIO_OWNERS] __attribute__((aligned(8)));
	/** The same of owners with names, which user space keeps beside. No bit in owners. */
	__u8 pad_named[EMPTCP_PRIO_NAMED] __attribute__((aligned(8)));
};

/** Whether any owner wants backup: 0, 1. */
static inline __attribute__((always_inline)) int
emptcp_prio_wanted(const struct emptcp_prio_wish *wish)
{
	const __u64 *wants = (const __u64 *)wish->pad_wants;

	return (wants[0] | wants[1] | wants[2] | wants[3] | *(const __u64 *)wish->pad_named) != 0;
}

#endif /* __EMPTCP_PRIO_H__ */
