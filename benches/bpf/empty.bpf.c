// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Does nothing: what remains of a measurement without the thing measured. */
#include <emptcp/ctx.h>

char _license[] SEC("license") = "Dual BSD/GPL";

SEC(EMPTCP_CTX_SECTION)
int empty(struct emptcp_ctx *ctx)
{
	return CTX_PASS;
}
