// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sets bits in bytes of options, or blanks them, by the helpers that write. */
#include <emptcp/edit.h>
#include <emptcp/module.h>

struct toolkit_put_params {
	__u64 bytes EMPTCP_DOC("Set of bytes: bit n is byte n of the options") EMPTCP_REQUIRED;
	__u8 mask EMPTCP_DOC("Bits to set") EMPTCP_DEFAULT("255");
	__u8 value EMPTCP_DOC("To these") EMPTCP_DEFAULT("0");
	__u64 blank EMPTCP_DOC("Set of bytes that become NOPs") EMPTCP_DEFAULT("0");
};

static __always_inline int toolkit_put_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					   const struct toolkit_put_params *p)
{
	__u64 options = emptcp_span(sizeof(struct tcphdr), pkt->tcp_len - sizeof(struct tcphdr));
	struct emptcp_edit edit = {};

	/* What a walk finds lies in the options; these sets need not. */
	emptcp_put(ctx, pkt, p->bytes & options, p->mask, p->value, &edit);
	emptcp_blank(ctx, pkt, p->blank & options, &edit);
	return emptcp_edit_end(ctx, pkt, &edit);
}

EMPTCP_ACTOR(toolkit_put, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_EDITS, "Sets bits in options");
