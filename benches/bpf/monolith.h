/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the monolithic programs share: programs as one would write them by hand
 * for one policy only, to compare chains with. They parse once, look all their
 * counters up at once (STEPS of them, before this is included), and have their
 * parameters as literals.
 */
#ifndef __EMPTCP_MONOLITH_H__
#define __EMPTCP_MONOLITH_H__

#include <emptcp/csum.h>
#include <emptcp/mptcp.h>
#include <emptcp/parse.h>
#include <emptcp/maps.h>
#include <emptcp/sequence.h>

#ifdef EMPTCP_XDP
#define MONOLITH_HOOK EMPTCP_HOOK_XDP
#else
#define MONOLITH_HOOK EMPTCP_HOOK_TC_INGRESS
#endif

/** Set before loading. */
const volatile struct {
	__u64 generation;
	__u32 count;
} constants = {};

char _license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_generation);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} generation SEC(".maps");

struct monolith_counters {
	struct emptcp_counter step[STEPS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct monolith_counters);
	__uint(max_entries, 1);
} steps SEC(".maps");

/**
 * Offset of the TCP header, and of the IP header 16 bits higher, or minus a
 * value of enum emptcp_reason. This and monolith_options() are functions that
 * the verifier looks at once: with all inlined it looks at what follows again
 * for each kind of packet, and refuses the larger programs after a million
 * instructions.
 */
__noinline int monolith_parse(struct emptcp_ctx *ctx)
{
	struct emptcp_pkt pkt = {};
	int reason;

	reason = emptcp_parse(ctx, EMPTCP_FRAMING_ETHER, &pkt);
	if (reason == EMPTCP_REASON_TRUNCATED && !ctx_pull(ctx, 512))
		reason = emptcp_parse(ctx, EMPTCP_FRAMING_ETHER, &pkt);
	if (reason)
		return -reason;
	return pkt.ip_off << 16 | pkt.tcp_off;
}

/**
 * 1: goes on with a TCP packet of the generation in force and with the counters
 * (NULL: not to be counted); 0: the packet passes.
 */
static __always_inline int monolith_begin(struct emptcp_ctx *ctx, struct emptcp_pkt *pkt,
					  struct monolith_counters **counted)
{
	struct emptcp_generation *g;
	__u32 zero = 0;
	void *data, *end;
	int ret;

	g = bpf_map_lookup_elem(&generation, &zero);
	if (!g || *(volatile __u64 *)&g->current != constants.generation)
		return 0;
	ret = monolith_parse(ctx);
	if (ret <= 0) {
		if (ret != -EMPTCP_REASON_NOT_TCP)
			emptcp_count_reason(MONOLITH_HOOK, -ret);
		return 0;
	}
	data = ctx_data(ctx);
	end = ctx_data_end(ctx);
	pkt->tcp_off = ret & EMPTCP_OFF_MASK;
	pkt->tcp = data + pkt->tcp_off;
	pkt->ip_off = ret >> 16 & 31;
	pkt->ip4 = data + pkt->ip_off;
	/* An IPv4 header is shorter, but TCP follows. */
	if ((void *)(pkt->tcp + 1) > end || (void *)(pkt->ip6 + 1) > end)
		return 0;
	pkt->tcp_len = pkt->tcp->doff * 4;
	pkt->version = pkt->ip4->version;
	*counted = NULL;
	if (constants.count) {
		*counted = bpf_map_lookup_elem(&steps, &zero);
		if (!*counted)
			return 0;
	}
	return 1;
}

/** Counts a packet that a step matches or treats, and one that it does not. */
#define MATCHED(c, n)                             \
	do {                                      \
		if (constants.count)              \
			(c)->step[(n)].matched++; \
	} while (0)
#define MISSED(c, n)                             \
	do {                                     \
		if (constants.count)             \
			(c)->step[(n)].missed++; \
	} while (0)
/** Counts a packet that a step fails to treat, and why. */
#define FAILED(c, n, reason)                                  \
	do {                                                  \
		if (constants.count)                          \
			(c)->step[(n)].errors++;              \
		emptcp_count_reason(MONOLITH_HOOK, (reason)); \
	} while (0)
/** The packet's bytes, at the first actor. */
#define BYTES(c, n, ctx)                                         \
	do {                                                     \
		if (constants.count)                             \
			(c)->step[(n)].bytes += ctx_len(ctx, 0); \
	} while (0)

/** What is among the TCP options. */
enum monolith_found {
	MONOLITH_MPTCP = 1,
	MONOLITH_SIGNED = 2,
};

static __always_inline int monolith_visit(const struct tcpopt *opt, void *arg)
{
	__u32 kind = opt->at[0], *found = arg;

	*found |= (kind == TCPOPT_MPTCP && opt->len > 2) * MONOLITH_MPTCP;
	*found |= (kind == TCPOPT_MD5SIG || kind == TCPOPT_AO) * MONOLITH_SIGNED;
	return TCPOPT_GO_ON;
}

/** Whether the TCP header holds an MPTCP option, and one that signs it: enum monolith_found. */
__noinline int monolith_options(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = {
		.tcp = ctx_data(ctx) + (tcp_off & EMPTCP_OFF_MASK),
		.tcp_off = tcp_off & EMPTCP_OFF_MASK,
		.tcp_len = tcp_len & 63,
	};
	__u32 found = 0;

	tcpopt_walk(ctx, &pkt, TCPOPT_OTHERS, 2, monolith_visit, &found);
	return found;
}

/** Clamps the window to so many units: 1 done, 0 not needed, or minus a reason. found: of the walk
 * through the options. */
static __always_inline int monolith_clamp(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  int found, __u16 window)
{
	if (pkt->tcp->syn || pkt->tcp->rst || window >= bpf_ntohs(pkt->tcp->window))
		return 0;
	if (found & MONOLITH_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	return emptcp_set_window(ctx, pkt, bpf_htons(window)) ?: 1;
}

/** Clamps, and counts what became of it. */
#define CLAMP(c, n, ctx, pkt, found, window)                                \
	do {                                                                \
		int ret_ = monolith_clamp((ctx), (pkt), (found), (window)); \
                                                                            \
		if (ret_ > 0)                                               \
			MATCHED((c), (n));                                  \
		else if (!ret_)                                             \
			MISSED((c), (n));                                   \
		else                                                        \
			FAILED((c), (n), -ret_);                            \
	} while (0)

struct monolith_key {
	struct emptcp_subflow subflow;
	__u32 step;
	__u32 pad;
};

struct monolith_record {
	__u64 packets;
	__u64 bytes;
	__u64 retransmitted;
	__u64 round_trips;
	struct emptcp_sequence sequence;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct monolith_key);
	__type(value, struct monolith_record);
	__uint(max_entries, 65536);
} records SEC(".maps");

/** Counts the packet for its subflow. */
static __always_inline int monolith_record(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   __u32 step)
{
	__u32 segments = ctx_segments(ctx), headers = pkt->tcp_off + pkt->tcp_len;
	__u32 len, again;
	struct monolith_record *value, first = {};
	struct monolith_key key = {
		.subflow.sport = bpf_ntohs(pkt->tcp->source),
		.subflow.dport = bpf_ntohs(pkt->tcp->dest),
		.step = step,
	};

	emptcp_saddr(pkt, &key.subflow.src);
	emptcp_daddr(pkt, &key.subflow.dst);
	value = bpf_map_lookup_elem(&records, &key);
	if (!value) {
		bpf_map_update_elem(&records, &key, &first, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&records, &key);
		if (!value)
			return 0;
	}
	__sync_fetch_and_add(&value->packets, segments);
	__sync_fetch_and_add(&value->bytes, ctx_len(ctx, 0) + (segments - 1) * headers);
	len = pkt->version == 4 ? bpf_ntohs(pkt->ip4->tot_len)
				: bpf_ntohs(pkt->ip6->payload_len) + sizeof(*pkt->ip6);
	again = emptcp_sequence_take(&value->sequence, pkt->tcp, len + pkt->ip_off - headers);
	if (again)
		__sync_fetch_and_add(&value->retransmitted, again);
	return 1;
}

#endif /* __EMPTCP_MONOLITH_H__ */
