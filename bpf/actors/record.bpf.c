// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

EMPTCP_NO_PARAMS(record);

struct record_key {
	struct emptcp_subflow subflow;
	/* Number of the step: two steps that record count apart. */
	emptcp_step_id step;
	__u32 pad;
};

struct record_value {
	__u64 packets;
	emptcp_bytes bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct record_key);
	__type(value, struct record_value);
	__uint(max_entries, 65536);
} records SEC(".maps") EMPTCP_KEPT;

static __always_inline int record_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct record_params *p)
{
	__u32 headers = pkt->tcp_off + pkt->tcp_len;
	__u32 segments = ctx_segments(ctx);
	struct record_value *value, first = {};
	struct record_key key = {
		.subflow.sport = bpf_ntohs(pkt->tcp->source),
		.subflow.dport = bpf_ntohs(pkt->tcp->dest),
		.subflow.zone = pkt->links->zone,
		.step = pkt->links->step,
	};

	emptcp_saddr(pkt, &key.subflow.src);
	emptcp_daddr(pkt, &key.subflow.dst);
	value = bpf_map_lookup_elem(&records, &key);
	if (!value) {
		bpf_map_update_elem(&records, &key, &first, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&records, &key);
		if (!value)
			return -EMPTCP_REASON_MAP_FULL;
	}
	__sync_fetch_and_add(&value->packets, segments);
	/* Each segment of a GSO packet has headers of its own on the wire. */
	__sync_fetch_and_add(&value->bytes,
			     ctx_len(ctx, emptcp_is(EMPTCP_IS_FRAGS)) + (segments - 1) * headers);
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(record, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Counts packets and bytes of each subflow");
