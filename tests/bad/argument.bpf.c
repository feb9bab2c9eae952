// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A number where a helper takes a pointer. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(argument);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 16);
} values SEC(".maps");

static __always_inline int argument_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct argument_params *p)
{
	return bpf_map_lookup_elem(&values, (void *)5) != NULL; /* expect: argument */
}

EMPTCP_SELECTOR(argument, EMPTCP_HOOKS_ALL, "5.10", "", "Gives a helper what it does not take");
