// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/event.h>
#include <emptcp/once.h>

struct event_params {
	struct emptcp_text name EMPTCP_DOC("What the event is called") EMPTCP_REQUIRED;
};

/** A subflow of which a step has told; the same subflow for both directions. */
struct event_key {
	struct emptcp_subflow subflow;
	emptcp_step_id step;
	__u32 pad;
};

struct event_told {
	/** CLOCK_BOOTTIME. */
	emptcp_time at;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct event_key);
	__type(value, struct event_told);
	__uint(max_entries, 65536);
} events_told SEC(".maps") EMPTCP_KEPT;

static __always_inline int event_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct event_params *p)
{
	struct event_key key = {.step = pkt->links->step};
	struct event_told told;
	int ret;

	if (!emptcp_ring_reader_of(&event_reader, &told.at))
		return EMPTCP_SKIP;
	emptcp_track_key_of(pkt, &key.subflow);
	/* A new subflow with these ports. */
	if (pkt->tcp->syn && !pkt->tcp->ack)
		bpf_map_delete_elem(&events_told, &key);
	ret = emptcp_claim(&events_told, &key, &told, BPF_NOEXIST);
	if (ret != EMPTCP_NEXT)
		return ret;
	return emptcp_event_threshold(ctx, pkt, &p->name);
}

EMPTCP_ACTOR(event, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES "," EMPTCP_TRACKED,
	     "Tells `emptcp monitor` of a subflow, once in each step, while it runs");
