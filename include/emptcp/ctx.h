/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet's context, one interface for both families of hooks. A module is
 * compiled once with EMPTCP_XDP and once with EMPTCP_TC; only ctx_xdp.h and
 * ctx_tc.h know which.
 *
 * Needs nothing but the uapi headers: packet fields are no CO-RE relocations,
 * so libbpf does not parse the kernel's BTF at each load.
 */
#ifndef __EMPTCP_CTX_H__
#define __EMPTCP_CTX_H__

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#if defined(EMPTCP_XDP) == defined(EMPTCP_TC)
#error "compile with either -DEMPTCP_XDP or -DEMPTCP_TC"
#endif

/** Code behind it goes out of the way of what is usual. */
#define emptcp_unlikely(x) __builtin_expect(!!(x), 0)

#include <emptcp/abi.h>

/** What the steps of one run hand on, as far as the packet's context does not hold it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct emptcp_chain_words);
	__uint(max_entries, 1);
} chain_words SEC(".maps");

static __always_inline struct emptcp_chain_words *emptcp_chain_words(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&chain_words, &zero);
}

#ifdef EMPTCP_XDP
#include <emptcp/ctx_xdp.h>
#else
#include <emptcp/ctx_tc.h>
#endif

/* Not in C: clang takes the member for a number of 32 bits, and copies half of the pointer. */
#define CTX_LOAD_POINTER(to, ctx, member)           \
	asm volatile("%[p] = *(u32 *)(%[c] + %[o])" \
		     : [p] "=r"(to)                 \
		     : [c] "r"(ctx), [o] "i"(offsetof(struct emptcp_ctx, member)))

/** First byte of the packet's linear part. */
static __always_inline void *ctx_data(const struct emptcp_ctx *ctx)
{
	void *p;

	CTX_LOAD_POINTER(p, ctx, data);
	return p;
}

/** Behind the last byte of the packet's linear part. */
static __always_inline void *ctx_data_end(const struct emptcp_ctx *ctx)
{
	void *p;

	CTX_LOAD_POINTER(p, ctx, data_end);
	return p;
}

#endif /* __EMPTCP_CTX_H__ */
