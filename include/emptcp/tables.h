/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Look-ups in tables of the policy. A selector declares the one it looks up
 *
 *	struct {
 *		EMPTCP_KEY_TABLE(struct emptcp_subflow);
 *	} table SEC(".maps") EMPTCP_PARAM EMPTCP_LOOKUP EMPTCP_DOC("...");
 *
 * and asks emptcp_has_table() whether the step was given one. What entries hold
 * and whether they expire is known when the step is loaded.
 */
#ifndef __EMPTCP_TABLES_H__
#define __EMPTCP_TABLES_H__

#include <emptcp/clock.h>
#include <emptcp/parse.h>
#include <emptcp/values.h>

/** Body of the map for a table with keys of this type; for prefixes: EMPTCP_PREFIX_TABLE. */
#define EMPTCP_KEY_TABLE(type_)          \
	__uint(type, BPF_MAP_TYPE_HASH); \
	__type(key, type_);              \
	__type(value, __u8);             \
	__uint(max_entries, 1)

/** Whether the step was given a table. */
static __always_inline int emptcp_has_table(const struct emptcp_pkt *pkt)
{
	return pkt->links->flags & EMPTCP_STEP_TABLE;
}

/** What the table has for the key now, a value of the type that the map declares; NULL: nothing. */
static __always_inline const void *emptcp_table_find(const struct emptcp_pkt *pkt, void *table,
						     const void *key)
{
	const struct emptcp_links *links = pkt->links;
	const void *value = bpf_map_lookup_elem(table, key);

	if (!value)
		return NULL;
	if (links->flags & EMPTCP_STEP_TIMED) {
		const __u64 *expires = value + links->expires_at;

		if (emptcp_boot_now() >= *expires)
			return NULL;
	}
	return value;
}

/** Whether the table holds the key, now; leaves its value to the actors behind. */
static __always_inline int emptcp_table_holds(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      void *table, const void *key)
{
	const struct emptcp_links *links = pkt->links;
	const void *value = emptcp_table_find(pkt, table, key);

	if (!value)
		return 0;
	if (links->flags & EMPTCP_STEP_LEAVES_VALUE)
		emptcp_leave_value(ctx, links, value);
	return 1;
}

/** emptcp_table_find() for an address in a table of prefixes, or in one of addresses; version: 4
 * or 6, of the address. */
static __always_inline const void *emptcp_table_find_addr(const struct emptcp_pkt *pkt, void *table,
							  const struct emptcp_addr *addr,
							  __u8 version)
{
	struct emptcp_prefix_key key = {
		.prefixlen = 32 + 128,
		.family = bpf_htonl(version),
		.addr = *addr,
	};
	const void *at = &key;

	if (pkt->links->flags & EMPTCP_STEP_ADDR_TABLE)
		at = &key.addr;
	return emptcp_table_find(pkt, table, at);
}

/** emptcp_table_holds() for an address in a table of prefixes, or in one of addresses. */
static __always_inline int emptcp_table_holds_addr(struct emptcp_ctx *ctx,
						   const struct emptcp_pkt *pkt, void *table,
						   const struct emptcp_addr *addr)
{
	const struct emptcp_links *links = pkt->links;
	const void *value = emptcp_table_find_addr(pkt, table, addr, pkt->version);

	if (!value)
		return 0;
	if (links->flags & EMPTCP_STEP_LEAVES_VALUE)
		emptcp_leave_value(ctx, links, value);
	return 1;
}

/** The same for a port (byte order of the machine). */
static __always_inline int emptcp_table_holds_port(struct emptcp_ctx *ctx,
						   const struct emptcp_pkt *pkt, void *table,
						   __u16 port)
{
	__u32 key = port;

	return emptcp_table_holds(ctx, pkt, table, &key);
}

#endif /* __EMPTCP_TABLES_H__ */
