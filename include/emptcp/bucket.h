/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A token bucket: of bytes, of packets, of anything that comes at a rate. */
#ifndef __EMPTCP_BUCKET_H__
#define __EMPTCP_BUCKET_H__

#include <emptcp/clock.h>

/** Units of a nanosecond, in which tokens are counted: 64 bytes at 400 Gbit/s make 1.28 ns. */
#define EMPTCP_BUCKET_BITS 8
/** The most tokens that a bucket may have, ns (13 days). */
#define EMPTCP_BUCKET_LONGEST (1ULL << 50)

/**
 * A token bucket as the time at which it will be full again (the theoretical
 * arrival time of a virtual scheduling algorithm, ITU-T I.371), in units of
 * 2^-EMPTCP_BUCKET_BITS ns. It is the sum of two numbers: what was spent only
 * grows, by atomic additions, so no packet is forgotten whichever CPUs the others
 * are on; the start is stored whole, computed from what was spent when it was
 * read, so two that move it do the same. CPUs may see the same tokens at once, and
 * pass a packet each; what they spend is missing after that. A lock
 * (bpf_spin_lock) would have to lie in another map, because one of type LRU_HASH
 * takes none.
 */
struct emptcp_bucket {
	__u64 pad_start;
	__u64 pad_spent;
	/** Packets beyond the rate. */
	__u64 exceeded;
};

/** What emptcp_bucket_take() found. */
enum emptcp_bucket_taken {
	/** Too few tokens; none were taken. */
	EMPTCP_BUCKET_BEYOND,
	EMPTCP_BUCKET_WITHIN,
	/** Taken from those to come. */
	EMPTCP_BUCKET_LENT,
};

/** Now, in the unit of a bucket: the start of one that is full. */
static __always_inline __u64 emptcp_bucket_now(void)
{
	return emptcp_now() << EMPTCP_BUCKET_BITS;
}

/**
 * Takes the tokens for one packet: enum emptcp_bucket_taken. cost: time in which
 * its tokens come; limit: time in which the bucket fills; slack: beyond what
 * the bucket can owe, so that one of another rate begins anew; all in the unit of a
 * bucket. lends: as many as fill the bucket may be taken before they come.
 */
static __always_inline int emptcp_bucket_take(struct emptcp_bucket *bucket, __u64 cost, __u64 limit,
					      __u64 slack, int lends)
{
	__u64 spent = *(volatile __u64 *)&bucket->pad_spent, now = emptcp_bucket_now();
	__s64 missing = *(volatile __u64 *)&bucket->pad_start + spent - now;
	int taken = EMPTCP_BUCKET_WITHIN;

	if (missing <= 0) {
		bucket->pad_start = now - spent;
	} else if (missing + cost > limit) {
		/* More than can be: the rate was another one, or years have passed. */
		if (missing > (__s64)(2 * limit + slack))
			bucket->pad_start = now - spent + limit;
		if (!lends || missing + cost > 2 * limit)
			return EMPTCP_BUCKET_BEYOND;
		taken = EMPTCP_BUCKET_LENT;
	}
	/* So a full bucket lets one pass that is larger than it. */
	__sync_fetch_and_add(&bucket->pad_spent, cost);
	return taken;
}

/** The bucket of a key in a map of type LRU_HASH, a full one where it had none; NULL: the map takes
 * none. */
static __always_inline struct emptcp_bucket *emptcp_bucket_of(void *map, const void *key)
{
	struct emptcp_bucket *bucket = bpf_map_lookup_elem(map, key), first = {};

	if (bucket)
		return bucket;
	first.pad_start = emptcp_bucket_now();
	bpf_map_update_elem(map, key, &first, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

#endif /* __EMPTCP_BUCKET_H__ */
