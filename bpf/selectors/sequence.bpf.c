// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

enum sequence_of {
	/* Data sequence number of a DSS mapping. */
	SEQUENCE_DSN,
	/* Subflow sequence number of a DSS mapping, relative to the initial one. */
	SEQUENCE_SSN,
	/* That of the TCP header. */
	SEQUENCE_TCP,
};

struct sequence_params {
	__u64 first EMPTCP_DOC("First number of the range") EMPTCP_REQUIRED;
	__u64 last EMPTCP_DOC("Last number; less than the first where the range passes zero")
		EMPTCP_REQUIRED;
	enum sequence_of of EMPTCP_DOC("Data or relative subflow sequence number of a DSS mapping, "
				       "or number of the TCP header; what has 32 bits in the "
				       "packet is compared modulo 2^32") EMPTCP_DEFAULT("dsn");
};

/*
 * Modulo 2^32. A range of more numbers than that holds all; one of two numbers of
 * 32 bits has never more, also where it passes zero.
 */
static __always_inline int sequence_holds32(const struct sequence_params *p, __u32 number)
{
	__u64 span = p->last - p->first;

	if (span >> 32 && (p->first | p->last) >> 32)
		return 1;
	return number - (__u32)p->first <= (__u32)span;
}

static __always_inline int sequence_visit(const struct tcpopt *opt, void *arg)
{
	const struct sequence_params *p = arg;
	const __u8 *map;
	__u32 flags, wide;
	int holds;

	if (mptcp_subtype(opt->at) != MPTCP_DSS || !tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
		return TCPOPT_GO_ON;
	flags = opt->at[3];
	if (!(flags & MPTCP_DSS_HAS_MAP) || !mptcp_dss_is_whole(flags, opt->len))
		return TCPOPT_GO_ON;
	map = opt->at + (emptcp_forget(mptcp_dss_map_off(flags)) & 15);
	wide = flags & MPTCP_DSS_DSN64;
	if ((const void *)(map + 8) > opt->end)
		return TCPOPT_GO_ON;
	if (p->of == SEQUENCE_SSN) {
		map += wide ? 8 : 4;
		if ((const void *)(map + 4) > opt->end)
			return TCPOPT_GO_ON;
		holds = sequence_holds32(p, mptcp_be32(map));
	} else if (wide) {
		holds = mptcp_be64(map) - p->first <= p->last - p->first;
	} else {
		holds = sequence_holds32(p, mptcp_be32(map));
	}
	return holds ? TCPOPT_STOP : TCPOPT_GO_ON;
}

static __always_inline int sequence_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct sequence_params *p)
{
	if (p->of == SEQUENCE_TCP)
		return sequence_holds32(p, bpf_ntohl(pkt->tcp->seq));
	return mptcp_walk(ctx, pkt, TCPOLEN_MPTCP_DSS_BASE, sequence_visit, (void *)p) != 0;
}

EMPTCP_SELECTOR(sequence, EMPTCP_HOOKS_ALL, "5.10", "",
		"Sequence number with which the packet's mapping or payload begins is in a range");
