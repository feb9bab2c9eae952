/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parameters of actors that come from tables: the selector that finds a value
 * leaves it in a slot of its chain, the actor takes it from there.
 */
#ifndef __EMPTCP_VALUES_H__
#define __EMPTCP_VALUES_H__

#include <emptcp/ctx.h>

/** Bytes of parameters that an actor may have if some of them come from tables: they are copied. */
#define EMPTCP_OWN_MAX 128
/** Words of 8 bytes of that copy. */
#define EMPTCP_OWN_WORDS(size) ((size) <= EMPTCP_OWN_MAX ? ((size) + 7) / 8 : 1)

/** Bit of EMPTCP_WORD_FOUND for a slot. */
#define EMPTCP_FOUND_BIT(slot) (1U << (16 + ((slot) & (EMPTCP_VALUE_SLOTS - 1))))

/** Leaves a value of a table, of which 8 bytes can be read, to the actors of the chain. */
static __always_inline void emptcp_leave_value(struct emptcp_ctx *ctx,
					       const struct emptcp_links *links, const void *value)
{
	struct emptcp_chain_words *chain = emptcp_chain_words();
	__u32 found = ctx_word(ctx, EMPTCP_WORD_FOUND);

	if (!chain)
		return;
	chain->values[links->slot & (EMPTCP_VALUE_SLOTS - 1)] = *(const __u64 *)value;
	/* A number for all who read it: CAP_PERFMON lets it be one to the verifier. */
	chain->entries[links->slot & (EMPTCP_VALUE_SLOTS - 1)] = (unsigned long)value;
	/* What an earlier chain found is void. */
	if ((found & 0xffff) != links->chain)
		found = links->chain;
	ctx_set_word(ctx, EMPTCP_WORD_FOUND, found | EMPTCP_FOUND_BIT(links->slot));
}

/**
 * The parameters of an actor: those given, or own, a copy with the values that
 * tables have for this packet. NULL where one is missing that has no default.
 */
static __always_inline const void *emptcp_params(struct emptcp_ctx *ctx,
						 const struct emptcp_links *links,
						 const void *given, __u64 *own, const __u32 size)
{
	const struct emptcp_chain_words *chain;
	__u32 found;

	if (size > EMPTCP_OWN_MAX || !links->from_tables)
		return given;
	chain = emptcp_chain_words();
	if (!chain)
		return NULL;
	found = ctx_word(ctx, EMPTCP_WORD_FOUND);
	if ((found & 0xffff) != links->chain)
		found = 0;
	__builtin_memcpy(own, given, size);
#pragma unroll
	for (int i = 0; i < EMPTCP_FROM_TABLE_MAX; i++) {
		const struct emptcp_from_table *from = &links->from_table[i];
		/* In the order of its bytes: a value begins with the first. */
		const void *value = &chain->values[from->slot & (EMPTCP_VALUE_SLOTS - 1)];
		void *to = (void *)own + from->offset;

		if (i >= links->from_tables)
			break;
		if (!(found & EMPTCP_FOUND_BIT(from->slot))) {
			if (links->defaults & (1 << i))
				continue;
			return NULL;
		}
		if (from->size == 8)
			*(__u64 *)to = *(const __u64 *)value;
		else if (from->size == 4)
			*(__u32 *)to = *(const __u32 *)value;
		else if (from->size == 2)
			*(__u16 *)to = *(const __u16 *)value;
		else
			*(__u8 *)to = *(const __u8 *)value;
	}
	/* The actor reads them as members of other types. */
	asm volatile("" : : : "memory");
	return own;
}

/**
 * The entry of a table that gave an actor's parameter for this packet, as a number that tells
 * entries apart as long as they are not written anew (its address: a longest prefix that
 * matched is not told otherwise). offset: of the parameter in the structure. 0 where it comes from
 * no table, or from its default.
 */
static __always_inline __u64 emptcp_entry(struct emptcp_ctx *ctx, const struct emptcp_links *links,
					  const __u32 offset)
{
	const struct emptcp_chain_words *chain;
	__u32 found;

	if (!links->from_tables)
		return 0;
	chain = emptcp_chain_words();
	found = ctx_word(ctx, EMPTCP_WORD_FOUND);
	if (!chain || (found & 0xffff) != links->chain)
		return 0;
#pragma unroll
	for (int i = 0; i < EMPTCP_FROM_TABLE_MAX; i++) {
		const struct emptcp_from_table *from = &links->from_table[i];

		if (i >= links->from_tables)
			break;
		if (from->offset == offset && found & EMPTCP_FOUND_BIT(from->slot))
			return chain->entries[from->slot & (EMPTCP_VALUE_SLOTS - 1)];
	}
	return 0;
}

#endif /* __EMPTCP_VALUES_H__ */
