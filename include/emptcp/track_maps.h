/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps that only the tracker itself needs: what it finds connections by, and their keys. */
#ifndef __EMPTCP_TRACK_MAPS_H__
#define __EMPTCP_TRACK_MAPS_H__

#include <emptcp/tracked.h>

/** The connection, by the token of the client: the token of the server. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_track_key);
	__type(value, emptcp_token);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} client_tokens SEC(".maps") EMPTCP_KEPT EMPTCP_LIMIT(connections);

/** Keys of a connection, as numbers in the byte order of the machine: secrets. Integers are types
 * of the vocabulary, a union without a name is none, so that nothing shows them. */
struct emptcp_track_secrets {
	union {
		struct {
			__u64 client;
			__u64 server;
		};
		__u8 opaque[16];
	};
};

/** By the token of the server. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_track_key);
	__type(value, struct emptcp_track_secrets);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} secrets SEC(".maps") EMPTCP_KEPT EMPTCP_LIMIT(connections);

#endif /* __EMPTCP_TRACK_MAPS_H__ */
