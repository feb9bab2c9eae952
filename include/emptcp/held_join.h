/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is told of the SYN of a further subflow that is held (held.h). Reaches BTF, and so the
 * loader, through a global of bpf/entry.bpf.c.
 */
#ifndef __EMPTCP_HELD_JOIN_H__
#define __EMPTCP_HELD_JOIN_H__

#include <emptcp/types.h>

/** What became of a SYN. */
enum emptcp_held_state {
	/** It is held. */
	EMPTCP_HELD_WAITING,
	/** It was sent. */
	EMPTCP_HELD_RELEASED,
	/** It would have been, but the client had not tried again for so long that it has given up.
	 */
	EMPTCP_HELD_EXPIRED,
};

/** What is known of a SYN: the value of the map held_joins. */
struct emptcp_held_join {
	/** As the SYN has it. */
	struct emptcp_subflow subflow;
	/** When the first and the last of its SYNs came, ns of CLOCK_BOOTTIME. */
	emptcp_time first;
	emptcp_time last;
	/** When the client has given up, if it has not tried again by then; ns of CLOCK_BOOTTIME.
	 */
	emptcp_time until;
	/** SYNs that were held. */
	__u32 times;
	/** Sequence number. */
	__u32 seq;
	/** Where it was held: interface, enum emptcp_hook. */
	emptcp_ifindex interface;
	__u32 hook;
	enum emptcp_held_state state;
	__u8 pad[4];
};

#endif /* __EMPTCP_HELD_JOIN_H__ */
