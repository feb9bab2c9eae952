// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/lists.h>
#include <emptcp/module.h>

/* Sets of addresses. */
enum announced_set {
	/* 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918). */
	ANNOUNCED_PRIVATE,
	/* 169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291). */
	ANNOUNCED_LINK_LOCAL,
	/* fc00::/7 (RFC 4193). */
	ANNOUNCED_ULA,
};

enum announced_echo {
	ANNOUNCED_ECHO_NO,
	ANNOUNCED_ECHO_YES,
	ANNOUNCED_ECHO_ANY,
};

struct announced_params {
	emptcp_prefixes
		in EMPTCP_DOC("Addresses and prefixes, of which one holds what is announced")
			EMPTCP_EVENT_FACT("announced");
	emptcp_port_ranges ports EMPTCP_DOC("Ports and ranges; an ADD_ADDR without a port, which "
					    "means that of the subflow, does not match")
		EMPTCP_EVENT_FACT("announced_port");
	EMPTCP_SET(enum announced_set)
	sets EMPTCP_DOC("Sets of addresses, besides those of in: RFC 1918, link-local addresses of "
			"both families, fc00::/7");
	enum announced_echo echo EMPTCP_DOC("Announcements (no), their confirmations (yes) or both")
		EMPTCP_DEFAULT("no") EMPTCP_EVENT_FACT("echo");
};

struct {
	EMPTCP_PREFIX_TABLE;
} in_table SEC(".maps") EMPTCP_TABLE_OF(in);

struct {
	EMPTCP_PORT_TABLE;
} ports_table SEC(".maps") EMPTCP_TABLE_OF(ports);

/* ADD_ADDR options of one packet at most: of 8 bytes. */
#define ANNOUNCED_ROUNDS 5

static __always_inline int announced_in_sets(__u64 sets, const struct emptcp_addr *addr,
					     __u8 version)
{
	__u32 four = bpf_ntohl(addr->w[3]), six = bpf_ntohl(addr->w[0]);

	if (version == 4) {
		if (sets & 1 << ANNOUNCED_PRIVATE &&
		    (four >> 24 == 10 || four >> 20 == 0xac1 || four >> 16 == 0xc0a8))
			return 1;
		return sets & 1 << ANNOUNCED_LINK_LOCAL && four >> 16 == 0xa9fe;
	}
	return (sets & 1 << ANNOUNCED_LINK_LOCAL && six >> 22 == 0xfe80 >> 6) ||
	       (sets & 1 << ANNOUNCED_ULA && six >> 25 == 0xfc >> 1);
}

static __always_inline int announced_addr(const struct announced_params *p,
					  const struct emptcp_addr *addr)
{
	__u8 version = 6;

	if (!p->in.count && !p->sets.bits)
		return 1;
	/* A mapped address of an IPv6 option is an IPv4 address. */
	if (!addr->w[0] && !addr->w[1] && addr->w[2] == bpf_htonl(0xffff))
		version = 4;
	return emptcp_prefixes_hold(&p->in, &in_table, addr, version) ||
	       announced_in_sets(p->sets.bits, addr, version);
}

static __always_inline int announced_visit(const struct tcpopt *opt, void *arg)
{
	const struct announced_params *p = arg;
	const struct mptcp_add_addr *add = (const void *)opt->at;
	struct emptcp_addr addr = {.w = {0, 0, bpf_htonl(0xffff), 0}};
	const void *port;

	if (mptcp_subtype(opt->at) != MPTCP_ADD_ADDR ||
	    !mptcp_add_addr_is_whole(add->sub, opt->len))
		return TCPOPT_GO_ON;
	if (p->echo != ANNOUNCED_ECHO_ANY && p->echo != (add->sub & MPTCP_ADD_ADDR_ECHO))
		return TCPOPT_GO_ON;
	if (mptcp_add_addr_is6(opt->len)) {
		port = add->addr6 + 4;
		if (port > opt->end)
			return TCPOPT_GO_ON;
		__builtin_memcpy(&addr, add->addr6, sizeof(addr));
	} else {
		port = &add->addr4 + 1;
		if (port > opt->end)
			return TCPOPT_GO_ON;
		addr.w[3] = add->addr4;
	}
	if (p->ports.count) {
		if (!mptcp_add_addr_has_port(opt->len) || port + 2 > opt->end ||
		    !emptcp_ports_hold(&p->ports, &ports_table, bpf_ntohs(*(const __be16 *)port)))
			return TCPOPT_GO_ON;
	}
	return announced_addr(p, &addr) ? TCPOPT_STOP : TCPOPT_GO_ON;
}

static __always_inline int announced_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct announced_params *p)
{
	struct mptcp_options options;

	mptcp_collect(ctx, pkt, TCPOLEN_MPTCP_ADD_ADDR_BASE, &options);
	return mptcp_each(ctx, pkt, &options, ANNOUNCED_ROUNDS, announced_visit, (void *)p) != 0;
}

EMPTCP_SELECTOR(announced, EMPTCP_HOOKS_ALL, "5.10", "",
		"Address and port in an ADD_ADDR; without parameters every announcement");
