// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/bucket.h>
#include <emptcp/module.h>

enum limit_per {
	LIMIT_PER_CHAIN,
	LIMIT_PER_SUBFLOW,
	/* All packets from one address. */
	LIMIT_PER_SRC,
	/* All packets to one address. */
	LIMIT_PER_DST,
};

struct limit_params {
	__u32 packets EMPTCP_DOC("So many packets match") EMPTCP_REQUIRED EMPTCP_MIN("1")
		EMPTCP_MAX("1000000");
	emptcp_time in EMPTCP_DOC("in this time") EMPTCP_DEFAULT("1s") EMPTCP_MIN("1ms")
		EMPTCP_MAX("1d");
	__u32 burst EMPTCP_DOC("and after a pause so many at once; 0: as many as packets")
		EMPTCP_DEFAULT("0") EMPTCP_MAX("1000000");
	enum limit_per
		per EMPTCP_DOC("chain: all packets that come to the step; subflow: each direction "
			       "of each subflow; src, dst: each address") EMPTCP_DEFAULT("chain");
};

struct limit_key {
	struct emptcp_subflow subflow;
	emptcp_step_id step;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct limit_key);
	__type(value, struct emptcp_bucket);
	__uint(max_entries, 65536);
} limit_buckets SEC(".maps") EMPTCP_KEPT;

static __always_inline int limit_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				       const struct limit_params *p)
{
	__u64 cost = (p->in << EMPTCP_BUCKET_BITS) / (p->packets ?: 1), full;
	struct limit_key key = {.step = pkt->links->step};
	struct emptcp_bucket *bucket;

	if (p->per == LIMIT_PER_SUBFLOW)
		emptcp_subflow_of(pkt, &key.subflow);
	else if (p->per == LIMIT_PER_SRC)
		emptcp_saddr(pkt, &key.subflow.src);
	else if (p->per == LIMIT_PER_DST)
		emptcp_daddr(pkt, &key.subflow.dst);
	if (p->per != LIMIT_PER_CHAIN)
		key.subflow.zone = pkt->links->zone;
	bucket = emptcp_bucket_of(&limit_buckets, &key);
	if (!bucket)
		return -EMPTCP_REASON_MAP_FULL;
	full = cost * (p->burst ?: p->packets);
	if (full > EMPTCP_BUCKET_LONGEST << EMPTCP_BUCKET_BITS)
		full = EMPTCP_BUCKET_LONGEST << EMPTCP_BUCKET_BITS;
	if (emptcp_bucket_take(bucket, cost, full, cost, 0) == EMPTCP_BUCKET_WITHIN)
		return 1;
	__sync_fetch_and_add(&bucket->exceeded, 1);
	return 0;
}

EMPTCP_SELECTOR(limit, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE,
		"No more than so many packets in a time; \"not\" matches those beyond");
