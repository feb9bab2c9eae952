// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes down what the helpers that read find in a packet. */
#include <emptcp/edit.h>
#include <emptcp/length.h>
#include <emptcp/module.h>

struct toolkit_look_params {
	__u8 kind EMPTCP_DOC("Kind of option to look for; 0: any") EMPTCP_REQUIRED;
	__u8 least EMPTCP_DOC("Its least length") EMPTCP_DEFAULT("2");
	__u8 subtype EMPTCP_DOC("MPTCP subtype to look for") EMPTCP_REQUIRED;
};

struct seen {
	/* Set of offsets from the end of the fixed header: options of the kind. */
	__u64 walked;
	/* The same: bytes of options of the subtype. */
	__u64 wanted;
	__u32 others;
	__u32 found;
	__u32 mptcp;
	__u32 subtype;
	__u32 pure_ack;
	__u32 ip_len;
	__u32 payload_len;
	__u32 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct seen);
	__uint(max_entries, 1);
} seen SEC(".maps");

struct look {
	struct emptcp_scan scan;
	__u64 walked;
	__u32 subtype;
};

static __always_inline int walked(const struct tcpopt *opt, void *arg)
{
	struct look *look = arg;

	look->walked |= emptcp_span(opt->off, 1);
	return TCPOPT_GO_ON;
}

static __always_inline int visited(const struct tcpopt *opt, void *arg)
{
	struct look *look = arg;

	emptcp_scan_option(&look->scan, opt, mptcp_subtype(opt->at) == look->subtype);
	return TCPOPT_GO_ON;
}

static __always_inline int toolkit_look_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct toolkit_look_params *p)
{
	struct look look = {.subtype = p->subtype};
	struct emptcp_pkt again;
	struct seen *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&seen, &zero);
	if (!s)
		return -EMPTCP_REASON_MAP_FULL;
	look.walked = emptcp_forget(0);
	tcpopt_walk(ctx, pkt, p->kind, p->least, walked, &look);
	s->walked = look.walked;
	s->found = tcpopt_find(ctx, pkt, p->kind, p->least);
	s->mptcp = mptcp_find(ctx, pkt);
	s->subtype = mptcp_find_subtype(ctx, pkt, p->subtype, TCPOLEN_MPTCP_MIN);
	emptcp_look(ctx, pkt, &look.scan);
	mptcp_each(ctx, pkt, &look.scan.options, MPTCP_OPTIONS_MAX, visited, &look);
	s->wanted = look.scan.wanted;
	s->others = look.scan.others;
	if (emptcp_again(ctx, pkt, &again))
		return -EMPTCP_REASON_TRUNCATED;
	s->pure_ack = emptcp_is_pure_ack(ctx, &again);
	s->ip_len = emptcp_ip_len(ctx, &again);
	s->payload_len = emptcp_payload_len(ctx, &again);
	s->runs++;
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(toolkit_look, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Writes down what helpers find");
