// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A program of another type. */
#include <emptcp/module.h>

char _license[] SEC("license") = "GPL";

SEC("kprobe/tcp_sendmsg") int other_section(void *ctx)
{
	return 0;
}
