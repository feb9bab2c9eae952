// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Plain look-ups, to compare those in tables with (tests/lookup.rs). IPv4 without options only. */
#include <emptcp/parse.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define TABLE(name_, type_, key_)                     \
	struct {                                      \
		__uint(type, type_);                  \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_);                    \
		__type(value, __u64);                 \
		__uint(max_entries, 1048576);         \
	} name_ SEC(".maps")

TABLE(addr, BPF_MAP_TYPE_HASH, struct emptcp_addr);
TABLE(prefix, BPF_MAP_TYPE_LPM_TRIE, struct emptcp_prefix_key);
TABLE(subflow, BPF_MAP_TYPE_HASH, struct emptcp_subflow);

static __always_inline int parse(struct __sk_buff *skb, struct emptcp_pkt *pkt)
{
	return emptcp_parse(skb, EMPTCP_FRAMING_ETHER, pkt);
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	struct emptcp_pkt pkt = {};
	struct emptcp_subflow key = {};

	if (parse(skb, &pkt))
		return 0;
	emptcp_saddr(&pkt, &key.src);
	return key.src.w[3] == 0;
}

SEC("tc")
int plain_addr(struct __sk_buff *skb)
{
	struct emptcp_pkt pkt = {};
	struct emptcp_addr key;

	if (parse(skb, &pkt))
		return 0;
	emptcp_saddr(&pkt, &key);
	return bpf_map_lookup_elem(&addr, &key) != NULL;
}

SEC("tc")
int plain_prefix(struct __sk_buff *skb)
{
	struct emptcp_prefix_key key = {.prefixlen = 160, .family = bpf_htonl(4)};
	struct emptcp_pkt pkt = {};

	if (parse(skb, &pkt))
		return 0;
	emptcp_saddr(&pkt, &key.addr);
	return bpf_map_lookup_elem(&prefix, &key) != NULL;
}

SEC("tc")
int plain_subflow(struct __sk_buff *skb)
{
	struct emptcp_pkt pkt = {};
	struct emptcp_subflow key = {};

	if (parse(skb, &pkt))
		return 0;
	emptcp_saddr(&pkt, &key.src);
	emptcp_daddr(&pkt, &key.dst);
	key.sport = bpf_ntohs(pkt.tcp->source);
	key.dport = bpf_ntohs(pkt.tcp->dest);
	return bpf_map_lookup_elem(&subflow, &key) != NULL;
}
