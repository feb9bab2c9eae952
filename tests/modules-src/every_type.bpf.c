// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A module that the tree does not know, with a parameter of every type: it writes down what it
 * was given. */
#include <emptcp/lists.h>
#include <emptcp/module.h>

/** The numbers have gaps: names stand for values. */
enum colour {
	COLOUR_RED,
	COLOUR_DARK_GREEN = 5,
	COLOUR_BLUE = 40,
};

struct every_type_params {
	emptcp_bytes bytes EMPTCP_DOC("Bytes") EMPTCP_MIN("1KiB") EMPTCP_MAX("1GiB");
	emptcp_rate rate EMPTCP_DOC("Rate") EMPTCP_DEFAULT("20Mbit");
	emptcp_time time EMPTCP_DOC("Time") EMPTCP_REQUIRED;
	emptcp_ratio ratio EMPTCP_DOC("Ratio");
	struct emptcp_addr addr EMPTCP_DOC("Address");
	struct emptcp_prefix prefix EMPTCP_DOC("Prefix");
	emptcp_port port EMPTCP_DOC("Port");
	struct emptcp_port_range ports EMPTCP_DOC("Ports");
	emptcp_token token EMPTCP_DOC("Token");
	emptcp_ifindex interface EMPTCP_DOC("Interface");
	struct emptcp_cgroup cgroup EMPTCP_DOC("Cgroup");
	struct emptcp_text text EMPTCP_DOC("Text") __attribute__((aligned(8)));
	emptcp_bool yes EMPTCP_DOC("Bool");
	__u8 u8 EMPTCP_DOC("u8");
	__u16 u16 EMPTCP_DOC("u16");
	__u32 u32 EMPTCP_DOC("u32");
	__u64 u64 EMPTCP_DOC("u64");
	__s8 s8 EMPTCP_DOC("s8") EMPTCP_MIN("-100") EMPTCP_MAX("100");
	__s16 s16 EMPTCP_DOC("s16");
	__s32 s32 EMPTCP_DOC("s32");
	__s64 s64 EMPTCP_DOC("s64");
	enum colour colour EMPTCP_DOC("Enum") EMPTCP_DEFAULT("blue");
	EMPTCP_SET(enum colour) colours EMPTCP_DOC("Set");
	EMPTCP_LIST(emptcp_time, 3) times EMPTCP_DOC("List without a table") EMPTCP_MIN("1ms");
	EMPTCP_LIST(enum colour, 2) palette EMPTCP_DOC("List of an enum");
	EMPTCP_LIST(__u8, 5) numbers EMPTCP_DOC("List of small numbers");
	EMPTCP_LIST(struct emptcp_cgroup, 2) cgroups EMPTCP_DOC("List of cgroups");
	EMPTCP_LIST(struct emptcp_prefix, 2) prefixes EMPTCP_DOC("List of prefixes");
	EMPTCP_LIST(struct emptcp_addr, 2) addrs EMPTCP_DOC("List of addresses");
	EMPTCP_LIST(struct emptcp_port_range, 2) ranges EMPTCP_DOC("List of ranges");
	EMPTCP_LIST(emptcp_port, 2) single_ports EMPTCP_DOC("List of ports");
	EMPTCP_LIST(emptcp_token, 2) tokens EMPTCP_DOC("List of tokens");
};

struct {
	EMPTCP_PREFIX_TABLE;
} more_prefixes SEC(".maps") EMPTCP_TABLE_OF(prefixes);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_addr);
	__type(value, __u8);
	__uint(max_entries, 1);
} more_addrs SEC(".maps") EMPTCP_TABLE_OF(addrs);

struct {
	EMPTCP_PORT_TABLE;
} more_ranges SEC(".maps") EMPTCP_TABLE_OF(ranges);

struct {
	EMPTCP_PORT_TABLE;
} more_ports SEC(".maps") EMPTCP_TABLE_OF(single_ports);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, emptcp_token);
	__type(value, __u8);
	__uint(max_entries, 1);
} more_tokens SEC(".maps") EMPTCP_TABLE_OF(tokens);

/** What the step saw: four numbers of each parameter, in the order of the parameters. */
struct seen_value {
	__u64 v[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct seen_value);
	__uint(max_entries, 32);
} seen SEC(".maps");

static __always_inline void see(__u32 *n, __u64 a, __u64 b, __u64 c, __u64 d)
{
	struct seen_value value = {{a, b, c, d}};

	bpf_map_update_elem(&seen, n, &value, BPF_ANY);
	(*n)++;
}

static __always_inline __u64 half(const struct emptcp_addr *addr, int i)
{
	return (__u64)bpf_ntohl(addr->w[i]) << 32 | bpf_ntohl(addr->w[i + 1]);
}

/* Of a list: how long it is, its first and last item in the parameters, and whether the table
 * holds something of the packet. */
#define see_list(list, number, looked_up)                                                       \
	do {                                                                                    \
		__u32 count_ = (list)->count;                                                   \
                                                                                                \
		if (count_ == EMPTCP_LIST_IN_TABLE)                                             \
			see(&n, count_, 0, 0, (looked_up) != NULL);                             \
		else if (count_ == 0)                                                           \
			see(&n, 0, 0, 0, 0);                                                    \
		else if (count_ == 1)                                                           \
			see(&n, 1, number((list)->items[0]), number((list)->items[0]), 0);      \
		else                                                                            \
			see(&n, count_, number((list)->items[0]), number((list)->items[1]), 0); \
	} while (0)

#define plain(item) (item)
#define low(item) half(&(item), 2)
#define prefix(item) (half(&(item).addr, 2) ^ half(&(item).mask, 2))
#define level(item) ((item).level)
#define range(item) ((__u64)(item).first << 32 | (item).last)

static __always_inline int every_type_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct every_type_params *p)
{
	struct emptcp_prefix_key key = {
		.prefixlen = 32 + 128,
		.family = bpf_htonl(pkt->version),
	};
	struct emptcp_addr addr;
	__u32 port = bpf_ntohs(pkt->tcp->dest);
	__u32 seq = bpf_ntohl(pkt->tcp->seq);
	__u32 n = 0;

	emptcp_saddr(pkt, &addr);
	key.addr = addr;
	see(&n, p->bytes, 0, 0, 0);
	see(&n, p->rate, 0, 0, 0);
	see(&n, p->time, 0, 0, 0);
	see(&n, p->ratio, 0, 0, 0);
	see(&n, half(&p->addr, 0), half(&p->addr, 2), 0, 0);
	see(&n, half(&p->prefix.addr, 0), half(&p->prefix.addr, 2), half(&p->prefix.mask, 0),
	    half(&p->prefix.mask, 2));
	see(&n, p->port, 0, 0, 0);
	see(&n, p->ports.first, p->ports.last, 0, 0);
	see(&n, p->token, 0, 0, 0);
	see(&n, p->interface, 0, 0, 0);
	see(&n, p->cgroup.id, p->cgroup.level, 0, 0);
	see(&n, *(const __u64 *)p->text.bytes, *(const __u64 *)(p->text.bytes + 8), 0, 0);
	see(&n, p->yes, 0, 0, 0);
	see(&n, p->u8, 0, 0, 0);
	see(&n, p->u16, 0, 0, 0);
	see(&n, p->u32, 0, 0, 0);
	see(&n, p->u64, 0, 0, 0);
	see(&n, (__s64)p->s8, 0, 0, 0);
	see(&n, (__s64)p->s16, 0, 0, 0);
	see(&n, (__s64)p->s32, 0, 0, 0);
	see(&n, (__s64)p->s64, 0, 0, 0);
	see(&n, p->colour, 0, 0, 0);
	see(&n, p->colours.bits, 0, 0, 0);
	see_list(&p->times, plain, NULL);
	see_list(&p->palette, plain, NULL);
	see_list(&p->numbers, plain, NULL);
	see_list(&p->cgroups, level, NULL);
	see_list(&p->prefixes, prefix, bpf_map_lookup_elem(&more_prefixes, &key));
	see_list(&p->addrs, low, bpf_map_lookup_elem(&more_addrs, &addr));
	see_list(&p->ranges, range, bpf_map_lookup_elem(&more_ranges, &port));
	see_list(&p->single_ports, plain, bpf_map_lookup_elem(&more_ports, &port));
	see_list(&p->tokens, plain, bpf_map_lookup_elem(&more_tokens, &seq));
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(every_type, EMPTCP_HOOKS_ALL, "5.10", "", "Writes down its parameters");
