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
	/*
	 * What `emptcp run` has made of one that expired.
	 */
	/** The path manager of the socket's host was asked for the subflow again. */
	EMPTCP_HELD_ASKED,
	/** It was not: subflows that live use the address, and would end. */
	EMPTCP_HELD_IN_USE,
	/** It was not: the socket is not in this network namespace, or has ended. */
	EMPTCP_HELD_NO_SOCKET,
	/** It was not: no endpoint of type subflow, and not announced too, has the address. */
	EMPTCP_HELD_NO_ENDPOINT,
	/** It was, and the kernel refused. */
	EMPTCP_HELD_REFUSED,
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
	/** Address id of its MP_JOIN (RFC 8684, 3.2), and whether that asks for backup. */
	__u8 addr_id;
	emptcp_bool backup;
	/** The path manager was asked for this one, or for one before with these addresses: once is
	 * enough. */
	emptcp_bool asked;
	__u8 pad[1];
};

#endif /* __EMPTCP_HELD_JOIN_H__ */
