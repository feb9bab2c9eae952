// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A socket that is looked up, and never given back. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(reference_leak);

static __always_inline int reference_leak_match(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt,
						const struct reference_leak_params *p)
{
	struct bpf_sock_tuple tuple = {};

	return bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), /* expect: reference_leak */
				 BPF_F_CURRENT_NETNS, 0) != NULL;
}

EMPTCP_SELECTOR(reference_leak, EMPTCP_HOOKS_ALL, "5.10", "", "Keeps a socket");
