/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Announcements that were suppressed, kept so that they can be restored. */
#ifndef __EMPTCP_STASH_H__
#define __EMPTCP_STASH_H__

#include <emptcp/announcer.h>
#include <emptcp/clock.h>
#include <emptcp/edit.h>
#include <emptcp/module.h>
#include <emptcp/suppressed.h>

/** Who announced, and the address id. */
struct emptcp_stash_key {
	struct emptcp_stash_owner owner;
	__u32 addr_id;
};

/** The longest announcement: IPv6, port, HMAC. */
#define EMPTCP_STASH_BYTES 30

/** An ADD_ADDR as it was. Its HMAC is a secret: no type of the vocabulary, so that nothing shows
 * it. */
struct emptcp_stashed {
	/** Behind its len bytes: NOPs. */
	__u8 option[EMPTCP_STASH_BYTES];
	__u8 len;
	__u8 pad;
	/** When it was suppressed last, ns of CLOCK_BOOTTIME. */
	__u64 at;
} __attribute__((aligned(8)));

/** The last of each owner and address id; the oldest go first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_stash_key);
	__type(value, struct emptcp_stashed);
	__uint(max_entries, 4096);
} stash SEC(".maps") EMPTCP_KEPT;

/** Whether they are the same announcement. In words, and without a branch between them. */
static __always_inline int emptcp_stash_equal(const struct emptcp_stashed *a,
					      const struct emptcp_stashed *b)
{
	const __u64 *one = (const void *)a, *other = (const void *)b;
	__u64 differs = 0;

	for (int i = 0; i < offsetof(struct emptcp_stashed, at) / sizeof(*one); i++)
		differs |= one[i] ^ other[i];
	return !differs;
}

/** By owner, so that most packets ask for no more than that. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_stash_owner);
	__type(value, struct emptcp_stash_list);
	__uint(max_entries, 4096);
} stash_lists SEC(".maps") EMPTCP_KEPT;

/* Notes that an announcement waits. Address id 0 is never announced (RFC 8684, 3.4.1). */
static __always_inline void emptcp_stash_note(const struct emptcp_stash_owner *owner, __u32 id)
{
	struct emptcp_stash_list first = {.ids = id}, *list;
	__u64 ids, known = 0;

	list = bpf_map_lookup_elem(&stash_lists, owner);
	if (!list) {
		bpf_map_update_elem(&stash_lists, owner, &first, BPF_ANY);
		return;
	}
	ids = list->ids;
	for (int i = 0; i < 64; i += 8)
		known |= emptcp_is_zero((ids >> i & 0xff) ^ id);
	if (!known)
		list->ids = ids << 8 | id;
}

/** Makes an end of a connection the owner. zone: see emptcp_links.zone. */
static __always_inline void emptcp_stash_of_end(struct emptcp_stash_owner *owner, __u32 zone,
						__u32 token, __u32 by_server)
{
	__builtin_memset(owner, 0, sizeof(*owner));
	owner->subflow.zone = zone;
	owner->token = token;
	owner->has_token = 1;
	owner->by_server = by_server & 1;
}

/* The same for the sender on a subflow that owner names, if the tracker has just seen it announce.
 */
static __always_inline void emptcp_stash_tie(struct emptcp_stash_owner *owner, __u64 now)
{
	const struct emptcp_announcer *end = bpf_map_lookup_elem(&announcers, &owner->subflow);

	/* Another CPU's time may lie ahead. What is older is of another subflow with these ports,
	 * which the tracker did not see. */
	if (!end || (__s64)(now - end->at) >= EMPTCP_ANNOUNCER_NS)
		return;
	emptcp_stash_of_end(owner, owner->subflow.zone, end->token, end->by_server);
}

/**
 * Keeps the ADD_ADDR that begins at off, the offset from the start of the TCP
 * header that a walk found. One whose HMAC is zeros has been suppressed before,
 * and nobody could restore it: what is kept of it stays.
 */
static __always_inline void emptcp_stash_put(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     __u32 off)
{
	struct emptcp_stash_key key = {};
	struct emptcp_stashed *kept;
	struct emptcp_stashed value;
	struct emptcp_pkt again;
	__u32 len, proof = emptcp_forget(0);
	const __u8 *opt;

	off = emptcp_forget(off) & 63;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_ADD_ADDR_BASE);
	if (!opt || emptcp_again(ctx, pkt, &again))
		return;
	value.len = len = emptcp_forget(opt[1]) & 63;
	value.pad = 0;
	key.addr_id = opt[3];
	emptcp_subflow_of(&again, &key.owner.subflow);
	/* Two bytes at a time: so the lengths go. What is not there must not be known as zeros, or
	 * the verifier would follow each length. */
	for (int i = 0; i < EMPTCP_STASH_BYTES; i += 2) {
		__u32 last, behind, two = emptcp_forget(0);

		len = emptcp_forget(len) & 63;
		opt = tcpopt_at(ctx, pkt, off + i, 2);
		if (opt && i < len)
			two = *(const __u16 *)opt;
		behind = (len - 1 - i) >> 31;
		asm volatile("" : "+r"(behind));
		*(__u16 *)(value.option + i) = emptcp_forget(two | behind * TCPOPT_NOP * 0x0101);
		/* 1 for the last eight, without a branch. */
		last = (len - TCPOLEN_MPTCP_ADD_ADDR_HMAC - 1 - i) >> 31;
		asm volatile("" : "+r"(last));
		proof = emptcp_forget(proof | two * last);
	}
	if (!proof)
		return;
	/* Announcements are repeated until they are answered, and an update takes an entry from the
	 * free list and gives one back: five times as long as a look-up. */
	value.at = emptcp_boot_now();
	emptcp_stash_tie(&key.owner, value.at);
	kept = bpf_map_lookup_elem(&stash, &key);
	if (kept && emptcp_stash_equal(kept, &value))
		kept->at = value.at;
	else
		bpf_map_update_elem(&stash, &key, &value, BPF_ANY);
	emptcp_stash_note(&key.owner, key.addr_id);
}

#endif /* __EMPTCP_STASH_H__ */
