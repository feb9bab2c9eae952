// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/sockets.h>
#include <emptcp/wait.h>

enum wait_for_faster_by {
	/* Earliest completion first. */
	WAIT_FOR_FASTER_BY_ECF,
	/* Blocking estimation. */
	WAIT_FOR_FASTER_BY_BLEST,
};

struct wait_for_faster_params {
	enum wait_for_faster_by
		by EMPTCP_DOC("When to wait: while what is queued completes earlier on the faster "
			      "subflow (ecf), or while "
			      "the slower one would leave it without receive window (blest)")
			EMPTCP_DEFAULT("ecf");
	emptcp_ratio hysteresis EMPTCP_DOC("How much worse waiting may become before it ends")
		EMPTCP_DEFAULT("25%") EMPTCP_MAX("100%");
	emptcp_time hold EMPTCP_DOC("Least time between two changes of a subflow")
		EMPTCP_DEFAULT("100ms") EMPTCP_MAX("1m");
};

/* Steps that ask within this time are told the same: both of a policy that does one thing where a
 * subflow waits, and another where it does not. */
#define WAIT_FOR_FASTER_PAUSE_NS 1000000LL

/* A subflow, in the order of the kernel's list. */
struct wait_for_faster_one {
	/* Its socket: another one begins anew. */
	__u64 socket;
	/* When `waits` last changed; 0: never. */
	__u64 changed;
	__u32 waits;
	/* The largest congestion window that it was seen with, segments. */
	__u32 most;
};

struct wait_for_faster_conn {
	/* When it was last decided on. */
	emptcp_time at;
	/* Data sequence number from which on something was queued all the time. */
	__u64 pad_begin;
	/* When the buffer of what was written was last full. */
	__u64 pad_full_at;
	struct wait_for_faster_one pad_one[EMPTCP_SOCKETS_MAX];
};

/* By the token of this host's end. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, emptcp_token);
	__type(value, struct wait_for_faster_conn);
	__uint(max_entries, 8192);
} waiting SEC(".maps");

struct wait_for_faster_scratch {
	struct emptcp_sockets sockets;
	struct wait_for_faster_conn first;
	struct emptcp_subflow key;
	/* The packet's own. */
	__u64 socket;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct wait_for_faster_scratch);
	__uint(max_entries, 1);
} wait_scratch SEC(".maps");

/* Which subflow is the fastest of those for which others could wait: not those that are backup for
 * reasons of somebody else. EMPTCP_SOCKETS_MAX: none. */
static __always_inline __u32 wait_for_faster_best(struct emptcp_sockets *sockets,
						  struct wait_for_faster_conn *conn, __u64 *unsent)
{
	__u32 best = EMPTCP_SOCKETS_MAX, least = ~0U;

	for (__u32 i = 0; i < EMPTCP_SOCKETS_MAX; i++) {
		struct emptcp_socket *one = &sockets->subflow[i];
		struct wait_for_faster_one *known = &conn->pad_one[i];

		if (i >= sockets->count)
			break;
		if (known->socket != one->socket) {
			known->socket = one->socket;
			known->changed = 0;
			known->waits = 0;
			known->most = 0;
		}
		known->most = emptcp_greater(known->most, one->path.cwnd);
		/* Slow start is known to go so far: of a window that never met a loss, or whose
		 * algorithm has no such threshold (BBR), nobody knows. */
		one->path.ssthresh = emptcp_lesser(one->path.ssthresh, known->most);
		if (!one->sends)
			continue;
		*unsent += one->path.unsent;
		if (one->stale || one->path.srtt >= least)
			continue;
		if (one->backup && !known->waits)
			continue;
		least = emptcp_forget(one->path.srtt);
		best = emptcp_forget(i);
	}
	*unsent = emptcp_forget(emptcp_lesser(*unsent, ~0U));
	return emptcp_forget(best);
}

/* Decides on each subflow of the connection. Those that change and are not the packet's own wait
 * for a packet, which takes the decision to who acts on it. */
static __always_inline void wait_for_faster_decide(const struct wait_for_faster_params *p,
						   struct wait_for_faster_scratch *s,
						   struct wait_for_faster_conn *conn,
						   const struct emptcp_pkt *pkt, __u64 now)
{
	struct emptcp_sockets *sockets = &s->sockets;
	/* In parts of EMPTCP_FASTER_ONE. */
	__u32 hysteresis = p->hysteresis >> 24;
	const struct emptcp_path *fast;
	__u64 queued, unsent = 0;
	__u32 best;

	best = wait_for_faster_best(sockets, conn, &unsent);
	queued = sockets->queued + unsent;
	/* Nothing was left, or nothing is known of before. */
	if (!queued || !conn->at)
		conn->pad_begin = sockets->snd_nxt;
	conn->at = now;
	fast = &sockets->subflow[best & (EMPTCP_SOCKETS_MAX - 1)].path;
	queued = sockets->queued + fast->unsent;
	if (sockets->full)
		conn->pad_full_at = now;
	for (__u32 i = 0; i < EMPTCP_SOCKETS_MAX; i++) {
		const struct emptcp_socket *one = &sockets->subflow[i];
		struct wait_for_faster_one *known = &conn->pad_one[i];
		__u64 waits = 0, left = queued;
		__u32 margin;

		if (i >= sockets->count)
			break;
		margin = known->waits ? hysteresis : 0;
		/* What an application has left to write that waits for room is not known: as much
		 * as it has sent so far. */
		left += (sockets->snd_nxt - conn->pad_begin) &
			-emptcp_less(now - conn->pad_full_at, one->path.srtt * 1000ULL);
		if (best < EMPTCP_SOCKETS_MAX && best != i && one->sends)
			waits = p->by == WAIT_FOR_FASTER_BY_ECF
					? emptcp_ecf_waits(fast, &one->path, left, margin)
					: emptcp_blest_waits(fast, &one->path, sockets->window,
							     margin);
		if (waits == known->waits || (known->changed && now - known->changed < p->hold))
			continue;
		known->changed = now;
		known->waits = waits;
		if (one->socket == s->socket || pkt->links->hook != EMPTCP_HOOK_TC_INGRESS)
			continue;
		emptcp_socket_subflow(one->socket, pkt->links->zone, &s->key);
		emptcp_wait_for(&s->key, now);
	}
}

/* Whether a subflow of the connection waits; decides anew, if that was some time ago. */
static __always_inline int wait_for_faster_ask(const struct wait_for_faster_params *p,
					       struct wait_for_faster_scratch *s,
					       struct mptcp_sock *msk, const struct emptcp_pkt *pkt)
{
	struct wait_for_faster_conn *conn;
	emptcp_token token = msk->token;
	__u64 now = emptcp_boot_now();
	int waits = 0;

	conn = bpf_map_lookup_elem(&waiting, &token);
	if (!conn) {
		__builtin_memset(&s->first, 0, sizeof(s->first));
		if (bpf_map_update_elem(&waiting, &token, &s->first, BPF_NOEXIST))
			return -EMPTCP_REASON_MAP_FULL;
		conn = bpf_map_lookup_elem(&waiting, &token);
		if (!conn)
			return -EMPTCP_REASON_MAP_FULL;
	}
	if (!conn->at || (__s64)(now - conn->at) >= WAIT_FOR_FASTER_PAUSE_NS) {
		emptcp_sockets_read(&s->sockets, msk);
		wait_for_faster_decide(p, s, conn, pkt, now);
	}
	for (__u32 i = 0; i < EMPTCP_SOCKETS_MAX; i++)
		waits |= conn->pad_one[i].socket == s->socket && conn->pad_one[i].waits;
	return waits;
}

static __always_inline int wait_for_faster_match(struct emptcp_ctx *ctx,
						 const struct emptcp_pkt *pkt,
						 const struct wait_for_faster_params *p)
{
	struct wait_for_faster_scratch *s;
	struct mptcp_sock *msk;
	struct bpf_sock *sk;
	__u32 zero = 0;
	int ret = 0;

	s = bpf_map_lookup_elem(&wait_scratch, &zero);
	if (!s)
		return -EMPTCP_REASON_MAP_FULL;
	sk = emptcp_socket_lookup(ctx, pkt, pkt->links->hook == EMPTCP_HOOK_TC_EGRESS);
	if (!sk)
		return 0;
	s->socket = (unsigned long)sk;
	msk = bpf_skc_to_mptcp_sock(sk);
	if (msk)
		ret = wait_for_faster_ask(p, s, msk, pkt);
	bpf_sk_release(sk);
	return ret;
}

EMPTCP_SELECTOR(
	wait_for_faster, EMPTCP_HOOKS_TC, "5.19", EMPTCP_IMPURE "," EMPTCP_TRACKED,
	"Of a subflow of this host that should rather not send: waiting for a faster one of its "
	"connection is better");
