// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* References to tables of the policy, of every kind of key. */
#include <emptcp/module.h>

struct tables_params {
	emptcp_bool yes EMPTCP_DOC("Beside the tables");
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, emptcp_bytes);
	__uint(max_entries, 1);
} subflows SEC(".maps") EMPTCP_PARAM EMPTCP_DOC("Bytes of subflows") EMPTCP_REQUIRED;

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct emptcp_prefix_key);
	__type(value, __u8);
	__uint(max_entries, 1);
} prefixes SEC(".maps") EMPTCP_PARAM EMPTCP_DOC("Any table of prefixes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct emptcp_addr);
	__type(value, __u32);
	__uint(max_entries, 1);
} addrs SEC(".maps") EMPTCP_PARAM;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, emptcp_token);
	__type(value, struct emptcp_addr);
	__uint(max_entries, 1);
} tokens SEC(".maps") EMPTCP_PARAM;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, emptcp_port_key);
	__type(value, emptcp_bool);
	__uint(max_entries, 1);
} ports SEC(".maps") EMPTCP_PARAM;

static __always_inline int tables_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct tables_params *p)
{
	struct emptcp_subflow key = {
		.sport = bpf_ntohs(pkt->tcp->source),
		.dport = bpf_ntohs(pkt->tcp->dest),
		.zone = pkt->links->zone,
	};
	struct emptcp_prefix_key prefix = {.prefixlen = 32 + 128};
	__u32 port = bpf_ntohs(pkt->tcp->dest);

	emptcp_saddr(pkt, &key.src);
	emptcp_daddr(pkt, &key.dst);
	return bpf_map_lookup_elem(&subflows, &key) || bpf_map_lookup_elem(&ports, &port) ||
	       bpf_map_lookup_elem(&addrs, &key.src) || bpf_map_lookup_elem(&tokens, &port) ||
	       bpf_map_lookup_elem(&prefixes, &prefix);
}

EMPTCP_SELECTOR(tables, EMPTCP_HOOKS_ALL, "5.10", "", "Tables of the policy");
