// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes down what the hashes of Multipath TCP make of its parameters. */
#include <emptcp/module.h>
#include <emptcp/sha.h>

struct toolkit_sha_params {
	__u64 first EMPTCP_DOC("Key of the one end") EMPTCP_REQUIRED;
	__u64 second EMPTCP_DOC("Key of the other one") EMPTCP_REQUIRED;
	EMPTCP_LIST(__u8, 24) message EMPTCP_DOC("What to sign") EMPTCP_REQUIRED;
};

struct hashes {
	__u32 token0;
	__u32 token1;
	__u64 idsn0;
	__u64 idsn1;
	__u32 hmac[SHA_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct hashes);
	__uint(max_entries, 1);
} hashes SEC(".maps");

static __always_inline int toolkit_sha_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct toolkit_sha_params *p)
{
	struct sha_scratch *s = sha_scratch_of_cpu();
	__u32 zero = 0;
	struct hashes *h = bpf_map_lookup_elem(&hashes, &zero);

	if (!s || !h)
		return -EMPTCP_REASON_MAP_FULL;
	h->token0 = mptcp_key_token(s, 0, p->first, &h->idsn0);
	h->token1 = mptcp_key_token(s, 1, p->first, &h->idsn1);
	for (int i = 0; i < 24; i++)
		s->message[i] = i < p->message.count ? p->message.items[i] : 0xff;
	mptcp_hmac(s, p->first, p->second, p->message.count);
	for (int i = 0; i < SHA_WORDS; i++)
		h->hmac[i] = s->h[i];
	return EMPTCP_NEXT;
}

EMPTCP_ACTOR(toolkit_sha, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES,
	     "Writes down tokens and HMACs");
