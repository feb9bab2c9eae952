// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Whether a subflow, or one that an announcement offers, shares a link with another subflow of its
 * connection. Links are declared: a table of the policy has a number for the addresses behind each.
 *
 * The subflows are those that the tracker lists (listed.h), whichever packets reached this step, so
 * it may stand behind other tests. Both ends of a subflow are looked up, for a number is a link on
 * either side: the operator who means the server's links alone declares those alone. Whoever
 * comes first keeps the link: matches are those that came later, so that one is left.
 */
#include <emptcp/listed.h>
#include <emptcp/tables.h>

/* What may share a link. */
enum link_used_of {
	/* The subflow of the packet, such as that which a SYN opens. */
	LINK_USED_SUBFLOW,
	/* The address in an ADD_ADDR that is no echo. */
	LINK_USED_ANNOUNCED,
};

struct link_used_params {
	enum link_used_of of EMPTCP_DOC("What is asked about: the subflow of the packet, or one to "
					"the address that an ADD_ADDR announces")
		EMPTCP_DEFAULT("subflow");
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct emptcp_prefix_key);
	__type(value, __u32);
	__uint(max_entries, 1);
} table SEC(".maps") EMPTCP_PARAM EMPTCP_LOOKUP EMPTCP_REQUIRED EMPTCP_DOC(
	"Table of prefixes or addresses, with the number of the link (u32) behind which they are; "
	"those that are not in it share none");

/* ADD_ADDR options of one packet at most: of 8 bytes. */
#define LINK_USED_ROUNDS 5

/* The link of an address, if it has one. */
struct link_used_link {
	__u32 number;
	__u32 is_there;
};

/*
 * What is asked about. In a map, of whose values the verifier knows nothing: else it looks at each
 * of sixteen rounds once for each kind of them.
 */
struct link_used_asked {
	/* From the lower to the higher end; of an announcement all zero: no subflow is left out. */
	struct emptcp_subflow subflow;
	/* Of its ends, or of the address alone. */
	struct link_used_link links[2];
	/* Of another subflow. */
	struct link_used_link other;
	__u64 created;
	struct emptcp_track_key conn;
	/* enum emptcp_listed. */
	__u32 is;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct link_used_asked);
	__uint(max_entries, 1);
} asked_links SEC(".maps");

/* What the table has for an address; NULL: nothing. */
static __always_inline const void *link_used_find(const struct emptcp_pkt *pkt,
						  const struct emptcp_addr *addr)
{
	__u32 is_six = addr->w[0] | addr->w[1] | (addr->w[2] ^ bpf_htonl(0xffff));

	/* Of whichever family the packet is: subflows of one connection may have both. */
	return emptcp_table_find_addr(pkt, &table, addr, is_six ? 6 : 4);
}

static __always_inline void link_used_link(const struct emptcp_pkt *pkt,
					   const struct emptcp_addr *addr,
					   struct link_used_link *link)
{
	const __u32 *value = link_used_find(pkt, addr);

	link->is_there = 0;
	if (!value)
		return;
	link->number = *value;
	link->is_there = 1;
}

/* Whether another subflow has a link of the one that is asked about. */
static __always_inline int link_used_shares(const struct link_used_asked *asked)
{
	__u32 shares = 0;

#pragma unroll
	for (int i = 0; i < 2; i++)
		shares |=
			asked->links[i].is_there & (asked->links[i].number == asked->other.number);
	return shares & asked->other.is_there;
}

/* Leaves the number of the link of an address to the actors behind, if one takes it. */
static __always_inline void link_used_leave(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct emptcp_addr *addr)
{
	const void *value;

	if (!(pkt->links->flags & EMPTCP_STEP_LEAVES_VALUE))
		return;
	value = link_used_find(pkt, addr);
	if (value)
		emptcp_leave_value(ctx, pkt->links, value);
}

static __always_inline int link_used_visit(const struct tcpopt *opt, void *arg)
{
	const struct mptcp_add_addr *add = (const void *)opt->at;
	struct emptcp_addr *addr = arg;

	if (mptcp_subtype(opt->at) != MPTCP_ADD_ADDR ||
	    !mptcp_add_addr_is_whole(add->sub, opt->len) || add->sub & MPTCP_ADD_ADDR_ECHO)
		return TCPOPT_GO_ON;
	if (mptcp_add_addr_is6(opt->len)) {
		if ((const void *)(add->addr6 + 4) > opt->end)
			return TCPOPT_GO_ON;
		__builtin_memcpy(addr, add->addr6, sizeof(*addr));
	} else {
		if ((const void *)(&add->addr4 + 1) > opt->end)
			return TCPOPT_GO_ON;
		addr->w[0] = addr->w[1] = 0;
		addr->w[2] = bpf_htonl(0xffff);
		addr->w[3] = add->addr4;
	}
	return TCPOPT_STOP;
}

/*
 * Whether the subflow in a place came before the one that is asked about; it is in
 * emptcp_listed_found() then. A SYN may be older than a subflow that was opened while it was held
 * or lost: those come first that are further, then those that are older.
 */
__noinline int link_used_before(__u32 place)
{
	const struct emptcp_listed_found *found = emptcp_listed_found();
	const struct link_used_asked *asked;
	__u32 zero = 0, is;

	asked = bpf_map_lookup_elem(&asked_links, &zero);
	if (!asked || !found)
		return 0;
	is = emptcp_listed_at(asked->conn.token, asked->conn.zone, place);
	if (is < EMPTCP_LISTED_JOINS || emptcp_subflow_equal(&found->subflow, &asked->subflow))
		return 0;
	if (is != asked->is)
		return is > asked->is;
	return found->created < asked->created;
}

static __always_inline int link_used_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct link_used_params *p)
{
	const struct emptcp_listed_found *found;
	const struct emptcp_track_subflow *sub;
	struct link_used_asked *asked;
	struct emptcp_addr addr;
	__u32 zero = 0;
	int from;

	asked = bpf_map_lookup_elem(&asked_links, &zero);
	found = emptcp_listed_found();
	if (!asked || !found)
		return 0;
	__builtin_memset(asked, 0, sizeof(*asked));
	if (p->of == LINK_USED_ANNOUNCED) {
		struct mptcp_options options;

		mptcp_collect(ctx, pkt, TCPOLEN_MPTCP_ADD_ADDR_BASE, &options);
		if (!mptcp_each(ctx, pkt, &options, LINK_USED_ROUNDS, link_used_visit, &addr))
			return 0;
		link_used_link(pkt, &addr, &asked->links[0]);
	} else {
		emptcp_track_key_of(pkt, &asked->subflow);
		link_used_link(pkt, &asked->subflow.src, &asked->links[0]);
		link_used_link(pkt, &asked->subflow.dst, &asked->links[1]);
	}
	if (!(asked->links[0].is_there | asked->links[1].is_there))
		return 0;
	sub = emptcp_tracked(pkt, &from);
	asm volatile("" : "+r"(sub));
	if (!sub || !(sub->flags & (EMPTCP_TRACK_TIED | EMPTCP_TRACK_NAMES)))
		return 0;
	asked->conn = sub->conn;
	asked->created = sub->created;
	/* An announcement comes behind all that there are, and those that are being opened. */
	if (p->of == LINK_USED_SUBFLOW)
		asked->is = sub->state < EMPTCP_TRACK_ESTABLISHED ? EMPTCP_LISTED_JOINS
								  : EMPTCP_LISTED_LIVES;
	for (int i = 0; i < EMPTCP_TRACK_LIST_MAX; i++) {
		if (!link_used_before(i))
			continue;
		link_used_link(pkt, &found->subflow.src, &asked->other);
		if (link_used_shares(asked)) {
			link_used_leave(ctx, pkt, &found->subflow.src);
			return 1;
		}
		link_used_link(pkt, &found->subflow.dst, &asked->other);
		if (link_used_shares(asked)) {
			link_used_leave(ctx, pkt, &found->subflow.dst);
			return 1;
		}
	}
	return 0;
}

EMPTCP_SELECTOR(
	link_used, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
	"Another subflow of the connection uses a link that this one, or the address that is "
	"announced, is behind");
