/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All that the author of a module includes.
 *
 * A selector is three things: its parameters, a function, and one line that
 * declares it. With a file bpf/selectors/dport.bpf.c:
 *
 *	struct dport_params {
 *		emptcp_port port EMPTCP_DOC("Destination port") EMPTCP_REQUIRED;
 *	};
 *
 *	static __always_inline int dport_match(struct emptcp_ctx *ctx,
 *					       const struct emptcp_pkt *pkt,
 *					       const struct dport_params *p)
 *	{
 *		return bpf_ntohs(pkt->tcp->dest) == p->port;
 *	}
 *
 *	EMPTCP_SELECTOR(dport, EMPTCP_HOOKS_ALL, "5.10", "", "Destination port");
 *
 * An actor is the same with dport_act() and EMPTCP_ACTOR. The function gets a
 * TCP packet that is parsed already; the program around it counts and goes on
 * to the next step. A selector returns 1 (match), 0 (miss) or minus a value of
 * enum emptcp_reason; an actor a value of enum emptcp_verdict, or minus a
 * reason. On a reason the packet passes unchanged, so test before you write.
 *
 * Everything that the loader, the JSON checker and the documentation know of a
 * module they read from here, through BTF.
 */
#ifndef __EMPTCP_MODULE_H__
#define __EMPTCP_MODULE_H__

#include <emptcp/chain.h>
#include <emptcp/mptcp.h>
#include <emptcp/parse.h>
#include <emptcp/types.h>
#include <emptcp/values.h>

#define EMPTCP_TAG(text) __attribute__((btf_decl_tag("emptcp:" text)))
#define EMPTCP_STRING_(x) #x
#define EMPTCP_STRING(x) EMPTCP_STRING_(x)

/** Hooks of a module. */
#define EMPTCP_HOOKS_ALL "xdp,tc-ingress,tc-egress"
#define EMPTCP_HOOKS_TC "tc-ingress,tc-egress"
#define EMPTCP_HOOKS_TC_EGRESS "tc-egress"
#define EMPTCP_HOOKS_XDP "xdp"

/** Flags of a module, separated by commas inside one string: "edits,impure". */
/** Its result does not depend on packet and parameters alone. */
#define EMPTCP_IMPURE "impure"
/** Changes bytes that the checksum of TCP covers: at XDP it may still be incomplete. */
#define EMPTCP_EDITS "edits"
/**
 * An actor that changes nothing that a selector may see: neither bytes nor mark
 * of the packet, nor a map that a selector reads. What selectors said before it
 * still holds behind it, and later chains do not ask them again.
 */
#define EMPTCP_OBSERVES "observes"
/** Never leads to a next step. */
#define EMPTCP_ENDS "ends"
/** Reads or writes words of the chain context. */
#define EMPTCP_CONTEXT "context"

/**
 * Gives packets a time to leave (ctx_set_departure()), which the queueing
 * discipline fq alone heeds: apply refuses interfaces that do not have it.
 */
#define EMPTCP_NEEDS_FQ "fq"

/**
 * The tracker itself: a selector, and the actor behind it, which come first in
 * every path where a step needs what it remembers. Not for policies to name.
 */
#define EMPTCP_TRACKS "tracks"
/** Goes by what the tracker remembers (tracked.h). */
#define EMPTCP_TRACKED "tracked"
/** Beside it: goes by the bytes of connections, which the tracker keeps up with each packet where a
 * step has this flag alone: each payload costs it a look-up. */
#define EMPTCP_TOTALS "totals"

/** Tags of a parameter: a line for people; must be given; value if not given; bounds, as in JSON.
 */
#define EMPTCP_DOC(text) EMPTCP_TAG("doc:" text)
#define EMPTCP_REQUIRED EMPTCP_TAG("required")
#define EMPTCP_DEFAULT(text) EMPTCP_TAG("default:" text)
#define EMPTCP_MIN(text) EMPTCP_TAG("min:" text)
#define EMPTCP_MAX(text) EMPTCP_TAG("max:" text)

/** Must be given where the parameter other, an enum, is given as this value. */
#define EMPTCP_REQUIRED_IF(other, value) EMPTCP_TAG("required-if:" #other "=" #value)

/** A module with the flag EMPTCP_EDITS edits only where this parameter is not zero: of an enum, not
 * the value 0. */
#define EMPTCP_EDITS_IF EMPTCP_TAG("edits-if")
/**
 * At an integer without sign: a step in which it is not given goes by what the tracker remembers
 * (learnt.h), which then comes before it, as with the flag EMPTCP_TRACKED; one in which it is given
 * needs no tracker. Not given it has all bits set, which must not be a value: see EMPTCP_MAX.
 */
#define EMPTCP_TRACKED_UNLESS EMPTCP_TAG("tracked-unless")
/**
 * Behind the structure of the parameters: what whoever puts the module in force
 * should know, in one line: apply and check print it.
 */
#define EMPTCP_WARNS(text) EMPTCP_TAG("warns:" text)

/** At an emptcp_ifindex: packets leave by it past routing, so apply and check look whether it
 * can take them. */
#define EMPTCP_LEAVES_BY EMPTCP_TAG("leaves-by")

/**
 * At a parameter of a selector: what an event tells is compared with it, where `emptcp monitor
 * --select` asks events instead of packets. Each parameter that selects needs one; what an event
 * does not tell stays open. fact is one of
 *
 * - src, dst, announced (addresses, prefixes or lists of them), sport, dport, announced_port
 * (ports, ranges or lists), token (emptcp_token), addr_id (numbers or a list): one of these;
 * - sender (client, server), kind (initial, joined), fallback, version (v0, v1), echo (no, yes; any
 *   demands nothing): of an enum or EMPTCP_SET() by these names; backup: emptcp_bool;
 * - index, count, subflow_bytes, conn_bytes, age (emptcp_time) with ":min" or ":max": a bound;
 * - of (connection, subflow), direction (both, up, down, packet, reply), either (emptcp_bool): what
 *   the others mean.
 *
 * What the first one is about must be told at all, also where a list or set is empty.
 */
#define EMPTCP_EVENT_FACT(fact) EMPTCP_TAG("event:" fact)

/** A map that takes the items of the list of this name where they are too many for the parameters.
 */
#define EMPTCP_TABLE_OF(list) EMPTCP_TAG("table-of:" #list)

/**
 * A map that is a parameter: a table of the policy takes its place. Its key is
 * struct emptcp_prefix_key, emptcp_addr or emptcp_subflow, emptcp_token or
 * emptcp_port_key; its value a type that a table can hold, or __u8 for any
 * table, of which only the keys count. With EMPTCP_DOC and EMPTCP_REQUIRED as
 * at a member.
 */
#define EMPTCP_PARAM EMPTCP_TAG("param")

/**
 * Beside EMPTCP_PARAM, at one map of a selector: the table that it looks up by
 * the functions of tables.h. It is given in the place of the parameters that
 * are required, and its values go to the actors behind.
 */
#define EMPTCP_LOOKUP EMPTCP_TAG("lookup")

/** How long a map of a module lives: with its step (the default), with all steps of its name, or
 * over every apply. */
#define EMPTCP_PER_STEP EMPTCP_TAG("scope:step")
#define EMPTCP_SHARED EMPTCP_TAG("scope:policy")
#define EMPTCP_KEPT EMPTCP_TAG("scope:keep")

/** How many entries the map has, where a policy sets this limit. */
#define EMPTCP_LIMIT(name) EMPTCP_TAG("limit:" #name)

/** Licence of the module, one that the kernel takes for compatible with the GPL; another one may be
 * defined before this file is included. */
#ifndef EMPTCP_LICENSE
#define EMPTCP_LICENSE "Dual BSD/GPL"
#endif

/** Another name of the module in JSON, before the line that declares it. */
#define EMPTCP_ALIAS(name, alias) EMPTCP_TAG("alias:" alias) int name(struct emptcp_ctx *ctx)

/** Parameters of a module that has none. */
#define EMPTCP_NO_PARAMS(name) \
	struct name##_params { \
		__u8 unused;   \
	}

/* The loader gives every step its own bytes here; hidden from clang, which would fold the zeros in.
 */
#define EMPTCP_STEP_OF(name)                                                                \
	({                                                                                  \
		const struct emptcp_step *step_ = (const struct emptcp_step *)&emptcp_step; \
		asm("" : "+r"(step_));                                                      \
		step_;                                                                      \
	})

#define EMPTCP_MODULE_(kind_, name, hooks_, since_, flags_, doc_)        \
	struct emptcp_step {                                             \
		struct emptcp_links links;                               \
		struct name##_params params __attribute__((aligned(8))); \
	};                                                               \
	const volatile struct emptcp_step emptcp_step = {};              \
	char _license[] SEC("license") = EMPTCP_LICENSE;                 \
	EMPTCP_TAG("abi:" EMPTCP_STRING(EMPTCP_ABI))                     \
	EMPTCP_TAG("kind:" kind_)                                        \
	EMPTCP_TAG("hooks:" hooks_)                                      \
	EMPTCP_TAG("since:" since_)                                      \
	EMPTCP_TAG("flags:" flags_)                                      \
	EMPTCP_TAG("doc:" doc_)                                          \
	SEC(EMPTCP_CTX_SECTION)

/** Declares the selector name, whose test is name_match(); see the top of this file. */
#define EMPTCP_SELECTOR(name, hooks_, since_, flags_, doc_)            \
	EMPTCP_MODULE_("selector", name, hooks_, since_, flags_, doc_) \
	int name(struct emptcp_ctx *ctx)                               \
	{                                                              \
		const struct emptcp_step *step = EMPTCP_STEP_OF(name); \
		struct emptcp_pkt pkt = {.links = &step->links};       \
		int ret;                                               \
                                                                       \
		if (emptcp_leave_counters())                           \
			return CTX_PASS;                               \
		ret = emptcp_take_parsed(ctx, &pkt);                   \
		if (emptcp_unlikely(ret))                              \
			return emptcp_lost(ret, 0);                    \
		ret = name##_match(ctx, &pkt, &step->params);          \
		return emptcp_selector_end(ctx, ret);                  \
	}                                                              \
	_Static_assert(1, "")

/** Declares the actor name, whose work is name_act(); see the top of this file. */
#define EMPTCP_ACTOR(name, hooks_, since_, flags_, doc_)                                \
	EMPTCP_MODULE_("actor", name, hooks_, since_, flags_, doc_)                     \
	int name(struct emptcp_ctx *ctx)                                                \
	{                                                                               \
		const struct emptcp_step *step = EMPTCP_STEP_OF(name);                  \
		__u64 own[EMPTCP_OWN_WORDS(sizeof(step->params))];                      \
		const struct name##_params *params;                                     \
		struct emptcp_pkt pkt = {.links = &step->links};                        \
		__u64 bytes = 0;                                                        \
		int ret;                                                                \
                                                                                        \
		if (emptcp_leave_counters())                                            \
			return CTX_PASS;                                                \
		if (emptcp_is(EMPTCP_IS_CHAIN_BYTES))                                   \
			bytes = ctx_len(ctx, emptcp_is(EMPTCP_IS_FRAGS));               \
		ret = emptcp_take_parsed(ctx, &pkt);                                    \
		if (emptcp_unlikely(ret))                                               \
			return emptcp_lost(ret, bytes);                                 \
		params = emptcp_params(ctx, &step->links, &step->params, own,           \
				       sizeof(step->params));                           \
		ret = params ? name##_act(ctx, &pkt, params) : -EMPTCP_REASON_NO_VALUE; \
		return emptcp_actor_end(ctx, ret, bytes);                               \
	}                                                                               \
	_Static_assert(1, "")

#endif /* __EMPTCP_MODULE_H__ */
