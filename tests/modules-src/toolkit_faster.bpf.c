// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes down what the schedulers of faster.h decide by the numbers in a packet's payload. */
#include <emptcp/faster.h>
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(toolkit_faster);

struct numbers {
	struct emptcp_path fast;
	struct emptcp_path slow;
	__u64 queued;
	__u64 window;
	__u64 margin;
};

struct answers {
	__u32 ecf;
	__u32 blest;
	/* Not written: the payload is not there. */
	__u32 read;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct answers);
	__uint(max_entries, 1);
} answers SEC(".maps");

static __always_inline int toolkit_faster_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct toolkit_faster_params *p)
{
	struct numbers n;
	struct answers *a;
	__u32 zero = 0;

	a = bpf_map_lookup_elem(&answers, &zero);
	if (!a)
		return -EMPTCP_REASON_MAP_FULL;
	if (bpf_skb_load_bytes(ctx, pkt->tcp_off + pkt->tcp_len, &n, sizeof(n)))
		return -EMPTCP_REASON_TRUNCATED;
	a->ecf = emptcp_ecf_waits(&n.fast, &n.slow, n.queued, n.margin);
	a->blest = emptcp_blest_waits(&n.fast, &n.slow, n.window, n.margin);
	a->read = 1;
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(toolkit_faster, EMPTCP_HOOKS_TC, "5.10", EMPTCP_OBSERVES, "Writes down decisions");
