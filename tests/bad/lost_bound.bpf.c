// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The index is tested, then something is added to it. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(lost_bound);

struct line {
	__u32 cells[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct line);
	__uint(max_entries, 1);
} lines SEC(".maps");

static __always_inline int lost_bound_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct lost_bound_params *p)
{
	__u32 zero = 0, index = bpf_ntohs(pkt->tcp->dest);
	struct line *line = bpf_map_lookup_elem(&lines, &zero);

	if (!line || index >= 16)
		return EMPTCP_SKIP;
	index += bpf_ntohs(pkt->tcp->source);
	line->cells[index]++; /* expect: map_bound */
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(lost_bound, EMPTCP_HOOKS_ALL, "5.10", "", "Adds to an index behind its check");
