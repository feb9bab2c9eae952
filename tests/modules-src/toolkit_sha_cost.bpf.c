// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Makes one hash of Multipath TCP, or none, for each packet: what it costs. */
#include <emptcp/module.h>
#include <emptcp/sha.h>

enum toolkit_sha_cost_hash {
	TOOLKIT_SHA_COST_NONE,
	TOOLKIT_SHA_COST_SHA1,
	TOOLKIT_SHA_COST_SHA256,
	TOOLKIT_SHA_COST_HMAC,
};

struct toolkit_sha_cost_params {
	enum toolkit_sha_cost_hash hash EMPTCP_DOC("What to make") EMPTCP_REQUIRED;
};

/* Bytes that the HMAC of an IPv4 announcement covers: address id, address, port. */
#define MESSAGE 7

static __always_inline int toolkit_sha_cost_act(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt,
						const struct toolkit_sha_cost_params *p)
{
	struct sha_scratch *s = sha_scratch_of_cpu();
	/* Of the hash before: no two are equal. */
	__u64 key, idsn;

	if (!s)
		return -EMPTCP_REASON_MAP_FULL;
	key = s->h[0];
	if (p->hash == TOOLKIT_SHA_COST_SHA1)
		mptcp_key_token(s, 0, key, &idsn);
	else if (p->hash == TOOLKIT_SHA_COST_SHA256)
		mptcp_key_token(s, 1, key, &idsn);
	else if (p->hash == TOOLKIT_SHA_COST_HMAC)
		mptcp_hmac(s, key, key, MESSAGE);
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(toolkit_sha_cost, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES, "What a hash costs");
