// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Tags by hand, and no variable with the parameters. */
#include <emptcp/module.h>

char _license[] SEC("license") = "GPL";

EMPTCP_TAG("abi:" EMPTCP_STRING(EMPTCP_ABI))
EMPTCP_TAG("kind:selector")
EMPTCP_TAG("hooks:" EMPTCP_HOOKS_ALL)
EMPTCP_TAG("since:5.10")
EMPTCP_TAG("flags:")
EMPTCP_TAG("doc:Nothing")
SEC(EMPTCP_CTX_SECTION) int no_params(struct emptcp_ctx *ctx)
{
	return CTX_PASS;
}
