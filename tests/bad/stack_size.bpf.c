// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Each function is below 512 bytes of stack, both together are not. */
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(stack_size);

/* Clang must keep all of it. */
#define USED(bytes) asm volatile("" : : "r"(bytes) : "memory")

static __noinline int inner(void)
{
	__u64 bytes[40] = {};

	USED(bytes);
	return bytes[7];
}

static __always_inline int stack_size_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct stack_size_params *p)
{
	__u64 bytes[40] = {};

	USED(bytes);
	return inner() + bytes[7] == 8;
}

EMPTCP_SELECTOR(stack_size, EMPTCP_HOOKS_ALL, "5.10", "", /* expect: stack_size */
		"Too much stack");
