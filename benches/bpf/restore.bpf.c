// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Stands before whatever is measured. A test run repeats on the packet as the
 * run before left it: this gives the packet (IPv4, no VLAN tag) its window and
 * its checksum back, then goes on to slot 0.
 */
#include <emptcp/chain.h>

#define TCP_AT (sizeof(struct ethhdr) + sizeof(struct iphdr))

const volatile struct {
	__be16 window;
	__be16 check;
} original = {};

char _license[] SEC("license") = "Dual BSD/GPL";

SEC(EMPTCP_CTX_SECTION)
int restore(struct emptcp_ctx *ctx)
{
	struct tcphdr *tcp = ctx_data(ctx) + TCP_AT;

	if ((void *)(tcp + 1) > ctx_data_end(ctx))
		return CTX_DROP;
	tcp->window = original.window;
	tcp->check = original.check;
	EMPTCP_TAIL_CALL(ctx, &progs, 0);
	return CTX_DROP;
}
