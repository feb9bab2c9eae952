// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

struct sample_params {
	emptcp_ratio ratio EMPTCP_DOC("Part of the packets, such as \"1/100\" or \"5%\"")
		EMPTCP_REQUIRED;
};

static __always_inline int sample_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct sample_params *p)
{
	/* The largest ratio stands for all packets. */
	return p->ratio == 0xffffffff || bpf_get_prandom_u32() < p->ratio;
}

EMPTCP_SELECTOR(sample, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE,
		"Packets drawn at random, each by itself");
