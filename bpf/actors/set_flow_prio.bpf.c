// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/clock.h>
#include <emptcp/module.h>
#include <emptcp/once.h>
#include <emptcp/replace.h>

struct set_flow_prio_params {
	emptcp_bool backup EMPTCP_DOC(
		"Whether who receives these packets shall treat the subflow as backup when it "
		"sends") EMPTCP_REQUIRED;
	emptcp_bool replace EMPTCP_DOC("An ACK without room gives up its SACK blocks for it; else "
				       "the next one is tried") EMPTCP_DEFAULT("true");
};

/* What was last asked for in this direction of a subflow, by whichever step. */
struct set_flow_prio_wish {
	/* CLOCK_BOOTTIME. */
	emptcp_time at;
	emptcp_bool backup;
	__u8 pad[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, struct set_flow_prio_wish);
	__uint(max_entries, 65536);
} prio_wishes SEC(".maps") EMPTCP_KEPT;

/* Chains that contradict each other would else fill each ACK with what the other one wants. */
#define SET_FLOW_PRIO_PAUSE_NS 100000000LL

static __always_inline int set_flow_prio_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct set_flow_prio_params *p)
{
	__u8 option[4] __attribute__((aligned(4))) = {
		TCPOPT_MPTCP,
		TCPOLEN_MPTCP_PRIO,
		MPTCP_MP_PRIO << 4 | (p->backup & MPTCP_BACKUP),
		TCPOPT_NOP,
	};
	struct set_flow_prio_wish wish = {.backup = p->backup};
	const struct set_flow_prio_wish *last;
	struct emptcp_room room = {};
	struct emptcp_subflow key;
	struct emptcp_scan scan;
	__u32 how = BPF_NOEXIST;
	int ret;

	if (!pkt->tcp->syn && !emptcp_can_carry(ctx, pkt))
		return EMPTCP_SKIP;
	emptcp_subflow_of(pkt, &key);
	if (pkt->tcp->syn) {
		/* A new subflow with these ports. */
		bpf_map_delete_elem(&prio_wishes, &key);
		return EMPTCP_SKIP;
	}
	last = bpf_map_lookup_elem(&prio_wishes, &key);
	if (last && last->backup == wish.backup)
		return EMPTCP_SKIP;
	wish.at = emptcp_boot_now();
	if (last) {
		/* Another CPU's time may lie ahead. */
		if ((__s64)(wish.at - last->at) < SET_FLOW_PRIO_PAUSE_NS)
			return EMPTCP_SKIP;
		how = BPF_EXIST;
	}
	/* One state for the verifier, else it looks at all that follows twice. */
	how = emptcp_forget(how);
	ret = emptcp_may_grow(ctx, pkt, sizeof(option), &scan);
	/* The DSS always fits beside it. */
	if (ret == -EMPTCP_REASON_NO_ROOM && p->replace)
		ret = emptcp_may_replace(ctx, pkt, sizeof(option), 0, &scan, &room);
	if (ret != EMPTCP_NEXT)
		return ret;
	/* Of two in one packet the kernel takes the last one. */
	if (scan.others & 1 << MPTCP_MP_PRIO)
		return EMPTCP_SKIP;
	ret = emptcp_claim(&prio_wishes, &key, &wish, how);
	if (ret != EMPTCP_NEXT)
		return ret;
	ret = emptcp_grow_or_replace(ctx, pkt, option, sizeof(option), &room);
	if (ret != EMPTCP_NEXT)
		bpf_map_delete_elem(&prio_wishes, &key);
	return ret;
}

EMPTCP_ACTOR(
	set_flow_prio, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS,
	"Makes a subflow backup, or not: MP_PRIO in one ACK to the end that is to stop sending");
