// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct ctx_get_params {
	__u32 place EMPTCP_DOC("Where to write the words down") EMPTCP_MAX("3");
};

struct found_words {
	__u32 words[EMPTCP_WORD_ZEROED];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct found_words);
	__uint(max_entries, 4);
} found SEC(".maps") EMPTCP_SHARED;

static __always_inline int ctx_get_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct ctx_get_params *p)
{
	struct found_words value;
	__u32 place = p->place;

#pragma unroll
	for (int i = 0; i < EMPTCP_WORD_ZEROED; i++)
		value.words[i] = ctx_word(ctx, i);
	bpf_map_update_elem(&found, &place, &value, BPF_ANY);
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(ctx_get, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_CONTEXT,
	     "Writes down the words of the chain context");
