/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the loader writes into the instructions of a step. A step is a copy of
 * its module's instructions, and steps that follow each other are joined into
 * one program. The places that differ from copy to copy are marked with numbers
 * that nothing else uses; a program with a mark left in it is refused by the
 * kernel.
 */
#ifndef __EMPTCP_STEP_H__
#define __EMPTCP_STEP_H__

#include <emptcp/ctx.h>

/**
 * Whether this is so for the step: 0 or 1. No test, but a jump that the loader
 * leaves in place or takes out, with the code that nobody reaches any more.
 */
static __always_inline int emptcp_is(const enum emptcp_is what)
{
	asm goto("r0 = %[mark]\n\t"
		 "goto %l[yes]"
		 :
		 : [mark] "i"(EMPTCP_MARK_IS + what)
		 : "r0"
		 : yes);
	return 0;
yes:
	return 1;
}

/** A number of the step, which is part of the instruction: there is nothing to load. */
static __always_inline __u64 emptcp_number(const enum emptcp_number which)
{
	__u64 number;

	asm("%[n] = %[mark]" : [n] "=r"(number) : [mark] "i"(EMPTCP_MARK_NUMBER + which));
	return number;
}

/** Goes on with the step of this program to which the way leads; the loader puts a jump to it in
 * the place of "exit". */
#define EMPTCP_JUMP(ctx, way)                                                     \
	do {                                                                      \
		asm volatile("r1 = %[c]\n\t"                                      \
			     "r0 = %[mark]\n\t"                                   \
			     "exit"                                               \
			     :                                                    \
			     : [c] "r"(ctx), [mark] "i"(EMPTCP_MARK_JUMP + (way)) \
			     : "r0", "r1", "memory");                             \
		__builtin_unreachable();                                          \
	} while (0)

/*
 * The stack frame is that of all joined steps together: what one leaves here the
 * next ones find. The loader puts these places below all variables of the steps;
 * in assembly, because clang knows nothing of them.
 */
#define EMPTCP_FRAME_STORE(place, from)             \
	asm volatile("*(u64 *)(r10 + %[at]) = %[v]" \
		     :                              \
		     : [at] "i"(EMPTCP_FRAME_##place), [v] "r"(from))
#define EMPTCP_FRAME_LOAD(to, place) \
	asm("%[v] = *(u64 *)(r10 + %[at])" : [v] "=r"(to) : [at] "i"(EMPTCP_FRAME_##place))

#endif /* __EMPTCP_STEP_H__ */
