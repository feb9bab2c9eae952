// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Withdraws the address of a subflow: REMOVE_ADDR (RFC 8684, 3.4.2) in the name of who sends the
 * packet, with the id that the handshake of the subflow gave that address. Nothing proves who sends
 * one.
 */
#include <emptcp/add_option.h>
#include <emptcp/once.h>

/* The kernel takes so many address ids in one option (MPTCP_RM_IDS_MAX). */
#define REMOVE_ADDR_IDS 8

struct remove_addr_params {
	EMPTCP_LIST(__u8, REMOVE_ADDR_IDS)
	addr_ids EMPTCP_DOC("Only subflows on which the sender of these packets has one of these "
			    "address ids; without: any but 0, which is that of the first subflow");
};

/* What one end of a connection has withdrawn. */
struct remove_addr_key {
	struct emptcp_track_key conn;
	__u32 addr_id;
	/* Those of the server, else of the client. */
	__u32 by_server;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct remove_addr_key);
	/* When: CLOCK_BOOTTIME. */
	__type(value, emptcp_time);
	__uint(max_entries, 65536);
} withdrawn SEC(".maps") EMPTCP_KEPT;

/* When the last address of a connection was withdrawn. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_track_key);
	__type(value, emptcp_time);
	__uint(max_entries, 16384);
} withdrawn_last SEC(".maps") EMPTCP_KEPT;

/* So long it takes at the most until the tracker sees that a subflow is gone: how many there are
 * says nothing before. */
#define REMOVE_ADDR_PAUSE_NS 1000000000LL

static __always_inline int remove_addr_is_meant(const struct remove_addr_params *p, __u32 id)
{
	__u32 found = 0;

	if (!p->addr_ids.count)
		return id;
	for (int i = 0; i < REMOVE_ADDR_IDS; i++)
		if (i < p->addr_ids.count)
			found |= p->addr_ids.items[i] == id;
	return found;
}

/* Whether another one of the connection was withdrawn just now. */
static __always_inline int remove_addr_pauses(const struct emptcp_track_key *conn, __u64 now)
{
	const emptcp_time *last = bpf_map_lookup_elem(&withdrawn_last, conn);

	return last && (__s64)(now - *last) < REMOVE_ADDR_PAUSE_NS;
}

static __always_inline int remove_addr_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct remove_addr_params *p)
{
	union emptcp_option *option;
	const struct emptcp_track_way *back;
	const struct emptcp_track_conn *conn;
	struct emptcp_track_subflow *sub;
	struct remove_addr_key key = {};
	struct emptcp_adding add;
	struct emptcp_track_way *way;
	const emptcp_time *done;
	__u32 how, next;
	int from, ret;

	if (!emptcp_add_begin(ctx, pkt, &add))
		return EMPTCP_SKIP;
	conn = emptcp_add_connection(ctx, pkt, &add, &sub, &from, &ret);
	if (!conn)
		return ret;
	from &= 1;
	way = &sub->way[from];
	back = &sub->way[!from];
	if (!(way->flags & EMPTCP_WAY_HAS_ID))
		return -EMPTCP_REASON_UNTRACKED;
	if (!remove_addr_is_meant(p, way->addr_id))
		return EMPTCP_SKIP;
	key.conn = sub->conn;
	key.addr_id = way->addr_id;
	key.by_server = from != sub->client;
	done = bpf_map_lookup_elem(&withdrawn, &key);
	if (done && *done >= conn->created)
		return EMPTCP_SKIP;
	/* Of an earlier connection with its token. */
	how = done ? BPF_EXIST : BPF_NOEXIST;
	how = emptcp_forget(how);
	if (!emptcp_add_is_turn(pkt, &add) || remove_addr_pauses(&key.conn, add.now))
		return EMPTCP_SKIP;
	/* Without a subflow nothing of the connection goes on. */
	if (conn->live < 2)
		return -EMPTCP_REASON_UNSAFE;
	ret = emptcp_add_look(ctx, &add, MPTCP_REMOVE_ADDR, TCPOLEN_MPTCP_RM_ADDR_BASE + 1);
	if (ret != EMPTCP_NEXT)
		return ret;
	/* A carrier has no DSS, and may come before the packet: who receives it must have taken the
	 * subflow for established (check_fully_established() of the kernel), as one that sends a
	 * DSS itself has. */
	if (add.payload && !(back->flags & EMPTCP_WAY_DSS))
		return EMPTCP_SKIP;
	if (emptcp_add_wants_copy(&add))
		return emptcp_add_send_copy(ctx, &add);

	ret = emptcp_claim(&withdrawn, &key, &add.now, how);
	if (ret != EMPTCP_NEXT)
		return ret;
	bpf_map_update_elem(&withdrawn_last, &key.conn, &add.now, BPF_ANY);
	option = &add.place->option;
	for (int i = 1; i < EMPTCP_GROW_MAX / 4; i++)
		option->words[i] = TCPOPT_NOP * 0x01010101U;
	option->at[0] = TCPOPT_MPTCP;
	option->at[1] = TCPOLEN_MPTCP_RM_ADDR_BASE + 1;
	option->at[2] = MPTCP_REMOVE_ADDR << 4;
	option->at[3] = key.addr_id;
	next = emptcp_add_next(&add, way);
	ret = emptcp_add_put(ctx, &add, next, way);
	if (ret != EMPTCP_NEXT) {
		bpf_map_delete_elem(&withdrawn, &key);
		bpf_map_delete_elem(&withdrawn_last, &key.conn);
	}
	return ret;
}

EMPTCP_ACTOR(
	remove_addr, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS "," EMPTCP_TRACKED,
	"Withdraws the address of a subflow (REMOVE_ADDR), whose other end then closes it, once "
	"for each connection and address id");
