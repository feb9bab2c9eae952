// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A register that a helper has left without a value (as clang leaves one for a variable that is
 * set on some paths only). */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(uninitialised);

static __always_inline int uninitialised_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					       const struct uninitialised_params *p)
{
	__u64 value;

	asm volatile("call 5\n\t" /* expect: uninitialised */
		     "%0 = r3"
		     : "=r"(value)
		     :
		     : "r0", "r1", "r2", "r3", "r4", "r5");
	return value == 1;
}

EMPTCP_SELECTOR(uninitialised, EMPTCP_HOOKS_ALL, "5.10", "", "Reads what was never written");
