// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sends what hold_join keeps. A program makes no packets, but of an ACK it can make a SYN, send a
 * copy, and make the ACK of it again: so no process is needed, and nobody waits for one.
 */
#include <emptcp/grow.h>
#include <emptcp/held.h>
/* Not for this program: user space notes there connections whose SYN a changed policy or table may
 * release, and `emptcp run` sends them an ACK. */
#include <emptcp/wait.h>

EMPTCP_NO_PARAMS(release_join);

/** What is about to be sent, and the ACK; too large for the stack. */
struct release_join_scratch {
	struct emptcp_held_frame frame;
	__u8 ack[EMPTCP_HELD_BYTES + 64];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct release_join_scratch);
	__uint(max_entries, 1);
} releasing SEC(".maps");

/*
 * Writes len bytes over the packet, which has as many. What the device has summed
 * (CHECKSUM_COMPLETE) does not have the link-layer header in it. 0, or -1.
 */
static __always_inline int release_join_write(struct emptcp_ctx *ctx, const __u8 *bytes,
					      __u32 ip_off, __u32 len)
{
	__u32 link = ((emptcp_forget(ip_off) - 1) & 63) + 1;

	ip_off &= 63;
	/* Lengths from 1 on: Linux 5.10 learns nothing of a comparison with 0. */
	if (ip_off && bpf_skb_store_bytes(ctx, 0, bytes, link, 0))
		return -1;
	len = ((emptcp_forget(len - ip_off) - 1) & (EMPTCP_HELD_BYTES - 1)) + 1;
	return bpf_skb_store_bytes(ctx, ip_off, bytes + ip_off, len, BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
}

/*
 * Makes the SYN of an ACK of the same layout, and sends it. Whether the checksum of the ACK is
 * whole or incomplete (CHECKSUM_PARTIAL), which it says of the copy too, is not told: the helper
 * leaves what is right for either, see ctx_csum_done(). Returns enum emptcp_verdict, or minus a
 * reason with the packet as it was.
 */
static __always_inline int release_join_send(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     struct release_join_scratch *scratch, __u32 ifindex,
					     __u32 hook)
{
	__u32 ip_off = emptcp_forget(pkt->ip_off) & 63, len = ctx_len(ctx, 0), sum;
	__u32 check =
		(emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK) + offsetof(struct tcphdr, check);
	int err;

	sum = scratch->frame.sum + scratch->frame.pseudo;
	if (len > EMPTCP_HELD_BYTES || ctx_copy(ctx, scratch->ack, len, EMPTCP_HELD_BYTES) != len)
		return -EMPTCP_REASON_TRUNCATED;
	/* From here on all of it is linear and its own: memory is needed no more, but to grow. */
	if (ctx_set_len(ctx, scratch->frame.len))
		return -EMPTCP_REASON_WRITE;
	err = release_join_write(ctx, scratch->frame.bytes, ip_off, scratch->frame.len) ||
	      bpf_skb_store_bytes(ctx, check, &scratch->frame.pseudo, sizeof(__u16), 0) ||
	      bpf_l4_csum_replace(ctx, check, 0, sum, 0) ||
	      ctx_send_copy_at(ctx, emptcp_number(EMPTCP_NUMBER_HOOK), ifindex, hook) < 0;
	/* An ACK may be lost, but not be another packet. */
	if (ctx_set_len(ctx, len) || release_join_write(ctx, scratch->ack, ip_off, len))
		return EMPTCP_DROP;
	return err ? -EMPTCP_REASON_CLONE : EMPTCP_NEXT;
}

static __always_inline int release_join_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					    const struct release_join_params *p)
{
	__u32 zero = 0, slot = 0, ifindex, hook;
	const struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	struct release_join_scratch *scratch;
	const struct emptcp_held_frame *frame;
	struct emptcp_held_list *list;
	struct emptcp_held_join *join;
	struct emptcp_held_key key;
	__u16 tci;
	int from;

	if (!emptcp_can_carry(ctx, pkt))
		return EMPTCP_SKIP;
	sub = emptcp_tracked(pkt, &from);
	if (!sub || !(sub->flags & EMPTCP_TRACK_TIED))
		return EMPTCP_SKIP;
	key.conn = sub->conn;
	list = bpf_map_lookup_elem(&held_lists, &key.conn);
	if (!list || !list->any)
		return EMPTCP_SKIP;
	for (int i = 1; i < EMPTCP_HELD_SLOTS; i++)
		slot = emptcp_forget(list->slots[i] ? i : slot);
	slot = emptcp_forget(slot) & (EMPTCP_HELD_SLOTS - 1);
	list->slots[slot] = 0;
	/* A connection that ends needs no further subflow. */
	conn = emptcp_tracked_conn(sub);
	if (!conn || conn->flags & EMPTCP_CONN_ENDS)
		return EMPTCP_SKIP;
	key.slot = slot;
	join = bpf_map_lookup_elem(&held_joins, &key);
	frame = bpf_map_lookup_elem(&held_frames, &key);
	scratch = bpf_map_lookup_elem(&releasing, &zero);
	if (!join || !frame || !scratch || join->state != EMPTCP_HELD_WAITING)
		return EMPTCP_SKIP;
	if ((__s64)(emptcp_boot_now() - join->until) > 0) {
		join->state = EMPTCP_HELD_EXPIRED;
		return EMPTCP_SKIP;
	}
	/* Where the checksum begins is the device's knowledge, and the copy has it from the ACK.
	 * What cannot be made here comes with the next retry. */
	if (frame->tcp_off != pkt->tcp_off || frame->ip_off != pkt->ip_off ||
	    frame->version != pkt->version || ctx_vlan(ctx, &tci))
		return -EMPTCP_REASON_UNSAFE;
	scratch->frame = *frame;
	/* Of several CPUs one comes through. */
	if (bpf_map_delete_elem(&held_frames, &key))
		return EMPTCP_SKIP;
	ifindex = join->interface;
	hook = join->hook;
	join->state = EMPTCP_HELD_RELEASED;
	return release_join_send(ctx, pkt, scratch, ifindex, hook);
}

EMPTCP_ACTOR(release_join, EMPTCP_HOOKS_TC, "5.10", EMPTCP_TRACKED,
	     "Sends the SYNs of further subflows that hold_join holds of the connection, one with "
	     "each ACK");
