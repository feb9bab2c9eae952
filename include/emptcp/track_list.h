/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tracker: lists the subflows of a connection (listed.h). */
#ifndef __EMPTCP_TRACK_LIST_H__
#define __EMPTCP_TRACK_LIST_H__

#include <emptcp/event.h>
#include <emptcp/listed.h>

/*
 * Functions that the verifier looks at once. The subflow is that of the record of the CPU, from
 * its lower to its higher end. They return 0.
 */

/** Lists the record's subflow among those of its connection, unless it is there; wanted: 0 does
 * nothing. Asked without a condition: on Linux 5.10 the verifier follows each way to the end. */
__noinline int track_list(__u32 wanted)
{
	union emptcp_event_record *record = emptcp_event_record();
	const struct emptcp_track_subflow *sub;
	struct emptcp_track_place at = {};
	const struct emptcp_subflow *other, *key;

	if (!record || !wanted)
		return 0;
	key = &record->event.subflow;
	sub = bpf_map_lookup_elem(&subflows, key);
	if (!sub || sub->flags & EMPTCP_TRACK_REOPENS) {
		const struct emptcp_track_subflow *half = bpf_map_lookup_elem(&half_open, key);

		if (half)
			sub = half;
	}
	asm volatile("" : "+r"(sub));
	if (!sub || !(sub->flags & (EMPTCP_TRACK_TIED | EMPTCP_TRACK_NAMES)))
		return 0;
	at.conn = sub->conn;
	for (int i = 0; i < EMPTCP_TRACK_LIST_MAX; i++) {
		at.place = i;
		other = bpf_map_lookup_elem(&conn_subflows, &at);
		if (other && emptcp_subflow_equal(other, key))
			return 0;
	}
	/* Two that come at once do not take one place. */
	for (int i = 0; i < EMPTCP_TRACK_LIST_MAX; i++) {
		at.place = i;
		if (!bpf_map_update_elem(&conn_subflows, &at, key, BPF_NOEXIST))
			return 0;
	}
	for (int i = 0; i < EMPTCP_TRACK_LIST_MAX; i++) {
		if (emptcp_listed_at(at.conn.token, at.conn.zone, i) != EMPTCP_LISTED_GONE)
			continue;
		at.place = i;
		bpf_map_update_elem(&conn_subflows, &at, key, BPF_ANY);
		return 0;
	}
	return 0;
}

/** Takes the record's subflow off the list of a connection; all: not 0 takes all of them off. */
__noinline int track_unlist(emptcp_token token, __u32 zone, __u32 all)
{
	struct emptcp_track_place at = {.conn = {.token = token, .zone = zone}};
	union emptcp_event_record *record = emptcp_event_record();
	const struct emptcp_subflow *other;

	if (!record)
		return 0;
	for (int i = 0; i < EMPTCP_TRACK_LIST_MAX; i++) {
		at.place = i;
		other = bpf_map_lookup_elem(&conn_subflows, &at);
		if (other && (all || emptcp_subflow_equal(other, &record->event.subflow)))
			bpf_map_delete_elem(&conn_subflows, &at);
	}
	return 0;
}

#endif /* __EMPTCP_TRACK_LIST_H__ */
