// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The tracker: takes up each packet of a subflow of Multipath TCP, once for each
 * direction wherever it meets us. It matches the packet that shows the keys of a
 * connection, for what follows to make tokens of them, so that only handshakes
 * pay for hashes.
 */
#include <emptcp/clock.h>
#include <emptcp/learnt.h>
#include <emptcp/length.h>
#include <emptcp/track_maps.h>
#include "track/after.h"
#include "track/handshake.h"
#include "track/options.h"
#include "track/total.h"

struct track_params {
	emptcp_bool totals EMPTCP_DOC("Keeps the bytes of connections up with each packet")
		EMPTCP_DEFAULT("true");
};

/** A direction that was not seen for so long where it is counted may be counted elsewhere. */
#define TRACK_ELSEWHERE_NS 1000000000ULL
/** Bytes of the two addresses of an Ethernet header, and of a VLAN tag. */
#define TRACK_MACS 12
#define TRACK_TAG 4

/** Whether the packet counts here; where it counted before, it counts there. */
static __always_inline int track_counts_here(struct emptcp_ctx *ctx, struct emptcp_track_way *way,
					     __u64 now)
{
	__u32 ifindex = ctx_ifindex(ctx);
	__u8 hook = emptcp_number(EMPTCP_NUMBER_HOOK) + 1;

	if (way->ifindex == ifindex && way->hook == hook)
		return 1;
	/* Another CPU's time may lie ahead. */
	if (way->hook && (__s64)(now - way->last) < (__s64)TRACK_ELSEWHERE_NS)
		return 0;
	way->ifindex = ifindex;
	way->hook = hook;
	way->l2_len = 0;
	return 1;
}

/** Keeps the link-layer header for frames that are made later. */
static __always_inline void track_link_layer(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     struct emptcp_track_way *way)
{
	const __u8 *data = ctx_data(ctx);
	__u32 len = pkt->ip_off;
	__be16 proto;
	__u16 tci;

	if (pkt->ip_off < sizeof(struct ethhdr) ||
	    (const void *)(data + EMPTCP_L2_MAX) > ctx_data_end(ctx))
		return;
	proto = ctx_vlan(ctx, &tci);
	if (proto) {
		/* A tag that stands beside the packet, but not on the wire. */
		__builtin_memcpy(way->l2, data, TRACK_MACS);
		way->l2[TRACK_MACS] = bpf_ntohs(proto) >> 8;
		way->l2[TRACK_MACS + 1] = bpf_ntohs(proto);
		way->l2[TRACK_MACS + 2] = tci >> 8;
		way->l2[TRACK_MACS + 3] = tci;
		__builtin_memcpy(way->l2 + TRACK_MACS + TRACK_TAG, data + TRACK_MACS,
				 EMPTCP_L2_MAX - TRACK_MACS - TRACK_TAG);
		len += TRACK_TAG;
	} else {
		__builtin_memcpy(way->l2, data, EMPTCP_L2_MAX);
	}
	way->l2_len = len <= EMPTCP_L2_MAX ? len : 0;
}

/** Notes that the connection has ended: bits of enum emptcp_track_conn_flags. */
static __always_inline void track_ends(const struct emptcp_track_subflow *sub, __u8 how)
{
	struct emptcp_track_conn *conn = track_own(sub);

	if (conn)
		conn->flags |= how;
}

/** Keeps the data ACK for frames that are made later, where the DSS stands right behind timestamps
 * and is whole: another packet will have it so. newest: 0 for a packet of the highest number; what
 * somebody makes up has another one, or could harm without us. In numbers: the verifier would
 * follow each branch. */
static __always_inline void track_data_ack(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   struct emptcp_track_way *way, __u32 newest)
{
	const __u32 *ts = (const void *)(pkt->tcp + 1);
	const __u8 *dss = (const void *)(ts + 3), *ack = dss + TCPOLEN_MPTCP_DSS_BASE;
	__u32 flags, wide, differs;
	__u64 number;

	if ((const void *)(ack + 8) > ctx_data_end(ctx))
		return;
	flags = dss[3];
	wide = flags >> 1 & 1;
	differs = (*ts ^ bpf_htonl(0x0101080a)) | (dss[0] ^ TCPOPT_MPTCP) |
		  (mptcp_subtype(dss) ^ MPTCP_DSS) | (~flags & MPTCP_DSS_HAS_ACK) |
		  ((dss[1] - mptcp_dss_len(flags)) & ~(__u32)TCPOLEN_MPTCP_DSS_CHECKSUM & 0xff) |
		  newest;
	number = (__u64)mptcp_be32(ack) << 32 | mptcp_be32(ack + 4);
	number >>= 32 * (wide ^ 1);
	if (differs)
		return;
	way->data_ack = number;
	way->flags = (way->flags & ~EMPTCP_WAY_DATA_ACK64) | EMPTCP_WAY_DATA_ACK |
		     wide * EMPTCP_WAY_DATA_ACK64;
}

/** Window scale of who sends in this direction, plus 1; 0: not known, or one of the ends alone was
 * heard. */
static __always_inline __u32 track_scale(const struct emptcp_track_way *way,
					 const struct emptcp_track_way *back)
{
	if (way->wscale == EMPTCP_WSCALE_UNKNOWN || back->wscale == EMPTCP_WSCALE_UNKNOWN)
		return 0;
	return way->wscale + 1;
}

/** Takes the packet up; 1: it shows keys. totals: parameter; *scale: what track_scale() says. */
static __always_inline int track_take(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      __u32 totals, __u32 *scale)
{
	const struct tcphdr *tcp = pkt->tcp;
	struct emptcp_track_way *way, *back;
	struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;
	struct track_scan scan;
	__u32 payload, again, tells = 0, seq = bpf_ntohl(tcp->seq);
	const __u8 *opt;
	int from, is_closed, shows_keys;
	__u64 now;

	/* Not known to the verifier, else it looks at all that follows once for each direction. */
	from = emptcp_forget(emptcp_track_key_of(pkt, &key)) & 1;
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (emptcp_unlikely(!sub || tcp->syn || sub->flags & EMPTCP_TRACK_REOPENS)) {
		struct emptcp_track_subflow *half = bpf_map_lookup_elem(&half_open, &key);

		if (tcp->syn) {
			sub = track_opens(ctx, pkt, &key, from, half, sub, &tells);
			scan.subtypes = scan.dss = scan.prio = 0;
		} else {
			if (half)
				sub = half;
			/* Else clang combines two tests of pointers into one of numbers. */
			asm volatile("" : "+r"(sub));
			if (!sub)
				return 0;
			track_scan(ctx, pkt, &scan);
			if (sub->state < EMPTCP_TRACK_ESTABLISHED) {
				if (tcp->rst) {
					bpf_map_delete_elem(&half_open, &key);
					return 0;
				}
				if (track_proves(sub, tcp, from, scan.subtypes))
					sub = track_establish(pkt, &key, sub, from, scan.subtypes,
							      &tells);
			}
		}
		if (!sub)
			return 0;
	} else {
		track_scan(ctx, pkt, &scan);
	}
	asm volatile("" : "+r"(ctx));
	scan.subtypes = emptcp_forget(scan.subtypes);
	scan.dss = emptcp_forget(scan.dss);
	scan.prio = emptcp_forget(scan.prio);

	now = emptcp_boot_now();
	way = &sub->way[from & 1];
	back = &sub->way[!(from & 1)];
	*scale = track_scale(way, back);
	tells = emptcp_forget(tells);
	if (!track_counts_here(ctx, way, now)) {
		if (tells)
			track_after(ctx, pkt, &key, from, tells);
		return 0;
	}
	__sync_fetch_and_add(&way->packets, ctx_segments(ctx));
	/* What it says was taken up before; newer packets may have gone this way since. */
	if (tcp->syn && sub->state >= EMPTCP_TRACK_ESTABLISHED)
		return 0;
	payload = emptcp_payload_len(ctx, pkt);
	again = emptcp_sequence_take(&way->sequence, tcp, payload);
	if (payload) {
		__sync_fetch_and_add(&way->bytes, payload);
		if (again)
			__sync_fetch_and_add(&way->retransmitted, again);
		if (payload > again)
			track_total(sub, from, payload - again, totals);
	}
	way->ack = bpf_ntohl(tcp->ack_seq);
	way->window = bpf_ntohs(tcp->window);
	if (pkt->version == 4) {
		way->ttl = pkt->ip4->ttl;
		way->tos = pkt->ip4->tos;
	} else {
		way->ttl = pkt->ip6->hop_limit;
		way->tos = pkt->ip6->priority << 4 | pkt->ip6->flow_lbl[0] >> 4;
	}
	if (!way->l2_len)
		track_link_layer(ctx, pkt, way);
	opt = track_timestamps(ctx, pkt);
	if (opt) {
		way->ts_ecr = mptcp_be32(opt + 6);
		emptcp_rtt_take(&way->rtt, &back->rtt, opt, tcp, payload || tcp->syn || tcp->fin,
				now / 1000);
	}
	way->last = now;
	track_data_ack(ctx, pkt, way, (seq + payload) ^ way->sequence.end);

	if (scan.subtypes & 1 << MPTCP_MP_PRIO) {
		if (scan.prio & MPTCP_BACKUP)
			way->flags |= EMPTCP_WAY_ASKS_BACKUP;
		else
			way->flags &= ~EMPTCP_WAY_ASKS_BACKUP;
	}
	tells |= scan.subtypes & TRACK_TELLS_OPTIONS;
	if (scan.subtypes & 1 << MPTCP_MP_FAIL)
		tells |= track_fallback(sub, from, seq, EMPTCP_FALLBACK_FAIL);
	if (scan.subtypes & 1 << MPTCP_DSS)
		way->flags |= EMPTCP_WAY_DSS;
	else if (payload && !scan.subtypes && !(way->flags & EMPTCP_WAY_DSS) && !tcp->syn)
		tells |= track_fallback(sub, from, seq, EMPTCP_FALLBACK_DATA);
	if (scan.subtypes & 1 << MPTCP_MP_FASTCLOSE)
		track_ends(sub, EMPTCP_CONN_ENDS | EMPTCP_CONN_FASTCLOSED);
	else if (scan.dss & MPTCP_DSS_DATA_FIN)
		track_ends(sub, EMPTCP_CONN_ENDS);
	if (tcp->fin) {
		way->flags |= EMPTCP_WAY_FIN;
		if (back->flags & EMPTCP_WAY_FIN)
			sub->state = EMPTCP_TRACK_CLOSING;
	}
	shows_keys = scan.subtypes & 1 << MPTCP_MP_CAPABLE && from == sub->opener && !tcp->syn &&
		     sub->kind == EMPTCP_TRACK_INITIAL && !(sub->flags & EMPTCP_TRACK_TIED) &&
		     sub->state == EMPTCP_TRACK_ESTABLISHED;
	is_closed = tcp->rst || (sub->state == EMPTCP_TRACK_CLOSING && !tcp->fin && tcp->ack &&
				 (__s32)(way->ack - back->sequence.end) >= 0);
	if (is_closed)
		tells |= TRACK_CLOSES;
	tells |= (scan.prio & MPTCP_BACKUP) << TRACK_BACKUP_SHIFT;
	tells |= (sub->flags & EMPTCP_TRACK_NAMES) << TRACK_LISTS_SHIFT;
	tells = emptcp_forget(tells);
	if (emptcp_unlikely(tells & (TRACK_TELLS | TRACK_CLOSES)))
		track_after(ctx, pkt, &key, from, tcp->rst ? tells | TRACK_CLOSES_BY_RST : tells);
	return shows_keys;
}

static __always_inline int track_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct track_params *p)
{
	struct emptcp_pkt same;
	__u32 scale = 0;
	int shows_keys;

	/* Headers of the commonest packet stand where the verifier knows: it would look at all of
	 * this once more for them. */
	if (emptcp_again(ctx, pkt, &same))
		return -EMPTCP_REASON_TRUNCATED;
	shows_keys = track_take(ctx, &same, p->totals, &scale);
	/* For each packet: what the word had before is of another one. */
	emptcp_learnt_leave(ctx, pkt->links->zone, emptcp_forget(scale) & 0xff);
	return shows_keys;
}

EMPTCP_SELECTOR(track, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKS,
		"Tracks subflows and connections; matches packets that show the keys of one");
