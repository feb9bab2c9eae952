// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>

/* Kinds of TCP (below 40), and subtypes of Multipath TCP with 40 more. */
enum rm_option_name {
	RM_OPTION_MSS = 2,
	RM_OPTION_WSCALE = 3,
	RM_OPTION_SACKOK = 4,
	RM_OPTION_SACK = 5,
	RM_OPTION_TIMESTAMPS = 8,
	RM_OPTION_USER_TIMEOUT = 28,
	RM_OPTION_FASTOPEN = 34,
	RM_OPTION_MP_CAPABLE = 40,
	RM_OPTION_MP_JOIN = 41,
	RM_OPTION_DSS = 42,
	RM_OPTION_ADD_ADDR = 43,
	RM_OPTION_REMOVE_ADDR = 44,
	RM_OPTION_MP_PRIO = 45,
	RM_OPTION_MP_FAIL = 46,
	RM_OPTION_MP_FASTCLOSE = 47,
	RM_OPTION_MP_TCPRST = 48,
	RM_OPTION_MP_EXPERIMENTAL = 55,
};

#define RM_OPTION_MPTCP 40
#define RM_OPTION_BIT(name) (1ULL << RM_OPTION_##name)
#define RM_OPTION_MPTCP_BITS (0xffffULL << RM_OPTION_MPTCP)

struct rm_option_params {
	EMPTCP_SET(enum rm_option_name)
	options EMPTCP_DOC("Options that become NOPs") EMPTCP_REQUIRED;
	emptcp_bool force EMPTCP_DOC(
		"Also where that breaks connections; else such packets are left, as unsafe");
};

/* In a SYN, what the peer then does not offer is off at both ends. */
#define RM_OPTION_IN_SYN                                                             \
	(RM_OPTION_BIT(MSS) | RM_OPTION_BIT(WSCALE) | RM_OPTION_BIT(SACKOK) |        \
	 RM_OPTION_BIT(SACK) | RM_OPTION_BIT(TIMESTAMPS) | RM_OPTION_BIT(FASTOPEN) | \
	 RM_OPTION_BIT(USER_TIMEOUT) | RM_OPTION_BIT(MP_CAPABLE))
/* In a SYN/ACK, its sender takes for agreed on what the receiver does not know of. */
#define RM_OPTION_IN_SYNACK                                                   \
	(RM_OPTION_BIT(MSS) | RM_OPTION_BIT(SACK) | RM_OPTION_BIT(FASTOPEN) | \
	 RM_OPTION_BIT(USER_TIMEOUT))
/* In others: SACK is a hint; what belongs to the handshake means nothing. */
#define RM_OPTION_IN_OTHERS                                                   \
	(RM_OPTION_BIT(MSS) | RM_OPTION_BIT(WSCALE) | RM_OPTION_BIT(SACKOK) | \
	 RM_OPTION_BIT(SACK) | RM_OPTION_BIT(FASTOPEN) | RM_OPTION_BIT(USER_TIMEOUT))
/* Beside another option that says "Multipath TCP". */
#define RM_OPTION_NOT_LAST                                                                \
	(RM_OPTION_BIT(REMOVE_ADDR) | RM_OPTION_BIT(MP_PRIO) | RM_OPTION_BIT(MP_TCPRST) | \
	 RM_OPTION_BIT(MP_EXPERIMENTAL))

struct rm_option_scan {
	struct emptcp_scan common;
	/* Names of options that are there. */
	__u64 found;
	__u64 named;
};

static __always_inline int rm_option_look(const struct tcpopt *opt, void *arg)
{
	struct rm_option_scan *scan = arg;
	__u32 kind = opt->at[0];
	__u64 wanted;

	wanted = (scan->named & ~RM_OPTION_MPTCP_BITS) >> (kind & 63) & emptcp_is_zero(kind >> 6);
	scan->found |= wanted << (kind & 63);
	scan->common.wanted |= emptcp_span(opt->off, opt->len) & -wanted;
	return emptcp_look_visit(opt, &scan->common);
}

static __always_inline int rm_option_visit(const struct tcpopt *opt, void *arg)
{
	__u32 name = RM_OPTION_MPTCP + mptcp_subtype(opt->at);
	struct rm_option_scan *scan = arg;
	__u64 wanted = scan->named >> name & 1;

	scan->found |= wanted << name;
	emptcp_scan_option(&scan->common, opt, wanted);
	return TCPOPT_GO_ON;
}

/* Names of options that this packet can do without. */
static __always_inline __u64 rm_option_safe(const struct tcphdr *tcp, __u32 others)
{
	__u64 safe = RM_OPTION_IN_OTHERS;

	if (tcp->syn)
		return tcp->ack ? RM_OPTION_IN_SYNACK : RM_OPTION_IN_SYN;
	if (tcp->rst)
		return safe | RM_OPTION_BIT(TIMESTAMPS) | RM_OPTION_BIT(MP_TCPRST);
	if (others & EMPTCP_OTHERS_MPTCP)
		safe |= RM_OPTION_NOT_LAST;
	if (others & EMPTCP_OTHERS_KEEP)
		safe |= RM_OPTION_BIT(ADD_ADDR);
	return safe;
}

static __always_inline int rm_option_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct rm_option_params *p)
{
	struct rm_option_scan scan = {.named = p->options.bits};
	struct emptcp_edit edit = {};
	struct emptcp_pkt again;

	emptcp_scan_begin(&scan.common);
	scan.found = emptcp_forget(0);
	tcpopt_walk(ctx, pkt, TCPOPT_ANY, 2, rm_option_look, &scan);
	if (p->options.bits & RM_OPTION_MPTCP_BITS)
		mptcp_each(ctx, pkt, &scan.common.options, MPTCP_OPTIONS_MAX, rm_option_visit,
			   &scan);
	if (!scan.common.wanted)
		return EMPTCP_SKIP;
	if (scan.common.others & EMPTCP_OTHERS_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	if (!p->force) {
		if (emptcp_again(ctx, pkt, &again) ||
		    (scan.found & ~rm_option_safe(again.tcp, scan.common.others)))
			return -EMPTCP_REASON_UNSAFE;
	}
	emptcp_blank(ctx, pkt, scan.common.wanted, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

EMPTCP_ACTOR(rm_option, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Blanks options of TCP and Multipath TCP; leaves packets that cannot do without");
