/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Look-ups in lists of parameters, and in the tables that take the longer ones
 * (EMPTCP_TABLE_OF). count is a constant for the verifier: of the unrolled
 * rounds only those that have an item are left.
 */
#ifndef __EMPTCP_LISTS_H__
#define __EMPTCP_LISTS_H__

#include <emptcp/parse.h>

/** Items of a list that lie in the parameters. */
#define EMPTCP_LIST_MAX 8

/** Body of the map for a list of prefixes. */
#define EMPTCP_PREFIX_TABLE                    \
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);   \
	__uint(map_flags, BPF_F_NO_PREALLOC);  \
	__type(key, struct emptcp_prefix_key); \
	__type(value, __u8);                   \
	__uint(max_entries, 1)

/** Body of the map for a list of port ranges: one entry a port. */
#define EMPTCP_PORT_TABLE                \
	__uint(type, BPF_MAP_TYPE_HASH); \
	__type(key, emptcp_port_key);    \
	__type(value, __u8);             \
	__uint(max_entries, 1)

/** Lists of up to EMPTCP_LIST_MAX items. */
typedef EMPTCP_LIST(struct emptcp_prefix, EMPTCP_LIST_MAX) emptcp_prefixes;
typedef EMPTCP_LIST(struct emptcp_port_range, EMPTCP_LIST_MAX) emptcp_port_ranges;

/** Whether one of the prefixes holds the address; version: 4 or 6. */
static __always_inline int emptcp_prefixes_hold(const emptcp_prefixes *list, void *table,
						const struct emptcp_addr *addr, __u8 version)
{
	if (list->count == EMPTCP_LIST_IN_TABLE) {
		struct emptcp_prefix_key key = {
			.prefixlen = 32 + 128,
			.family = bpf_htonl(version),
			.addr = *addr,
		};

		return bpf_map_lookup_elem(table, &key) != NULL;
	}
#pragma unroll
	for (int i = 0; i < EMPTCP_LIST_MAX; i++) {
		if (i >= list->count)
			break;
		if (emptcp_prefix_holds(&list->items[i], addr, version))
			return 1;
	}
	return 0;
}

/** Whether one of the ranges holds the port (byte order of the machine). */
static __always_inline int emptcp_ports_hold(const emptcp_port_ranges *list, void *table,
					     __u16 port)
{
	if (list->count == EMPTCP_LIST_IN_TABLE) {
		__u32 key = port;

		return bpf_map_lookup_elem(table, &key) != NULL;
	}
#pragma unroll
	for (int i = 0; i < EMPTCP_LIST_MAX; i++) {
		if (i >= list->count)
			break;
		if (port >= list->items[i].first && port <= list->items[i].last)
			return 1;
	}
	return 0;
}

#endif /* __EMPTCP_LISTS_H__ */
