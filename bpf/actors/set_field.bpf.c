// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/edit.h>
#include <emptcp/module.h>

#define TCPOPT_MAXSEG 2
#define TCPOLEN_MAXSEG 4

struct set_field_params {
	__s32 dscp EMPTCP_DOC("DSCP (RFC 2474); -1: as it is") EMPTCP_DEFAULT("-1") EMPTCP_MIN("-1")
		EMPTCP_MAX("63");
	__s32 ecn EMPTCP_DOC("ECN of packets that are ECT (RFC 3168); -1: as it is")
		EMPTCP_DEFAULT("-1") EMPTCP_MIN("-1") EMPTCP_MAX("3");
	__s32 flow_label EMPTCP_DOC("Flow label of IPv6; -1: as it is") EMPTCP_DEFAULT("-1")
		EMPTCP_MIN("-1") EMPTCP_MAX("1048575");
	__u8 ttl EMPTCP_DOC("TTL or hop limit; 0: as it is");
	__u16 mss EMPTCP_DOC("Largest MSS of a SYN, never raised; 0: as it is");
	__s32 join_id EMPTCP_DOC("Address id of MP_JOIN in SYN and SYN/ACK; -1: as it is")
		EMPTCP_DEFAULT("-1") EMPTCP_MIN("-1") EMPTCP_MAX("255");
	__s32 prio_backup EMPTCP_DOC("B of MP_PRIO; -1: as it is") EMPTCP_DEFAULT("-1")
		EMPTCP_MIN("-1") EMPTCP_MAX("1");
	__s32 deny_join_id0 EMPTCP_DOC(
		"C of MP_CAPABLE: no further subflow to this address and port; -1: as it is")
		EMPTCP_DEFAULT("-1") EMPTCP_MIN("-1") EMPTCP_MAX("1");
};

struct set_field_scan {
	struct emptcp_scan common;
	__u64 ids;
	__u64 prios;
	__u64 capables;
};

static __always_inline int set_field_visit(const struct tcpopt *opt, void *arg)
{
	__u32 subtype = mptcp_subtype(opt->at);
	struct set_field_scan *scan = arg;

	if (subtype == MPTCP_MP_JOIN &&
	    (opt->len == TCPOLEN_MPTCP_MPJ_SYN || opt->len == TCPOLEN_MPTCP_MPJ_SYNACK))
		scan->ids |= emptcp_span(opt->off + offsetof(struct mptcp_join_syn, addr_id), 1);
	if (subtype == MPTCP_MP_PRIO && opt->len <= TCPOLEN_MPTCP_PRIO_ID)
		scan->prios |= emptcp_span(opt->off + offsetof(struct mptcp_prio, sub), 1);
	/* Version 0 has no such flag. */
	if (subtype == MPTCP_MP_CAPABLE && (opt->at[2] & 15) && opt->len >= TCPOLEN_MPTCP_MPC_SYN)
		scan->capables |= emptcp_span(opt->off + offsetof(struct mptcp_capable, flags), 1);
	return TCPOPT_GO_ON;
}

/* MSS: the offset of its number, 0 where there is nothing to do. */
static __always_inline __u32 set_field_mss(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   __u16 mss)
{
	__u32 off = tcpopt_find(ctx, pkt, TCPOPT_MAXSEG, TCPOLEN_MAXSEG);
	__u8 *opt;

	if (!off)
		return 0;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MAXSEG);
	if (!opt || opt[1] != TCPOLEN_MAXSEG || (opt[2] << 8 | opt[3]) <= mss)
		return 0;
	return off + 2;
}

/* ECN of a packet that may be ECT. */
static __always_inline __u32 set_field_tos(const struct set_field_params *p, __u32 tos)
{
	if (p->dscp >= 0)
		tos = (tos & 3) | (p->dscp & 63) << 2;
	/* Nobody told the ends that are not ECT what another codepoint means. */
	if (p->ecn >= 0 && (tos & 3))
		tos = (tos & ~3U) | (p->ecn & 3);
	return tos & 255;
}

static __always_inline __be16 set_field_csum(__be16 csum, __be16 from, __be16 to)
{
	__u32 sum = (__u16)~csum + (__u16)~from + to;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The first 16 bits and those of TTL and protocol; 1 where one has changed. */
static __always_inline int set_field_ip4(struct iphdr *ip, const struct set_field_params *p)
{
	__be16 *words = (void *)ip;
	__be16 first = words[0], fifth = words[4];
	__be16 csum = ip->check;
	__u32 host = bpf_ntohs(first);

	first = bpf_htons((host & 0xff00) | set_field_tos(p, host & 0xff));
	if (p->ttl)
		fifth = bpf_htons((bpf_ntohs(fifth) & 0xff) | p->ttl << 8);
	if (first == words[0] && fifth == words[4])
		return 0;
	csum = set_field_csum(csum, words[0], first);
	csum = set_field_csum(csum, words[4], fifth);
	words[0] = first;
	words[4] = fifth;
	ip->check = csum;
	return 1;
}

/* The first two words. 1 where one has changed, minus a reason where none could be written. */
static __always_inline int set_field_ip6(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 struct emptcp_pkt *again, const struct set_field_params *p)
{
	__be32 *words = (void *)again->ip6;
	__u32 first = bpf_ntohl(words[0]), second = bpf_ntohl(words[1]);
	__be32 was_first = words[0], was_second = words[1];

	first = (first & 0xf00fffff) | set_field_tos(p, first >> 20 & 255) << 20;
	if (p->flow_label >= 0)
		first = (first & ~0xfffffU) | (p->flow_label & 0xfffff);
	if (p->ttl)
		second = (second & ~255U) | p->ttl;
	first = bpf_htonl(first);
	second = bpf_htonl(second);
	if (first != was_first) {
		if (ctx_store_ip6(ctx, words, pkt->ip_off, first) || emptcp_again(ctx, pkt, again))
			return -EMPTCP_REASON_WRITE;
		words = (void *)again->ip6;
	}
	if (second != was_second &&
	    ctx_store_ip6(ctx, words + 1, pkt->ip_off + sizeof(*words), second))
		return -EMPTCP_REASON_WRITE;
	return first != was_first || second != was_second;
}

/* Edits what the options have; EMPTCP_NEXT, EMPTCP_SKIP or minus a reason. */
static __always_inline int set_field_options(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct set_field_params *p)
{
	struct emptcp_edit edit = {};
	struct set_field_scan scan;
	__u32 mss_off = 0;

	if (p->mss && pkt->tcp->syn)
		mss_off = set_field_mss(ctx, pkt, p->mss);
	emptcp_look(ctx, pkt, &scan.common);
	scan.ids = emptcp_forget(0);
	scan.prios = emptcp_forget(0);
	scan.capables = emptcp_forget(0);
	mptcp_each(ctx, pkt, &scan.common.options, MPTCP_OPTIONS_MAX, set_field_visit, &scan);
	/* Of what was not asked for, nothing is written. */
	if (p->join_id < 0)
		scan.ids = 0;
	if (p->prio_backup < 0)
		scan.prios = 0;
	if (p->deny_join_id0 < 0)
		scan.capables = 0;
	if (!mss_off && !(scan.ids | scan.prios | scan.capables))
		return EMPTCP_SKIP;
	if (scan.common.others & EMPTCP_OTHERS_SIGNED)
		return -EMPTCP_REASON_SIGNED;
	if (p->mss && mss_off) {
		emptcp_put(ctx, pkt, emptcp_span(mss_off, 1), 0xff, p->mss >> 8, &edit);
		emptcp_put(ctx, pkt, emptcp_span(mss_off + 1, 1), 0xff, p->mss, &edit);
	}
	if (p->join_id >= 0)
		emptcp_put(ctx, pkt, scan.ids, 0xff, p->join_id, &edit);
	if (p->prio_backup >= 0)
		emptcp_put(ctx, pkt, scan.prios, MPTCP_BACKUP, p->prio_backup, &edit);
	if (p->deny_join_id0 >= 0)
		emptcp_put(ctx, pkt, scan.capables, MPTCP_CAP_DENY_JOIN_ID0,
			   p->deny_join_id0 ? MPTCP_CAP_DENY_JOIN_ID0 : 0, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

static __always_inline int set_field_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct set_field_params *p)
{
	struct emptcp_pkt again;
	int done = EMPTCP_SKIP, written = 0;

	if (p->mss || p->join_id >= 0 || p->prio_backup >= 0 || p->deny_join_id0 >= 0)
		done = set_field_options(ctx, pkt, p);
	if (done < 0)
		return done;
	/* No signature covers the fields of the IP header below (RFC 2385, RFC 5925). */
	if (p->dscp < 0 && p->ecn < 0 && p->flow_label < 0 && !p->ttl)
		return done;
	if (emptcp_again(ctx, pkt, &again))
		return -EMPTCP_REASON_TRUNCATED;
	if (again.version == 4)
		written = set_field_ip4(again.ip4, p);
	else
		written = set_field_ip6(ctx, pkt, &again, p);
	if (written < 0)
		return written;
	return written ? EMPTCP_NEXT : done;
}

EMPTCP_ACTOR(set_field, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS,
	     "Sets fields of the IP header and of options that are there");
