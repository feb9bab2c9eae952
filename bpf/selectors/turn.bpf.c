// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Deals the subflows of each connection out, as cards: one after the other to the next player. The
 * first one has its turn by a hash, so that connections of one subflow are spread as well.
 */
#include <emptcp/tracked.h>

struct turn_params {
	__u8 of EMPTCP_DOC("How many turns there are") EMPTCP_REQUIRED EMPTCP_MIN("1");
	__u8 min EMPTCP_DOC("First turn that matches, from 0") EMPTCP_DEFAULT("0");
	__u8 max EMPTCP_DOC("Last one; several of them are a larger share") EMPTCP_DEFAULT("255");
};

/* A subflow. */
struct turn_dealt {
	/* Its turn is the rest of a division by turn_params.of. */
	__u32 number;
	/* Further subflows of its connection go on from there. */
	__u32 is_known;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	/* As the tracker has it: both directions have one turn. */
	__type(key, struct emptcp_subflow);
	__type(value, struct turn_dealt);
	__uint(max_entries, 65536);
} turns SEC(".maps") EMPTCP_KEPT;

/* The number of the next subflow that joins, by the token in its SYN. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_track_key);
	__type(value, __u32);
	__uint(max_entries, 65536);
} next_turns SEC(".maps") EMPTCP_KEPT;

/* A number for a subflow of which nothing else is known. */
static __always_inline __u32 turn_hash(const struct emptcp_subflow *key)
{
	__u32 hash = (__u32)key->sport << 16 | key->dport;

#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = (hash ^ key->src.w[i] ^ (key->dst.w[i] << 16 | key->dst.w[i] >> 16)) *
		       0x9e3779b1;
	return hash ^ hash >> 15;
}

/* The number of a subflow that joins the connection with this token. */
static __always_inline __u32 turn_joins(emptcp_token token, __u32 zone)
{
	struct emptcp_track_key key = {.token = token, .zone = zone};
	__u32 *next = bpf_map_lookup_elem(&next_turns, &key), number, second;

	if (next) {
		/* Two that join in the same microsecond on two CPUs may get one number. */
		number = *next;
		*next = number + 1;
		return number;
	}
	second = token + 1;
	bpf_map_update_elem(&next_turns, &key, &second, BPF_NOEXIST);
	return token;
}

static __always_inline int turn_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct turn_params *p)
{
	struct turn_dealt *dealt, first = {};
	struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;
	__u32 turn;
	int from;

	emptcp_track_key_of(pkt, &key);
	dealt = bpf_map_lookup_elem(&turns, &key);
	if (!dealt) {
		first.number = turn_hash(&key);
		sub = emptcp_tracked(pkt, &from);
		/*
		 * The tracker, which was here before, has read the token of its SYN. A chain that
		 * sees one direction only may begin with the SYN/ACK.
		 */
		if (sub && sub->state <= EMPTCP_TRACK_SYNACK &&
		    sub->flags & EMPTCP_TRACK_HAS_TOKEN) {
			first.number = turn_joins(sub->token, key.zone);
			first.is_known = 1;
		}
		bpf_map_update_elem(&turns, &key, &first, BPF_NOEXIST);
		dealt = bpf_map_lookup_elem(&turns, &key);
		if (!dealt)
			return -EMPTCP_REASON_MAP_FULL;
	}
	if (!dealt->is_known) {
		sub = emptcp_tracked(pkt, &from);
		if (sub && sub->flags & EMPTCP_TRACK_TIED) {
			struct emptcp_track_key conn = sub->conn;
			__u32 next = dealt->number + 1;

			bpf_map_update_elem(&next_turns, &conn, &next, BPF_NOEXIST);
			dealt->is_known = 1;
		}
	}
	turn = dealt->number % (p->of ?: 1);
	return turn >= p->min && turn <= p->max;
}

EMPTCP_SELECTOR(turn, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Subflows in turn: those of one connection are spread, each keeps its turn");
