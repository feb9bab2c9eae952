/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What all writers of rings do: see whether somebody reads, begin a record, count what is lost. */
#ifndef __EMPTCP_RING_WRITE_H__
#define __EMPTCP_RING_WRITE_H__

#include <emptcp/ctx.h>
#include <emptcp/ring.h>
#include <emptcp/types.h>

/** Where records were lost: the key of a map of losses. */
struct emptcp_ring_place {
	emptcp_step_id step;
	emptcp_ifindex ifindex;
};

/**
 * What the reader of a ring asks for; NULL: nobody reads. readers: array of one
 * struct emptcp_ring_reader. *now: CLOCK_BOOTTIME in nanoseconds, if somebody
 * does.
 */
static __always_inline const struct emptcp_ring_reader *emptcp_ring_reader_of(void *readers,
									      __u64 *now)
{
	const struct emptcp_ring_reader *reader;
	__u32 zero = 0;
	__u64 until;

	reader = bpf_map_lookup_elem(readers, &zero);
	if (!reader)
		return NULL;
	until = *(const volatile __u64 *)&reader->until;
	if (!until)
		return NULL;
	*now = bpf_ktime_get_boot_ns();
	return *now < until ? reader : NULL;
}

/** Fills in where a record comes from. */
static __always_inline void emptcp_ring_leave(struct emptcp_ring_head *head,
					      const struct emptcp_links *links)
{
	head->version = EMPTCP_RING_VERSION;
	head->step = links->step;
	head->zone = links->zone;
	head->hook = links->hook;
	head->framing = links->framing;
}

/** Fills in when, in CLOCK_BOOTTIME, and at which interface. */
static __always_inline void emptcp_ring_stamp(struct emptcp_ring_head *head, struct emptcp_ctx *ctx,
					      __u64 time)
{
	head->time = time;
	head->ifindex = ctx_ifindex(ctx);
}

/**
 * Counts a record that a ring had no room for. losses: map of struct
 * emptcp_ring_place to a structure of one __u64. Of more places than it holds
 * nothing is known.
 */
static __always_inline void emptcp_ring_lose(void *losses, const struct emptcp_ring_head *head)
{
	struct emptcp_ring_place place = {.step = head->step, .ifindex = head->ifindex};
	__u64 *lost, none = 0;

	lost = bpf_map_lookup_elem(losses, &place);
	if (!lost) {
		bpf_map_update_elem(losses, &place, &none, BPF_NOEXIST);
		lost = bpf_map_lookup_elem(losses, &place);
	}
	if (lost)
		__sync_fetch_and_add(lost, 1);
}

#endif /* __EMPTCP_RING_WRITE_H__ */
