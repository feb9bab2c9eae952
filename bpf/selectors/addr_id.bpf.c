// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/module.h>

#define ADDR_ID_MAX 8

struct addr_id_params {
	EMPTCP_LIST(__u8, ADDR_ID_MAX)
	in EMPTCP_DOC("Address ids, of which the option has one") EMPTCP_REQUIRED
		EMPTCP_EVENT_FACT("addr_id");
};

/* Options of 4 bytes: as many as there is room for. */
#define ADDR_ID_ROUNDS 10

struct addr_id_search {
	/* The ids, the first in the highest byte. */
	__u64 ids;
	/* Upper bit of each byte that has one. */
	__u64 valid;
	/* Offset from the TCP header of the last REMOVE_ADDR; 0 for none. */
	__u32 removed;
};

/* Compares with all at once, without a branch: upper bits of the bytes that are the same. */
static __always_inline __u64 addr_id_same(__u64 ids, __u64 id)
{
	const __u64 low = 0x7f7f7f7f7f7f7f7fULL;
	__u64 differs = ids ^ (id * 0x0101010101010101ULL);

	return ~(((differs & low) + low) | differs | low);
}

static __always_inline int addr_id_visit(const struct tcpopt *opt, void *arg)
{
	struct addr_id_search *s = arg;

	if (!tcpopt_has(opt, 4))
		return TCPOPT_GO_ON;
	switch (mptcp_subtype(opt->at)) {
	case MPTCP_MP_JOIN:
		if (opt->len != TCPOLEN_MPTCP_MPJ_SYN && opt->len != TCPOLEN_MPTCP_MPJ_SYNACK)
			return TCPOPT_GO_ON;
		break;
	case MPTCP_ADD_ADDR:
		break;
	case MPTCP_REMOVE_ADDR:
		/* Visited from the last to the first. */
		if (!s->removed)
			s->removed = opt->off;
		s->removed = emptcp_forget(s->removed);
		return TCPOPT_GO_ON;
	case MPTCP_MP_PRIO:
		if (opt->len != TCPOLEN_MPTCP_PRIO_ID)
			return TCPOPT_GO_ON;
		break;
	default:
		return TCPOPT_GO_ON;
	}
	return addr_id_same(s->ids, opt->at[3]) & s->valid ? TCPOPT_STOP : TCPOPT_GO_ON;
}

/* A loop of its own: inside of the other one the verifier would walk it for each option. */
static __always_inline int addr_id_removed(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct addr_id_search *s)
{
	__u8 *opt = tcpopt_at(ctx, pkt, s->removed, TCPOLEN_MPTCP_RM_ADDR_BASE);
	__u32 len;
	void *end;

	if (!opt)
		return 0;
	end = ctx_data_end(ctx);
	len = opt[1];
	for (int i = TCPOLEN_MPTCP_RM_ADDR_BASE; i < TCPOPT_SPACE; i++) {
		if (i >= len || (void *)(opt + i + 1) > end)
			return 0;
		if (addr_id_same(s->ids, opt[i]) & s->valid)
			return 1;
	}
	return 0;
}

static __always_inline int addr_id_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					 const struct addr_id_params *p)
{
	__u32 unused = (ADDR_ID_MAX - p->in.count) * 8;
	struct addr_id_search s = {.removed = emptcp_forget(0)};
	struct mptcp_options options;

	if (unused > 56)
		return 0;
	s.valid = 0x8080808080808080ULL << unused;
	__builtin_memcpy(&s.ids, p->in.items, sizeof(s.ids));
	s.ids = bpf_be64_to_cpu(s.ids);
	mptcp_collect(ctx, pkt, 4, &options);
	if (mptcp_each(ctx, pkt, &options, ADDR_ID_ROUNDS, addr_id_visit, &s))
		return 1;
	return s.removed && addr_id_removed(ctx, pkt, &s);
}

EMPTCP_SELECTOR(addr_id, EMPTCP_HOOKS_ALL, "5.10", "",
		"Address id in MP_JOIN (SYN, SYN/ACK), ADD_ADDR, REMOVE_ADDR or MP_PRIO");
