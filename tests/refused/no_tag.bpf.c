// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program that says nothing of itself. */
#include <emptcp/module.h>

char _license[] SEC("license") = "GPL";

SEC(EMPTCP_CTX_SECTION) int no_tag(struct emptcp_ctx *ctx)
{
	return CTX_PASS;
}
