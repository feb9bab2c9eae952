/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tracker: options that it reads. */
#ifndef __EMPTCP_TRACK_OPTIONS_H__
#define __EMPTCP_TRACK_OPTIONS_H__

#include <emptcp/module.h>
#include <emptcp/edit.h>
#include <emptcp/track.h>

/** Window scale (RFC 7323, 2.2). */
#define TCPOPT_WINDOW 3
#define TCPOLEN_WINDOW 3
#define TCP_WSCALE_MAX 14

/*
 * Walks through options are functions that the verifier looks at once: what it
 * knows of subflows would else multiply with each round. They take where the TCP
 * header is, and how long.
 */
static __always_inline struct emptcp_pkt track_at(struct emptcp_ctx *ctx, __u32 tcp_off,
						  __u32 tcp_len)
{
	tcp_off &= EMPTCP_OFF_MASK;
	return (struct emptcp_pkt){
		.tcp = ctx_data(ctx) + tcp_off,
		.tcp_off = tcp_off,
		.tcp_len = tcp_len & 63,
	};
}

/** Offset of the window scale from the start of the TCP header; 0: none. */
__noinline int track_find_wscale(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return tcpopt_find(ctx, &pkt, TCPOPT_WINDOW, TCPOLEN_WINDOW);
}

/** Offset of timestamps, wherever they are. */
__noinline int track_find_timestamps(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return tcpopt_find(ctx, &pkt, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP);
}

/** Offset of the MPTCP option of a SYN or SYN/ACK; 0: none. */
__noinline int track_find_hello(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);

	return tcpopt_find(ctx, &pkt, TCPOPT_MPTCP, TCPOLEN_MPTCP_MPC_SYN);
}

/** The options that matter behind the handshake. */
struct track_scan {
	/** A bit for each subtype. */
	__u32 subtypes;
	/** Flags of the DSS. */
	__u32 dss;
	/** Third byte of MP_PRIO. */
	__u32 prio;
};

static __always_inline int track_scan_visit(const struct tcpopt *opt, void *arg)
{
	__u32 subtype = mptcp_subtype(opt->at), is_prio, flags = 0;
	struct track_scan *scan = arg;

	if (subtype == MPTCP_DSS && tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
		flags = opt->at[3];
	is_prio = subtype == MPTCP_MP_PRIO;
	scan->dss = emptcp_forget(scan->dss | flags);
	scan->prio = emptcp_forget(scan->prio | is_prio * opt->at[2]);
	scan->subtypes = emptcp_forget(scan->subtypes | 1 << subtype);
	return TCPOPT_GO_ON;
}

/** Subtypes in the lower 16 bits, then flags of the DSS, then the lower bits of MP_PRIO. */
__noinline int track_find_options(struct emptcp_ctx *ctx, __u32 tcp_off, __u32 tcp_len)
{
	struct emptcp_pkt pkt = track_at(ctx, tcp_off, tcp_len);
	struct track_scan scan = {
		.subtypes = emptcp_forget(0),
		.dss = emptcp_forget(0),
		.prio = emptcp_forget(0),
	};

	mptcp_walk(ctx, &pkt, TCPOLEN_MPTCP_MIN, track_scan_visit, &scan);
	return (scan.subtypes & 0xffff) | (scan.dss & 0xff) << 16 | (scan.prio & 1) << 24;
}

/** What the option of a handshake says. */
struct track_hello {
	/** enum emptcp_track_kind; 0: there is none. */
	__u32 kind;
	__u32 version;
	/** MP_JOIN. */
	__u32 addr_id;
	__u32 backup;
	/** MP_JOIN of a SYN. */
	__u32 token;
};

/** Reads the MPTCP option of a SYN or SYN/ACK. */
static __always_inline void track_hello(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					struct track_hello *hello)
{
	__u32 off = track_find_hello(ctx, pkt->tcp_off, pkt->tcp_len) & 63;
	const __u8 *opt;

	hello->kind = 0;
	hello->version = 1;
	if (!off)
		return;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_MPC_SYN);
	if (!opt)
		return;
	if (mptcp_subtype(opt) == MPTCP_MP_CAPABLE) {
		hello->kind = EMPTCP_TRACK_INITIAL;
		hello->version = opt[2] & 15;
		return;
	}
	if (mptcp_subtype(opt) != MPTCP_MP_JOIN)
		return;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_MPJ_SYN);
	if (!opt)
		return;
	hello->kind = EMPTCP_TRACK_JOINED;
	hello->backup = opt[2] & MPTCP_BACKUP;
	hello->addr_id = opt[3];
	hello->token = mptcp_be32(opt + 4);
}

/** The window scale that a SYN offers; EMPTCP_WSCALE_UNKNOWN: none. */
static __always_inline __u32 track_wscale(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	__u32 off = track_find_wscale(ctx, pkt->tcp_off, pkt->tcp_len) & 63;
	const __u8 *opt;

	if (!off)
		return EMPTCP_WSCALE_UNKNOWN;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_WINDOW);
	if (!opt)
		return EMPTCP_WSCALE_UNKNOWN;
	return opt[2] > TCP_WSCALE_MAX ? TCP_WSCALE_MAX : opt[2];
}

/** The timestamps of a packet, TSval at 2 and TSecr at 6; NULL: none. */
static __always_inline const __u8 *track_timestamps(struct emptcp_ctx *ctx,
						    const struct emptcp_pkt *pkt)
{
	const __u8 *opt = emptcp_usual_timestamps(ctx, pkt);
	__u32 off;

	if (opt)
		return opt;
	off = track_find_timestamps(ctx, pkt->tcp_off, pkt->tcp_len) & 63;
	return off ? tcpopt_at(ctx, pkt, off, TCPOLEN_TIMESTAMP) : NULL;
}

static __always_inline void track_scan(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       struct track_scan *scan)
{
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	const __u8 *dss = (const void *)(ts + 3);
	__u32 found;

	/* What most packets have: timestamps, and a DSS that fills the rest. */
	if ((const void *)(dss + TCPOLEN_MPTCP_DSS_BASE) <= ctx_data_end(ctx) &&
	    *ts == bpf_htonl(0x0101080a) && dss[0] == TCPOPT_MPTCP && dss[1] == pkt->tcp_len - 32 &&
	    mptcp_subtype(dss) == MPTCP_DSS) {
		scan->subtypes = 1 << MPTCP_DSS;
		scan->dss = dss[3];
		scan->prio = 0;
		return;
	}
	found = track_find_options(ctx, pkt->tcp_off, pkt->tcp_len);
	scan->subtypes = found & 0xffff;
	scan->dss = found >> 16 & 0xff;
	scan->prio = found >> 24 & 1;
}

#endif /* __EMPTCP_TRACK_OPTIONS_H__ */
