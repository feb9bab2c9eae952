// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/length.h>
#include <emptcp/module.h>

enum length_of {
	/* TCP payload. */
	LENGTH_OF_PAYLOAD,
	/* From the IP header on. */
	LENGTH_OF_PACKET,
};

struct length_params {
	emptcp_bytes min EMPTCP_DOC("Least number of bytes") EMPTCP_DEFAULT("0");
	emptcp_bytes max EMPTCP_DOC("Largest number of bytes") EMPTCP_DEFAULT("4294967295");
	enum length_of of EMPTCP_DOC("What is measured: TCP payload, or packet with its IP header")
		EMPTCP_DEFAULT("payload");
	emptcp_bool whole EMPTCP_DOC("A packet that stands for several on the wire (GSO, GRO) "
				     "counts as one; else as the largest of them")
		EMPTCP_DEFAULT("false");
};

static __always_inline int length_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct length_params *p)
{
	__u32 len = emptcp_payload_len(ctx, pkt);

	if (!p->whole) {
		__u32 segment = ctx_segment_size(ctx);

		if (segment && len > segment)
			len = segment;
	}
	if (p->of == LENGTH_OF_PACKET)
		len += emptcp_headers_len(pkt);
	return len >= p->min && len <= p->max;
}

EMPTCP_SELECTOR(length, EMPTCP_HOOKS_ALL, "5.10", "",
		"Length of the TCP payload or of the packet on the wire is in a range");
