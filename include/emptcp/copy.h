/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is remembered of a copy of a packet, until it comes by (carrier.h, add_option.h). */
#ifndef __EMPTCP_COPY_H__
#define __EMPTCP_COPY_H__

#include <emptcp/ctx.h>

/** A copy that was sent and will be the carrier of an option when it comes by. */
struct emptcp_copy {
	/** When, ns of CLOCK_BOOTTIME; 0: none. */
	__u64 at;
	/** By these it is known: sequence number and bytes of payload. */
	__u32 seq;
	__u32 payload;
};

#endif /* __EMPTCP_COPY_H__ */
