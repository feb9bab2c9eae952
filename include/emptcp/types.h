/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Vocabulary of parameter types: what a member of a module's parameters can
 * be. The names are ABI: the loader finds them in BTF and turns JSON into
 * these bytes. Integers are in the byte order of the machine, addresses in
 * that of the wire.
 */
#ifndef __EMPTCP_TYPES_H__
#define __EMPTCP_TYPES_H__

/** Bytes. JSON: number or "64KiB". */
typedef __u64 emptcp_bytes;
/** Bits per second. JSON: number or "20Mbit". */
typedef __u64 emptcp_rate;
/** Nanoseconds. JSON: "100ms". */
typedef __u64 emptcp_time;
/** Ratio times 2^32, at most 2^32 - 1. JSON: 0.1, "10%" or "1/16". */
typedef __u32 emptcp_ratio;
/** TCP port. */
typedef __u16 emptcp_port;
/** MPTCP token (RFC 8684, 2.2). JSON: number or "0x1a2b3c4d". */
typedef __u32 emptcp_token;
/** Index of an interface, from its name at apply. */
typedef __u32 emptcp_ifindex;
/** 0 or 1. */
typedef __u8 emptcp_bool;
/** Number of a step (emptcp_links.step), in keys of maps: shown as the step's name. */
typedef __u32 emptcp_step_id;
/** Round-trip time in microseconds, in values of maps; 0: not known, and shown as that. */
typedef __u32 emptcp_rtt;

/** Text of up to 15 bytes: zeros follow. JSON: printable ASCII, not empty. */
struct emptcp_text {
	char bytes[16];
};

/** IPv6 address, or IPv4 address as ::ffff:a.b.c.d; network byte order. */
struct emptcp_addr {
	__be32 w[4];
};

/** Prefix: masked address and mask, network byte order; IPv4 mapped, with 96 more bits of mask. */
struct emptcp_prefix {
	struct emptcp_addr addr;
	struct emptcp_addr mask;
};

/** Ports first to last, both included. JSON: 22, "22" or "8000-8010". */
struct emptcp_port_range {
	__u16 first;
	__u16 last;
};

/** Addresses and ports of a subflow, as one of its directions has them on the wire. */
struct emptcp_subflow {
	struct emptcp_addr src;
	struct emptcp_addr dst;
	emptcp_port sport;
	emptcp_port dport;
	/** Tells overlapping address spaces apart; see emptcp_links.zone. */
	__u32 zone;
};

/**
 * A cgroup (version 2), from its path at apply. JSON: "/system.slice/nginx.service".
 * See bpf_skb_ancestor_cgroup_id().
 */
struct emptcp_cgroup {
	/** Inode of its folder, as bpf_skb_cgroup_id() gives it; never 0. */
	__u64 id;
	/** How many cgroups it is below that of the whole machine, which has 0. */
	__u32 level;
	__u32 pad;
};

/** Key of a table of prefixes. */
struct emptcp_prefix_key {
	/** 32 for the family and the bits of the mask (an IPv4 one has 96 more). */
	__u32 prefixlen;
	/** 4 or 6: ::/0 holds no IPv4 address. */
	__be32 family;
	struct emptcp_addr addr;
};

/** Key of a table of ports: a port, in the byte order of the machine. */
typedef __u32 emptcp_port_key;

/** Set of the names of an enum whose values are 0 to 63: bit n stands for value n. */
#define EMPTCP_SET(enum_type)     \
	union {                   \
		__u64 bits;       \
		enum_type member; \
	}

/**
 * List of up to max items of one of the types above (or of integers and enums).
 * count is constant for the verifier, so a loop over the list is bounded by it
 * and the code behind the last item vanishes.
 */
#define EMPTCP_LIST(type, max)   \
	struct {                 \
		__u32 count;     \
		type items[max]; \
	}

/** count of a list that is in the list's table, because it is longer than max. */
#define EMPTCP_LIST_IN_TABLE 0xffffffffU

#endif /* __EMPTCP_TYPES_H__ */
