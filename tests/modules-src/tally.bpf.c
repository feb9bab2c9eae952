// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(tally);

/* A map that lives as long as its step. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} tallies SEC(".maps") EMPTCP_PER_STEP;

static __always_inline int tally_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct tally_params *p)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&tallies, &zero);

	if (!value)
		return -EMPTCP_REASON_MAP_FULL;
	__sync_fetch_and_add(value, 1);
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(tally, EMPTCP_HOOKS_TC, "5.10", "", "Counts packets in a map of its step");
