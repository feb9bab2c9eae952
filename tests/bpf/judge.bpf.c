// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A program that is not emptcp's: counts the frames of tests/netns/traffic.rs
 * and what was done to them. The classifier that ends takes them away, so that
 * nobody answers them.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SPORT_FIRST 7000
#define SPORT_LAST 7999
#define WINDOW 65535

struct judged {
	__u64 total;
	/* Neither mark nor window was changed. */
	__u64 untreated;
	/* Mark and window are not of one policy. */
	__u64 mixed;
	/* Of the latest packet. */
	__u32 mark;
	__u32 window;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct judged);
	__uint(max_entries, 1);
} judged SEC(".maps");

char _license[] SEC("license") = "Dual BSD/GPL";

static __always_inline const struct tcphdr *ours(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	const struct tcphdr *tcp;
	__u16 port;

	if ((void *)(eth + 1) > end)
		return NULL;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		tcp = (void *)(eth + 1) + sizeof(struct iphdr);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		tcp = (void *)(eth + 1) + sizeof(struct ipv6hdr);
	else
		return NULL;
	if ((void *)(tcp + 1) > end)
		return NULL;
	port = bpf_ntohs(tcp->source);
	return port >= SPORT_FIRST && port <= SPORT_LAST ? tcp : NULL;
}

static __always_inline int judge(struct __sk_buff *skb)
{
	const struct tcphdr *tcp = ours((void *)(long)skb->data, (void *)(long)skb->data_end);
	struct judged *j;
	__u32 zero = 0, window;

	if (!tcp)
		return 0;
	window = bpf_ntohs(tcp->window);
	j = bpf_map_lookup_elem(&judged, &zero);
	if (!j)
		return 0;
	__sync_fetch_and_add(&j->total, 1);
	if (!skb->mark && window == WINDOW)
		__sync_fetch_and_add(&j->untreated, 1);
	else if (skb->mark != window)
		__sync_fetch_and_add(&j->mixed, 1);
	j->mark = skb->mark;
	j->window = window;
	return 1;
}

SEC("tc")
int judge_pass(struct __sk_buff *skb)
{
	judge(skb);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int judge_end(struct __sk_buff *skb)
{
	return judge(skb) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Drops the packets to port 82, and leaves its own in the control block of all. */
SEC("tc")
int meddle(struct __sk_buff *skb)
{
	const struct tcphdr *tcp = ours((void *)(long)skb->data, (void *)(long)skb->data_end);

	for (int i = 0; i < 5; i++)
		skb->cb[i] = 0x5a5a5a5a;
	return tcp && tcp->dest == bpf_htons(82) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("xdp")
int judge_xdp(struct xdp_md *ctx)
{
	return XDP_PASS;
}
