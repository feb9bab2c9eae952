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

/* Beside the names: a DSS that stays has a data ACK; an option of no name. */
#define RM_OPTION_DATA_ACK 56
#define RM_OPTION_NAMELESS 63
/* TCP-MD5 and TCP-AO, by their kinds: nobody can name them. */
#define RM_OPTION_SIGNED (1ULL << TCPOPT_MD5SIG | 1ULL << TCPOPT_AO)

struct rm_option_scan {
	/* Names of options that are there, whether they are to go or not. */
	__u64 found;
	/* Bytes of those that are. */
	__u64 wanted;
	__u64 named;
};

static __always_inline int rm_option_visit(const struct tcpopt *opt, void *arg)
{
	struct rm_option_scan *scan = arg;
	__u32 name = opt->at[0];
	__u64 wanted;

	if (name == TCPOPT_MPTCP && tcpopt_has(opt, TCPOLEN_MPTCP_MIN)) {
		name = RM_OPTION_MPTCP + mptcp_subtype(opt->at);
		/* What stands beside an ADD_ADDR that goes. */
		if (scan->named & RM_OPTION_BIT(ADD_ADDR) && name == RM_OPTION_DSS &&
		    tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
			scan->found |= (__u64)(opt->at[3] & MPTCP_DSS_HAS_ACK)
				       << RM_OPTION_DATA_ACK;
	} else if (name >= RM_OPTION_MPTCP) {
		name = RM_OPTION_NAMELESS;
	}
	/* On some ways the verifier knows it, and would know the bit in what is found from then on.
	 */
	name = emptcp_forget(name) & 63;
	wanted = scan->named >> name & 1;
	scan->found |= 1ULL << name;
	scan->wanted |= emptcp_span(opt->off, opt->len) & -wanted;
	return TCPOPT_GO_ON;
}

/* Of the MPTCP options that stay, as emptcp_scan.others. */
static __always_inline __u32 rm_option_others(const struct rm_option_scan *scan)
{
	__u64 stay = scan->found & ~scan->named;
	__u32 others = stay >> RM_OPTION_MPTCP & EMPTCP_OTHERS_MPTCP;

	if (stay & RM_OPTION_BIT(DSS) && scan->found >> RM_OPTION_DATA_ACK & 1)
		others |= EMPTCP_OTHERS_DATA_ACK;
	return others;
}

/* Bits of byte 13 of the TCP header (RFC 9293, 3.1). */
#define RM_OPTION_FLAGS_BYTE 13
#define RM_OPTION_FLAG_SYN 0x02
#define RM_OPTION_FLAG_RST 0x04
#define RM_OPTION_FLAG_ACK 0x10

/* Names of options that a packet with these flags can do without. */
static __always_inline __u64 rm_option_safe(__u8 flags, __u32 others)
{
	__u64 safe = RM_OPTION_IN_OTHERS;

	if (flags & RM_OPTION_FLAG_SYN)
		return flags & RM_OPTION_FLAG_ACK ? RM_OPTION_IN_SYNACK : RM_OPTION_IN_SYN;
	if (flags & RM_OPTION_FLAG_RST)
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
	/* Read before the walk: afterwards the pointer would have to be found again. */
	__u8 flags = ((const __u8 *)pkt->tcp)[RM_OPTION_FLAGS_BYTE];
	struct emptcp_edit edit = {};

	/* Of which the verifier must not know that it is nothing: so that the rounds join. */
	scan.found = emptcp_forget(0);
	scan.wanted = emptcp_forget(0);
	tcpopt_walk(ctx, pkt, TCPOPT_ANY, 2, rm_option_visit, &scan);
	if (!scan.wanted)
		return EMPTCP_SKIP;
	if (scan.found & RM_OPTION_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	if (!p->force &&
	    (scan.found & scan.named & ~rm_option_safe(flags, rm_option_others(&scan))))
		return -EMPTCP_REASON_UNSAFE;
	emptcp_blank(ctx, pkt, scan.wanted, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

EMPTCP_ACTOR(rm_option, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Blanks options of TCP and Multipath TCP; leaves packets that cannot do without");
