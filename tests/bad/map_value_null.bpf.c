// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a look-up returns is used without a test. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(map_value_null);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 16);
} values SEC(".maps");

static __always_inline int map_value_null_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					      const struct map_value_null_params *p)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	*value += 1; /* expect: map_value_null */
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(map_value_null, EMPTCP_HOOKS_ALL, "5.10", "", "Uses what may be NULL");
