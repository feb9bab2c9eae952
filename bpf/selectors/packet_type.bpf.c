// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/length.h>
#include <emptcp/module.h>

/* Bit of a subtype: PACKET_TYPE_MP_CAPABLE and the subtype's number. */
enum packet_type_name {
	/* By the TCP header. */
	PACKET_TYPE_SYN,
	PACKET_TYPE_SYNACK,
	PACKET_TYPE_FIN,
	PACKET_TYPE_RST,
	PACKET_TYPE_DATA,
	PACKET_TYPE_PURE_ACK,
	/* By subtype. */
	PACKET_TYPE_MP_CAPABLE = 16,
	PACKET_TYPE_MP_JOIN,
	PACKET_TYPE_DSS,
	/* No echo. */
	PACKET_TYPE_ADD_ADDR,
	PACKET_TYPE_REMOVE_ADDR,
	PACKET_TYPE_MP_PRIO,
	PACKET_TYPE_MP_FAIL,
	PACKET_TYPE_MP_FASTCLOSE,
	PACKET_TYPE_MP_TCPRST,
	PACKET_TYPE_MP_EXPERIMENTAL = PACKET_TYPE_MP_CAPABLE + 15,
	/* By what is in the option. */
	PACKET_TYPE_MP_JOIN_SYN,
	PACKET_TYPE_MP_JOIN_SYNACK,
	PACKET_TYPE_MP_JOIN_ACK,
	/* MP_CAPABLE with both keys, or the MP_JOIN above. */
	PACKET_TYPE_THIRD_ACK,
	PACKET_TYPE_DATA_ACK,
	PACKET_TYPE_DATA_FIN,
	PACKET_TYPE_ADD_ADDR_ECHO,
};

struct packet_type_params {
	EMPTCP_SET(enum packet_type_name)
	any EMPTCP_DOC("Types, of which the packet is one. data: has TCP payload. pure_ack: has "
		       "none, nor SYN, FIN, RST. third_ack: ends the handshake of a connection or "
		       "subflow, as its option tells. mp_join: all three, told apart by length. "
		       "add_addr: no echo. The others: flags of TCP, subtypes of MPTCP, flags of "
		       "DSS") EMPTCP_REQUIRED;
};

#define PACKET_TYPE_BIT(name) (1ULL << PACKET_TYPE_##name)
/* Those for which options need not be looked at. */
#define PACKET_TYPE_TCP (PACKET_TYPE_BIT(MP_CAPABLE) - 1)

static __always_inline __u64 packet_type_of_tcp(struct emptcp_ctx *ctx,
						const struct emptcp_pkt *pkt)
{
	const struct tcphdr *tcp = pkt->tcp;
	__u64 bits = 0;

	if (tcp->syn)
		bits |= tcp->ack ? PACKET_TYPE_BIT(SYNACK) : PACKET_TYPE_BIT(SYN);
	if (tcp->fin)
		bits |= PACKET_TYPE_BIT(FIN);
	if (tcp->rst)
		bits |= PACKET_TYPE_BIT(RST);
	if (emptcp_payload_len(ctx, pkt))
		bits |= PACKET_TYPE_BIT(DATA);
	else if (!bits && tcp->ack)
		bits |= PACKET_TYPE_BIT(PURE_ACK);
	return bits;
}

/* The names that an option of this subtype has, besides that of the subtype. */
static __always_inline __u64 packet_type_more(const struct tcpopt *opt, __u32 subtype)
{
	__u64 bits = 0;

	switch (subtype) {
	case MPTCP_MP_CAPABLE:
		if (opt->len == TCPOLEN_MPTCP_MPC_ACK)
			bits = PACKET_TYPE_BIT(THIRD_ACK);
		break;
	case MPTCP_MP_JOIN:
		if (opt->len == TCPOLEN_MPTCP_MPJ_SYN)
			bits = PACKET_TYPE_BIT(MP_JOIN_SYN);
		if (opt->len == TCPOLEN_MPTCP_MPJ_SYNACK)
			bits = PACKET_TYPE_BIT(MP_JOIN_SYNACK);
		if (opt->len == TCPOLEN_MPTCP_MPJ_ACK)
			bits = PACKET_TYPE_BIT(MP_JOIN_ACK) | PACKET_TYPE_BIT(THIRD_ACK);
		break;
	case MPTCP_DSS:
		if (!tcpopt_has(opt, TCPOLEN_MPTCP_DSS_BASE))
			break;
		if (opt->at[3] & MPTCP_DSS_HAS_ACK)
			bits = PACKET_TYPE_BIT(DATA_ACK);
		if (opt->at[3] & MPTCP_DSS_DATA_FIN)
			bits |= PACKET_TYPE_BIT(DATA_FIN);
		break;
	}
	return bits;
}

static __always_inline int packet_type_visit(const struct tcpopt *opt, void *arg)
{
	const struct packet_type_params *p = arg;
	__u32 subtype = mptcp_subtype(opt->at);
	__u64 bits = PACKET_TYPE_BIT(MP_CAPABLE) << subtype;

	/* An echo is no announcement. */
	if (subtype == MPTCP_ADD_ADDR && opt->at[2] & MPTCP_ADD_ADDR_ECHO)
		bits = PACKET_TYPE_BIT(ADD_ADDR_ECHO);
	if (p->any.bits & ~(PACKET_TYPE_BIT(MP_JOIN_SYN) - 1))
		bits |= packet_type_more(opt, subtype);
	return p->any.bits & bits ? TCPOPT_STOP : TCPOPT_GO_ON;
}

static __always_inline int packet_type_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					     const struct packet_type_params *p)
{
	if (p->any.bits & PACKET_TYPE_TCP && p->any.bits & packet_type_of_tcp(ctx, pkt))
		return 1;
	if (!(p->any.bits & ~PACKET_TYPE_TCP))
		return 0;
	return mptcp_walk(ctx, pkt, TCPOLEN_MPTCP_MIN, packet_type_visit, (void *)p) != 0;
}

EMPTCP_SELECTOR(packet_type, EMPTCP_HOOKS_ALL, "5.10", "",
		"Packets of one of these types, by TCP header or any of their MPTCP options");
