// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Stands before whatever is measured. A test run repeats on the packet as the
 * run before left it: this gives the packet its headers back, and its length
 * where that has changed, then goes on to slot 0.
 */
#include <emptcp/chain.h>

#define WORD sizeof(__u64)
/* Ethernet, IPv4 and TCP with all options, in words. */
#define WORDS 12

/** Set before loading. */
const volatile struct {
	/** Bytes of the frame. */
	__u32 frame;
	/** Bytes of it that are given back, from its begin: at least one word. */
	__u32 len;
	__u64 words[WORDS];
	/** Its last word, which overlaps those above. */
	__u64 last;
} original = {};

char _license[] SEC("license") = "Dual BSD/GPL";

static __always_inline long give_length_back(struct emptcp_ctx *ctx)
{
#ifdef EMPTCP_XDP
	__s64 more = ctx_data_end(ctx) - ctx_data(ctx);

	more -= original.frame;
	return more ? bpf_xdp_adjust_head(ctx, more) : 0;
#else
	return ctx->len != original.frame ? bpf_skb_change_tail(ctx, original.frame, 0) : 0;
#endif
}

SEC(EMPTCP_CTX_SECTION)
int restore(struct emptcp_ctx *ctx)
{
	void *data;

	if (give_length_back(ctx))
		return CTX_DROP;
	data = ctx_data(ctx);
	if (data + original.len > ctx_data_end(ctx))
		return CTX_DROP;
#pragma clang loop unroll(full)
	for (int i = 0; i < WORDS; i++)
		if ((i + 1) * WORD <= original.len)
			*(__u64 *)(data + i * WORD) = original.words[i];
	*(__u64 *)(data + original.len - WORD) = original.last;
	EMPTCP_TAIL_CALL(ctx, &progs, 0);
	return CTX_DROP;
}
