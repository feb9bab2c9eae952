/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What waits for a packet: the value of the map pending (wait.h), whose key is the direction of a
 * subflow (struct emptcp_subflow as packets of that direction have it). Reaches BTF, and so the
 * loader, through a global of bpf/entry.bpf.c.
 */
#ifndef __EMPTCP_PENDING_H__
#define __EMPTCP_PENDING_H__

#include <emptcp/types.h>

/** Why a direction of a subflow waits. */
struct emptcp_pending {
	/** Since when: CLOCK_BOOTTIME, nanoseconds. */
	emptcp_time at;
	/** Not because of an actor, but of a change of a table or the policy: the next packet of
	 * any kind is enough. */
	emptcp_bool changed;
	__u8 pad[7];
};

#endif /* __EMPTCP_PENDING_H__ */
