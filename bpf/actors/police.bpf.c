// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/bucket.h>
#include <emptcp/ecn.h>
#include <emptcp/length.h>
#include <emptcp/module.h>

enum police_per {
	POLICE_PER_CHAIN,
	POLICE_PER_SUBFLOW,
	/* All subflows to one destination address. */
	POLICE_PER_DST,
	/* All packets to which the same entry of a table gives the rate. */
	POLICE_PER_ENTRY,
};

enum police_exceed {
	POLICE_EXCEED_DROP,
	POLICE_EXCEED_CE,
};

struct police_params {
	emptcp_rate rate EMPTCP_DOC("Bytes on the wire from the link-layer header on; 0: none pass")
		EMPTCP_REQUIRED;
	emptcp_bytes burst EMPTCP_DOC("What may pass at once after a pause; 0: what the rate "
				      "carries in 250 ms, 128 KiB at least") EMPTCP_DEFAULT("0")
		EMPTCP_MAX("1GiB");
	enum police_per
		per EMPTCP_DOC("chain: all its packets share the rate; subflow, dst: each "
			       "direction of each subflow, or each destination address has "
			       "it for itself; entry: each entry of the table that it comes "
			       "from") EMPTCP_DEFAULT("chain");
	enum police_exceed
		exceed EMPTCP_DOC("drop: packets beyond rate and burst are dropped; ce: of "
				  "those whose ends understand ECN, one more burst "
				  "passes, marked CE") EMPTCP_DEFAULT("drop");
};

struct police_key {
	struct emptcp_subflow subflow;
	/* emptcp_entry(). */
	__u64 pad_entry;
	emptcp_step_id step;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct police_key);
	__type(value, struct emptcp_bucket);
	__uint(max_entries, 65536);
} police_buckets SEC(".maps") EMPTCP_KEPT;

/* Nanoseconds for a byte at 1 bit/s. */
#define POLICE_BYTE 8000000000ULL
/* Time that so many bytes (below 2^31) take at the rate (not 0), in units
 * of a bucket. */
static __always_inline __u64 police_time(__u64 bytes, __u64 rate)
{
	__u64 ns = bytes * POLICE_BYTE / rate;

	/* What one packet takes is exact to a unit: that adds up. */
	if (bytes < 1 << 20)
		return ((bytes * POLICE_BYTE << EMPTCP_BUCKET_BITS) + rate / 2) / rate;
	if (ns > EMPTCP_BUCKET_LONGEST)
		ns = EMPTCP_BUCKET_LONGEST;
	return ns << EMPTCP_BUCKET_BITS;
}

/* Takes the tokens for a packet; lends: as many as a burst may be taken before they come. */
static __always_inline int police_take(struct emptcp_bucket *bucket, __u32 bytes, __u64 rate,
				       __u64 burst, int lends)
{
	return emptcp_bucket_take(bucket, police_time(bytes, rate), police_time(burst, rate),
				  police_time(1 << 19, rate), lends);
}

static __always_inline int police_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct police_params *p)
{
	struct emptcp_bucket *bucket;
	struct police_key key = {.step = pkt->links->step};
	__u64 rate = p->rate, burst = p->burst;
	int taken = EMPTCP_BUCKET_BEYOND;

	if (p->per == POLICE_PER_SUBFLOW)
		emptcp_subflow_of(pkt, &key.subflow);
	else if (p->per == POLICE_PER_DST)
		emptcp_daddr(pkt, &key.subflow.dst);
	else if (p->per == POLICE_PER_ENTRY)
		key.pad_entry = emptcp_entry(ctx, pkt->links, offsetof(struct police_params, rate));
	bucket = emptcp_bucket_of(&police_buckets, &key);
	if (!bucket)
		return -EMPTCP_REASON_MAP_FULL;
	if (!burst) {
		/* As long as a sender pauses that lost all: TCP_RTO_MIN of Linux is 200 ms. */
		burst = rate / 32;
		if (burst < 128 << 10)
			burst = 128 << 10;
	}
	/* Values of tables have no bounds. */
	if (burst > 1 << 30)
		burst = 1 << 30;
	if (rate)
		taken = police_take(
			bucket, emptcp_wire_len(ctx, pkt, emptcp_segments(ctx, pkt)), rate, burst,
			p->exceed == POLICE_EXCEED_CE && emptcp_ecn(pkt) != EMPTCP_ECN_NOT_ECT);
	if (taken == EMPTCP_BUCKET_WITHIN)
		return EMPTCP_SKIP;
	__sync_fetch_and_add(&bucket->exceeded, 1);
	if (taken == EMPTCP_BUCKET_BEYOND)
		return EMPTCP_DROP;
	if (emptcp_set_ce(ctx, pkt) == EMPTCP_CE_FAILED)
		return -EMPTCP_REASON_WRITE;
	return EMPTCP_NEXT;
}

/* No EMPTCP_EDITS: CE is outside of what an incomplete checksum of TCP covers. */
EMPTCP_ACTOR(police, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE,
	     "Limits the rate by a token bucket: packets beyond it are dropped or marked (CE)");
