/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Multipath TCP options: version 1 (RFC 8684, 3) and version 0 (RFC 6824, 3).
 *
 * The structures are as options lie in the packet, in network byte order,
 * without padding. An option begins anywhere, so their members are not aligned.
 * What is there of a structure tells the length of the option. Lengths are those
 * that mptcp_parse_option() of the kernel takes; it ignores options of others.
 */
#ifndef __EMPTCP_MPTCP_H__
#define __EMPTCP_MPTCP_H__

#include <emptcp/tcpopt.h>

/** The shortest MPTCP option: kind, length, subtype. */
#define TCPOLEN_MPTCP_MIN 3

/** Subtypes (RFC 8684, 8.2): the upper four bits of the third byte. */
enum mptcp_subtype {
	MPTCP_MP_CAPABLE = 0,
	MPTCP_MP_JOIN = 1,
	MPTCP_DSS = 2,
	MPTCP_ADD_ADDR = 3,
	MPTCP_REMOVE_ADDR = 4,
	MPTCP_MP_PRIO = 5,
	MPTCP_MP_FAIL = 6,
	MPTCP_MP_FASTCLOSE = 7,
	/** Not in version 0. */
	MPTCP_MP_TCPRST = 8,
	/** Not in version 0. */
	MPTCP_MP_EXPERIMENTAL = 15,
};

/** Lengths of options in bytes. */
enum mptcp_len {
	/** MP_CAPABLE: SYN of version 1, without a key. */
	TCPOLEN_MPTCP_MPC_SYN = 4,
	/** SYN of version 0 and SYN/ACK: the sender's key. */
	TCPOLEN_MPTCP_MPC_SYNACK = 12,
	/** Third ACK: both keys. */
	TCPOLEN_MPTCP_MPC_ACK = 20,
	/** Version 1, first data: both keys and a data-level length. */
	TCPOLEN_MPTCP_MPC_DATA = 22,
	/** The same with a checksum. */
	TCPOLEN_MPTCP_MPC_DATA_CSUM = 24,
	/** MP_JOIN: the length alone tells which of the three it is. */
	TCPOLEN_MPTCP_MPJ_SYN = 12,
	TCPOLEN_MPTCP_MPJ_SYNACK = 16,
	TCPOLEN_MPTCP_MPJ_ACK = 24,
	/** DSS without anything that its flags announce; see mptcp_dss_len(). */
	TCPOLEN_MPTCP_DSS_BASE = 4,
	TCPOLEN_MPTCP_DSS_CHECKSUM = 2,
	/** ADD_ADDR of version 0, and echoes; a port takes 2 more. */
	TCPOLEN_MPTCP_ADD_ADDR_BASE = 8,
	TCPOLEN_MPTCP_ADD_ADDR6_BASE = 20,
	TCPOLEN_MPTCP_PORT = 2,
	/** Truncated HMAC of version 1, in what is no echo. */
	TCPOLEN_MPTCP_ADD_ADDR_HMAC = 8,
	/** REMOVE_ADDR without ids; the kernel takes 1 to 8. */
	TCPOLEN_MPTCP_RM_ADDR_BASE = 3,
	/** MP_PRIO; version 0 also has one with an address id. */
	TCPOLEN_MPTCP_PRIO = 3,
	TCPOLEN_MPTCP_PRIO_ID = 4,
	TCPOLEN_MPTCP_FAIL = 12,
	TCPOLEN_MPTCP_FASTCLOSE = 12,
	TCPOLEN_MPTCP_RST = 4,
};

/** Third byte of MP_CAPABLE: the version in the lower four bits. Of flags: */
enum mptcp_capable_flags {
	/** A: checksums are required. */
	MPTCP_CAP_CHECKSUM = 0x80,
	/** B: extensibility, must be 0. */
	MPTCP_CAP_EXTENSIBILITY = 0x40,
	/** C: no MP_JOIN to this address and port (version 1). */
	MPTCP_CAP_DENY_JOIN_ID0 = 0x20,
	/** H: HMAC-SHA256 (version 1), HMAC-SHA1 (version 0). */
	MPTCP_CAP_HMAC = 0x01,
};

/** B of the third byte of MP_JOIN (SYN, SYN/ACK) and MP_PRIO: backup. */
#define MPTCP_BACKUP 0x01
/** E of the third byte of ADD_ADDR in version 1: echo. In version 0 these bits are 4 or 6. */
#define MPTCP_ADD_ADDR_ECHO 0x01

/** Flags of a DSS (RFC 8684, 3.3). */
enum mptcp_dss_flags {
	/** A: data ACK present. */
	MPTCP_DSS_HAS_ACK = 0x01,
	/** a: it has 8 bytes, else 4. */
	MPTCP_DSS_ACK64 = 0x02,
	/** M: mapping present. */
	MPTCP_DSS_HAS_MAP = 0x04,
	/** m: its data sequence number has 8 bytes, else 4. */
	MPTCP_DSS_DSN64 = 0x08,
	/** F: DATA_FIN. */
	MPTCP_DSS_DATA_FIN = 0x10,
};

/** What every MPTCP option begins with. */
struct mptcp_option {
	/** TCPOPT_MPTCP. */
	__u8 kind;
	__u8 len;
	/** Subtype in the upper four bits; the lower ones are the subtype's own. */
	__u8 sub;
};

/** MP_CAPABLE (RFC 8684, 3.1). */
struct mptcp_capable {
	__u8 kind;
	__u8 len;
	/** Lower four bits: version. */
	__u8 sub;
	/** enum mptcp_capable_flags. */
	__u8 flags;
	__be32 sender_key[2];
	__be32 receiver_key[2];
	__be16 data_len;
	__sum16 csum;
};

/** MP_JOIN of a SYN (RFC 8684, 3.2). */
struct mptcp_join_syn {
	__u8 kind;
	__u8 len;
	/** Lower four bits: MPTCP_BACKUP. */
	__u8 sub;
	__u8 addr_id;
	/** That of the receiver. */
	__be32 token;
	__be32 nonce;
};

/** MP_JOIN of a SYN/ACK. */
struct mptcp_join_synack {
	__u8 kind;
	__u8 len;
	__u8 sub;
	__u8 addr_id;
	__be32 hmac[2];
	__be32 nonce;
};

/** MP_JOIN of a third ACK. */
struct mptcp_join_ack {
	__u8 kind;
	__u8 len;
	__u8 sub;
	__u8 reserved;
	__be32 hmac[5];
};

/** DSS (RFC 8684, 3.3): what follows is told by flags. */
struct mptcp_dss {
	__u8 kind;
	__u8 len;
	__u8 sub;
	/** enum mptcp_dss_flags. */
	__u8 flags;
};

/** ADD_ADDR (RFC 8684, 3.4.1): a port and a truncated HMAC may follow the address. */
struct mptcp_add_addr {
	__u8 kind;
	__u8 len;
	/** Lower four bits: MPTCP_ADD_ADDR_ECHO; version 0: 4 or 6. */
	__u8 sub;
	__u8 addr_id;
	union {
		__be32 addr4;
		__be32 addr6[4];
	};
};

/** REMOVE_ADDR (RFC 8684, 3.4.2): one address id behind the other. */
struct mptcp_remove_addr {
	__u8 kind;
	__u8 len;
	__u8 sub;
	__u8 ids[1];
};

/** MP_PRIO (RFC 8684, 3.3.8). */
struct mptcp_prio {
	__u8 kind;
	__u8 len;
	/** Lower four bits: MPTCP_BACKUP. */
	__u8 sub;
	/** Version 0 only, and only if len is TCPOLEN_MPTCP_PRIO_ID. */
	__u8 addr_id;
};

/** MP_FAIL (RFC 8684, 3.7). */
struct mptcp_fail {
	__u8 kind;
	__u8 len;
	__u8 sub;
	__u8 reserved;
	__be32 dsn[2];
};

/** MP_FASTCLOSE (RFC 8684, 3.5). */
struct mptcp_fastclose {
	__u8 kind;
	__u8 len;
	__u8 sub;
	__u8 reserved;
	__be32 receiver_key[2];
};

/** MP_TCPRST (RFC 8684, 3.6). */
struct mptcp_rst {
	__u8 kind;
	__u8 len;
	/** Lower four bits: U, V, W, T. */
	__u8 sub;
	__u8 reason;
};

/** 32 bits of an option, in the byte order of the machine. */
static __always_inline __u32 mptcp_be32(const void *at)
{
	return bpf_ntohl(*(const __be32 *)at);
}

/** 64 bits of an option, in the byte order of the machine. */
static __always_inline __u64 mptcp_be64(const void *at)
{
	return bpf_be64_to_cpu(*(const __be64 *)at);
}

/** Subtype of an option, from its third byte; 0 to 15. */
static __always_inline __u32 mptcp_subtype(const __u8 *opt)
{
	return opt[2] >> 4;
}

/** Bytes from the begin of a DSS to its mapping; flags: enum mptcp_dss_flags. */
static __always_inline __u32 mptcp_dss_map_off(__u32 flags)
{
	/* In numbers, without branches, of which the verifier would follow each. */
	return TCPOLEN_MPTCP_DSS_BASE + ((flags & MPTCP_DSS_HAS_ACK) << 2 << (flags >> 1 & 1));
}

/** Length that a DSS with these flags has without its checksum, which makes 2 bytes more. */
static __always_inline __u32 mptcp_dss_len(__u32 flags)
{
	return mptcp_dss_map_off(flags) + (flags >> 2 & 1) * (10 + ((flags >> 3 & 1) << 2));
}

/** Whether a DSS of this length has what its flags announce, with or without a checksum. */
static __always_inline int mptcp_dss_is_whole(__u32 flags, __u32 len)
{
	__u32 more = len - mptcp_dss_len(flags);

	return (more & ~(__u32)TCPOLEN_MPTCP_DSS_CHECKSUM) == 0;
}

/**
 * Offset from the start of the TCP header of the packet's first MPTCP option,
 * 0 where it has none.
 */
static __always_inline __u32 mptcp_find(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt)
{
	return tcpopt_find(ctx, pkt, TCPOPT_MPTCP, TCPOLEN_MPTCP_MIN);
}

/**
 * Whether an ADD_ADDR of this length has what its third byte announces. The
 * lower four bits: 4 or 6 the family in version 0, else E in the last one.
 * Without E there is a truncated HMAC.
 */
static __always_inline int mptcp_add_addr_is_whole(__u32 sub, __u32 len)
{
	const __u32 four = 1 << 8 | 1 << 10, six = 1 << 20 | 1 << 22;
	const __u32 hmac = TCPOLEN_MPTCP_ADD_ADDR_HMAC;
	__u32 lens = four << hmac | six << hmac;

	if (sub & MPTCP_ADD_ADDR_ECHO)
		lens = four | six;
	else if ((sub & 15) == 4)
		lens = four;
	else if ((sub & 15) == 6)
		lens = six;
	return len < 32 && lens >> len & 1;
}

/** Whether a whole ADD_ADDR of this length has an IPv6 address. */
static __always_inline int mptcp_add_addr_is6(__u32 len)
{
	return len >= TCPOLEN_MPTCP_ADD_ADDR6_BASE;
}

/** Whether a whole ADD_ADDR of this length has a port, right behind its address. */
static __always_inline int mptcp_add_addr_has_port(__u32 len)
{
	return len & TCPOLEN_MPTCP_PORT;
}

/** MPTCP options of one packet at most: as many of 3 bytes as there is room for. */
#define MPTCP_OPTIONS_MAX 13

/**
 * Where the MPTCP options of a packet are: offsets from the start of the TCP
 * header in 6 bits each, the last option lowest; older than the tenth in more.
 */
struct mptcp_options {
	__u64 last;
	__u64 more;
};

/** Bits of an offset in struct mptcp_options. */
#define MPTCP_OFF_BITS 6
#define MPTCP_OFF_MASK ((1 << MPTCP_OFF_BITS) - 1)
/** Bits of the offsets in one of its members. */
#define MPTCP_OFFS_BITS 60

static __always_inline int mptcp_collect_visit(const struct tcpopt *opt, void *arg)
{
	struct mptcp_options *found = arg;

	found->more =
		found->more << MPTCP_OFF_BITS | found->last >> (MPTCP_OFFS_BITS - MPTCP_OFF_BITS);
	found->last = (found->last << MPTCP_OFF_BITS | opt->off) & ((1ULL << MPTCP_OFFS_BITS) - 1);
	return TCPOPT_GO_ON;
}

/** Finds all MPTCP options of a packet that have min_len (3 or more) bytes. */
static __always_inline void mptcp_collect(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  __u32 min_len, struct mptcp_options *found)
{
	__u64 none = emptcp_forget(0);

	/* Zero, of which the verifier knows as little as of what is found: rounds join. */
	none |= none << 32;
	asm volatile("" : "+r"(none));
	found->last = none & ((1ULL << MPTCP_OFFS_BITS) - 1);
	found->more = none;
	tcpopt_walk(ctx, pkt, TCPOPT_MPTCP, min_len, mptcp_collect_visit, found);
}

/**
 * mptcp_walk() over what mptcp_collect() found. rounds (a constant): options at
 * most, TCPOPT_SPACE divided by the least length that was asked for.
 */
static __always_inline __u32 mptcp_each(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct mptcp_options *options, const int rounds,
					int (*visit)(const struct tcpopt *opt, void *arg),
					void *arg)
{
	__u64 last = options->last, more = options->more;
	__u32 tcp_off = emptcp_forget(pkt->tcp_off) & EMPTCP_OFF_MASK;
	void *tcp, *end;

	asm volatile("" : "+r"(ctx));
	tcp = ctx_data(ctx) + tcp_off;
	end = ctx_data_end(ctx);
	for (int i = 0; i < rounds; i++) {
		__u32 off = last & MPTCP_OFF_MASK;
		struct tcpopt here = {.at = tcp + off, .off = off, .end = end};

		if (!off || (void *)(here.at + TCPOLEN_MPTCP_MIN) > end)
			return 0;
		here.len = here.at[1];
		if (visit(&here, arg) == TCPOPT_STOP)
			return off;
		last = last >> MPTCP_OFF_BITS | more << (MPTCP_OFFS_BITS - MPTCP_OFF_BITS);
		more >>= MPTCP_OFF_BITS;
	}
	return 0;
}

/**
 * Calls visit for each MPTCP option of the packet that has min_len (3 or more)
 * bytes, the last one first. Returns the offset from the start of the TCP
 * header of the option at which it returned TCPOPT_STOP, 0 where it never did.
 * Three bytes can be read; before others ask tcpopt_has(). visit may write into
 * the option, but must not call helpers that make packet pointers void. What it
 * changes in arg goes through emptcp_forget(), else rounds do not join.
 */
static __always_inline __u32 mptcp_walk(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					__u32 min_len,
					int (*visit)(const struct tcpopt *opt, void *arg),
					void *arg)
{
	struct mptcp_options options;

	mptcp_collect(ctx, pkt, min_len, &options);
	return mptcp_each(ctx, pkt, &options, MPTCP_OPTIONS_MAX, visit, arg);
}

static __always_inline int mptcp_subtype_visit(const struct tcpopt *opt, void *arg)
{
	const __u32 *subtype = arg;

	return mptcp_subtype(opt->at) == *subtype ? TCPOPT_STOP : TCPOPT_GO_ON;
}

/**
 * Offset from the start of the TCP header of the option of this subtype (enum
 * mptcp_subtype) that has min_len (3 or more) bytes, 0 where there is none. Of
 * several the last one, by which the kernel goes.
 */
static __always_inline __u32 mptcp_find_subtype(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt, __u32 subtype,
						__u32 min_len)
{
	return mptcp_walk(ctx, pkt, min_len, mptcp_subtype_visit, &subtype);
}

#endif /* __EMPTCP_MPTCP_H__ */
