// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/clock.h>
#include <emptcp/module.h>
#include <emptcp/once.h>
#include <emptcp/replace.h>

/*
 * Subtypes that an outsider may send; MP_FASTCLOSE, who knows the key. Not among them: what
 * opens or carries a connection (MP_CAPABLE, MP_JOIN, DSS), what needs a HMAC (ADD_ADDR), and
 * what only a RST carries (MP_TCPRST).
 */
enum inject_option {
	INJECT_REMOVE_ADDR = MPTCP_REMOVE_ADDR,
	INJECT_MP_PRIO = MPTCP_MP_PRIO,
	INJECT_MP_FAIL = MPTCP_MP_FAIL,
	INJECT_MP_FASTCLOSE = MPTCP_MP_FASTCLOSE,
	/* Not assigned. */
	INJECT_SUBTYPE_9 = 9,
	INJECT_SUBTYPE_10 = 10,
	INJECT_SUBTYPE_11 = 11,
	INJECT_SUBTYPE_12 = 12,
	INJECT_SUBTYPE_13 = 13,
	INJECT_SUBTYPE_14 = 14,
	INJECT_MP_EXPERIMENTAL = MPTCP_MP_EXPERIMENTAL,
};

/* The kernel takes so many address ids in one option. */
#define INJECT_IDS 8
/* Bytes of what is not known here: with the first three as many as a packet can grow by. */
#define INJECT_DATA (EMPTCP_GROW_MAX - TCPOLEN_MPTCP_MIN)

struct inject_params {
	enum inject_option option EMPTCP_DOC("What is injected") EMPTCP_REQUIRED;
	EMPTCP_LIST(__u8, INJECT_IDS)
	addr_ids EMPTCP_DOC("Of remove_addr: ids of the addresses");
	EMPTCP_LIST(__u8, INJECT_DATA)
	data EMPTCP_DOC("Of mp_experimental and subtypes without a name: bytes behind the third");
	__u64 number EMPTCP_DOC("Of mp_fastclose: key of the end that receives it, and closes; of "
				"mp_fail: data sequence number")
		EMPTCP_REQUIRED_IF(option, mp_fastclose);
	__u8 flags EMPTCP_DOC("Of mp_experimental and subtypes without a name: the four bits "
			      "beside the subtype") EMPTCP_MAX("15");
	emptcp_bool backup EMPTCP_DOC("Of mp_prio: B, backup") EMPTCP_DEFAULT("false");
	emptcp_bool once EMPTCP_DOC("Into one packet of each direction of a subflow, else "
				    "into all that can carry it") EMPTCP_DEFAULT("true");
	emptcp_bool replace EMPTCP_DOC("With once: an ACK without room gives up its SACK blocks "
				       "for it, or its DSS; else the next one is tried")
		EMPTCP_DEFAULT("true");
};

struct inject_key {
	struct emptcp_subflow subflow;
	emptcp_step_id step;
	/* Of the option: another one is injected too. */
	__u32 hash;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct inject_key);
	/* When: CLOCK_BOOTTIME. */
	__type(value, emptcp_time);
	__uint(max_entries, 65536);
} injected SEC(".maps") EMPTCP_KEPT;

/* Subflows of which a DSS went by that a long option would have taken the place of. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct emptcp_subflow);
	__type(value, emptcp_time);
	__uint(max_entries, 4096);
} inject_passed SEC(".maps") EMPTCP_KEPT;

union inject_bytes {
	__u8 at[EMPTCP_GROW_MAX];
	__u32 words[EMPTCP_GROW_MAX / 4];
};

/* Writes the option, and NOPs behind it; its length, 0 where there is nothing to tell. */
static __always_inline __u32 inject_write(const struct inject_params *p, union inject_bytes *to)
{
	__u32 len = TCPOLEN_MPTCP_MIN, flags = 0;

	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++)
		to->words[i] = TCPOPT_NOP * 0x01010101U;
	switch (p->option) {
	case INJECT_REMOVE_ADDR:
		if (!p->addr_ids.count)
			return 0;
#pragma unroll
		for (int i = 0; i < INJECT_IDS; i++)
			if (i < p->addr_ids.count)
				to->at[TCPOLEN_MPTCP_MIN + i] = p->addr_ids.items[i];
		len += p->addr_ids.count;
		break;
	case INJECT_MP_FAIL:
	case INJECT_MP_FASTCLOSE:
		/* RFC 8684, 3.5 and 3.7: 12 bits reserved, a number of 64 bits. */
		to->at[TCPOLEN_MPTCP_MIN] = 0;
		to->words[1] = bpf_htonl(p->number >> 32);
		to->words[2] = bpf_htonl(p->number);
		len = 12;
		break;
	case INJECT_MP_PRIO:
		flags = p->backup ? MPTCP_BACKUP : 0;
		break;
	default:
#pragma unroll
		for (int i = 0; i < INJECT_DATA; i++)
			if (i < p->data.count)
				to->at[TCPOLEN_MPTCP_MIN + i] = p->data.items[i];
		len += p->data.count;
		flags = p->flags & 15;
	}
	to->at[0] = TCPOPT_MPTCP;
	to->at[1] = len;
	to->at[2] = p->option << 4 | flags;
	return len;
}

/* FNV-1a over words. */
static __always_inline __u32 inject_hash(const union inject_bytes *option)
{
	__u32 hash = 2166136261U;

	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++)
		hash = (hash ^ option->words[i]) * 16777619U;
	return hash;
}

/*
 * An ACK that has no room: may it give up options? The DSS only where one went by before in this
 * direction: the first establishes the subflow.
 */
static __always_inline int inject_replaces(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct emptcp_subflow *subflow, __u32 bytes,
					   __u32 others, struct emptcp_room *room)
{
	int passed = bpf_map_lookup_elem(&inject_passed, subflow) != NULL, ret;
	emptcp_time now = emptcp_boot_now();

	passed = emptcp_forget(passed);
	ret = emptcp_may_replace(ctx, pkt, bytes, passed, others, room);
	if (ret == EMPTCP_NEXT)
		return ret;
	bpf_map_update_elem(&inject_passed, subflow, &now, BPF_ANY);
	return ret;
}

static __always_inline int inject_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				      const struct inject_params *p)
{
	int ret, syn = pkt->tcp->syn;
	struct emptcp_room room = {};
	union inject_bytes option;
	struct inject_key key;
	__u32 others;
	emptcp_time now = 0;
	__u32 len;

	if (!syn && !emptcp_can_carry(ctx, pkt))
		return EMPTCP_SKIP;
	len = inject_write(p, &option);
	if (!len)
		return -EMPTCP_REASON_NO_VALUE;
	if (syn && !p->once)
		return EMPTCP_SKIP;
	if (p->once) {
		emptcp_subflow_of(pkt, &key.subflow);
		key.step = pkt->links->step;
		key.hash = inject_hash(&option);
		if (syn) {
			/* A new subflow with these ports. */
			bpf_map_delete_elem(&injected, &key);
			bpf_map_delete_elem(&inject_passed, &key.subflow);
			return EMPTCP_SKIP;
		}
		if (bpf_map_lookup_elem(&injected, &key))
			return EMPTCP_SKIP;
	}
	len = emptcp_grow_bytes(len);
	ret = emptcp_may_grow(ctx, pkt, len, &others);
	if (ret == -EMPTCP_REASON_NO_ROOM && p->once && p->replace)
		ret = inject_replaces(ctx, pkt, &key.subflow, len, others, &room);
	if (ret != EMPTCP_NEXT)
		return ret;
	/* Of two in one packet the kernel takes the last one. */
	if (others >> (p->option & 15) & 1)
		return EMPTCP_SKIP;
	if (p->once) {
		now = emptcp_boot_now();
		ret = emptcp_claim(&injected, &key, &now, BPF_NOEXIST);
		if (ret != EMPTCP_NEXT)
			return ret;
	}
	ret = emptcp_grow_or_replace(ctx, pkt, option.at, len, &room);
	if (p->once && ret != EMPTCP_NEXT)
		bpf_map_delete_elem(&injected, &key);
	return ret;
}

EMPTCP_ACTOR(inject, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS,
	     "Adds an option of Multipath TCP to an ACK: one that no HMAC vouches for");
