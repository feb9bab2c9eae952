// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Looks at both clocks, and remembers the time from packet to packet. */
#include <emptcp/module.h>
#include <emptcp/clock.h>

struct gap_params {
	emptcp_time longer EMPTCP_DOC("Shortest gap that matches") EMPTCP_REQUIRED;
	emptcp_bool boot EMPTCP_DOC("By the clock that tables expire by");
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} gap_last SEC(".maps");

static __always_inline int gap_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct gap_params *p)
{
	__u64 now = p->boot ? emptcp_boot_now() : emptcp_now();
	__u32 zero = 0;
	__u64 *last = bpf_map_lookup_elem(&gap_last, &zero);
	__u64 before;

	if (!last)
		return -EMPTCP_REASON_MAP_FULL;
	before = *last;
	*last = now;
	return before && now - before >= p->longer;
}

EMPTCP_SELECTOR(gap, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE, "Time since the packet before it");
