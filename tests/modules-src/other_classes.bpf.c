// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Shares the map of classify, and does not agree on its layout. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(other_classes);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 64);
} classes SEC(".maps") EMPTCP_SHARED;

static __always_inline int other_classes_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct other_classes_params *p)
{
	__u32 key = 1;

	return bpf_map_lookup_elem(&classes, &key) ? EMPTCP_NEXT : EMPTCP_SKIP;
}

EMPTCP_ACTOR(other_classes, EMPTCP_HOOKS_ALL, "5.10", "", "Looks for class 1");
