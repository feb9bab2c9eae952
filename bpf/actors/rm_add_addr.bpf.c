// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>
#include <emptcp/stash.h>

enum rm_add_addr_mode {
	RM_ADD_ADDR_AUTO,
	RM_ADD_ADDR_POISON,
	RM_ADD_ADDR_NOP,
	RM_ADD_ADDR_DROP,
};

struct rm_add_addr_params {
	enum rm_add_addr_mode mode EMPTCP_DOC(
		"poison: a wrong HMAC (version 1), so the receiver ignores it; nop: NOPs where "
		"that "
		"does not make the connection plain TCP; drop: pure ACKs; auto: nop beside a data "
		"ACK and for version 0, else poison; what the mode cannot do is left, as unsafe")
		EMPTCP_DEFAULT("auto");
};

struct rm_add_addr_scan {
	/* wanted: all announcements. */
	struct emptcp_scan common;
	/* HMACs of those of version 1. */
	__u64 hmacs;
	/* Not 0: there is one of version 0, which has none. */
	__u32 version0;
	/* Offset of the last one, by which the kernel goes. */
	__u32 last;
};

/* Sets of lengths: IPv4, IPv6, each with and without a port. */
#define RM_ADD_ADDR_LENS (1U << 8 | 1U << 10 | 1U << 20 | 1U << 22)

static __always_inline int rm_add_addr_visit(const struct tcpopt *opt, void *arg)
{
	__u32 flags = opt->at[2] & 15, len = opt->len & 31;
	struct rm_add_addr_scan *scan = arg;
	int announces, version0, version1;

	/* Echoes announce nothing, and without them the peer repeats itself. */
	announces = mptcp_subtype(opt->at) == MPTCP_ADD_ADDR && opt->len < 32 &&
		    !(flags & MPTCP_ADD_ADDR_ECHO);
	/*
	 * By the length, as the kernel goes, which takes no notice of the other flags. What has
	 * another length nobody takes for an announcement.
	 */
	version1 = announces && (RM_ADD_ADDR_LENS << TCPOLEN_MPTCP_ADD_ADDR_HMAC) >> len & 1;
	version0 = announces && RM_ADD_ADDR_LENS >> len & 1 && (flags == 4 || flags == 6);
	if (version1)
		scan->hmacs |= emptcp_span(opt->off + len - TCPOLEN_MPTCP_ADD_ADDR_HMAC,
					   TCPOLEN_MPTCP_ADD_ADDR_HMAC);
	if (version0)
		scan->version0 |= 1;
	/* The walk begins with the last one. */
	scan->last |= opt->off * (emptcp_is_zero(scan->last) & (version0 | version1));
	emptcp_scan_option(&scan->common, opt, version0 || version1);
	return TCPOPT_GO_ON;
}

static __always_inline int rm_add_addr_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct rm_add_addr_params *p)
{
	struct rm_add_addr_scan scan;
	struct emptcp_edit edit = {};
	int keeps;

	emptcp_look(ctx, pkt, &scan.common);
	scan.hmacs = emptcp_forget(0);
	scan.version0 = emptcp_forget(0);
	scan.last = emptcp_forget(0);
	mptcp_each(ctx, pkt, &scan.common.options, MPTCP_OPTIONS_MAX, rm_add_addr_visit, &scan);
	if (!scan.common.wanted)
		return EMPTCP_SKIP;
	/* Version 0 takes a DSS for a sign of Multipath TCP, and ADD_ADDR never. */
	keeps = !scan.hmacs || (scan.common.others & EMPTCP_OTHERS_KEEP);
	if (p->mode == RM_ADD_ADDR_DROP) {
		if (!emptcp_is_pure_ack(ctx, pkt))
			return -EMPTCP_REASON_UNSAFE;
	} else {
		if (scan.common.others & EMPTCP_OTHERS_SIGNED)
			return -EMPTCP_REASON_SIGNED;
		if (p->mode == RM_ADD_ADDR_POISON ? scan.version0
						  : p->mode == RM_ADD_ADDR_NOP && !keeps)
			return -EMPTCP_REASON_UNSAFE;
	}
	emptcp_stash_put(ctx, pkt, scan.last);
	if (p->mode == RM_ADD_ADDR_DROP)
		return EMPTCP_DROP;
	if (p->mode == RM_ADD_ADDR_POISON || !keeps) {
		/* Zeros, whatever it was: the same when done twice, and right once in 2^64. */
		emptcp_put(ctx, pkt, scan.hmacs, 0xff, 0, &edit);
		scan.common.wanted = 0;
	}
	emptcp_blank(ctx, pkt, scan.common.wanted, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

EMPTCP_ACTOR(rm_add_addr, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Suppresses ADD_ADDR: the receiver does not learn of an address; echoes pass");
