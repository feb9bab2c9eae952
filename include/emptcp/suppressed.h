/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose announcements were suppressed: key and value of the map stash_lists (stash.h). Reaches BTF,
 * and so the loader, through a global of bpf/entry.bpf.c.
 */
#ifndef __EMPTCP_SUPPRESSED_H__
#define __EMPTCP_SUPPRESSED_H__

#include <emptcp/types.h>

/**
 * Who announced: an end of a connection, for any of its subflows may carry an announcement (RFC
 * 8684, 3.4.1), or where the connection is not known, the sender on one subflow.
 */
struct emptcp_stash_owner {
	/** The subflow, as the packet with the announcement has it; of a connection that is known
	 * the zone alone. */
	struct emptcp_subflow subflow;
	/** Token of the server of the connection, if it is known. */
	emptcp_token token;
	emptcp_bool has_token;
	/** The server announced, else the client; if the connection is known. */
	emptcp_bool by_server;
	__u8 pad[2];
};

/** What waits of it. */
struct emptcp_stash_list {
	/** Address ids of announcements that were suppressed and not restored, one in each byte,
	 * the latest one lowest; 0: no more. Of more than eight the oldest are forgotten. */
	__u64 ids;
};

#endif /* __EMPTCP_SUPPRESSED_H__ */
