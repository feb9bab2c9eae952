/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An actor that puts something into packets, and meets one that has no room for it, notes the
 * direction of the subflow here; `emptcp run` sends a pure ACK there, which the chains treat as any
 * other. Without `emptcp run` it waits for the next packet with room.
 */
#ifndef __EMPTCP_WAIT_H__
#define __EMPTCP_WAIT_H__

#include <emptcp/clock.h>
#include <emptcp/module.h>
#include <emptcp/pending.h>

/** The oldest go first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct emptcp_pending);
	__uint(max_entries, 16384);
} pending SEC(".maps") EMPTCP_KEPT;

/** Notes that the packet's direction of a subflow waits, if the packet has timestamps and an option
 * of Multipath TCP behind them, as almost all have; else the next one notes it. key: of
 * emptcp_subflow_of(). */
static __always_inline void emptcp_wait(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct emptcp_subflow *key)
{
	const struct emptcp_pending *before = bpf_map_lookup_elem(&pending, key);
	const __u32 *usual = (const void *)(pkt->tcp + 1);
	struct emptcp_pending now = {};

	if (before && !before->changed)
		return;
	if ((const void *)(usual + 4) > ctx_data_end(ctx) || pkt->tcp_len < 36 ||
	    *usual != bpf_htonl(0x0101080a) || *(const __u8 *)(usual + 3) != TCPOPT_MPTCP)
		return;
	now.at = emptcp_boot_now();
	bpf_map_update_elem(&pending, key, &now, BPF_ANY);
}

/** Notes that a direction of a subflow waits of which no packet is at hand; what is noted already
 * stays. key: as packets of the direction have it; now: of emptcp_boot_now(). */
static __always_inline void emptcp_wait_for(const struct emptcp_subflow *key, __u64 now)
{
	struct emptcp_pending value = {.at = now};

	bpf_map_update_elem(&pending, key, &value, BPF_NOEXIST);
}

/** Notes that it waits no more. */
static __always_inline void emptcp_wait_over(const struct emptcp_subflow *key)
{
	bpf_map_delete_elem(&pending, key);
}

#endif /* __EMPTCP_WAIT_H__ */
