// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <emptcp/clock.h>
#include <emptcp/tracked.h>

enum age_of {
	AGE_OF_SUBFLOW,
	/* Since its first subflow. */
	AGE_OF_CONNECTION,
};

struct age_params {
	emptcp_time min EMPTCP_DOC("Least age") EMPTCP_DEFAULT("0") EMPTCP_EVENT_FACT("age:min");
	emptcp_time max EMPTCP_DOC("Largest age") EMPTCP_DEFAULT("5000000h")
		EMPTCP_EVENT_FACT("age:max");
	enum age_of of EMPTCP_DOC("Whose age, since the first packet of its handshake")
		EMPTCP_DEFAULT("subflow") EMPTCP_EVENT_FACT("of");
};

static __always_inline int age_match(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
				     const struct age_params *p)
{
	const struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	__u64 created, now;
	__s64 age;
	int from;

	sub = emptcp_tracked(pkt, &from);
	if (!sub)
		return 0;
	created = sub->created;
	if (p->of == AGE_OF_CONNECTION) {
		conn = emptcp_tracked_conn(sub);
		if (!conn)
			return 0;
		created = conn->created;
	}
	if (!created)
		return 0;
	now = emptcp_boot_now();
	age = now - created;
	/* Another CPU's time may lie ahead. */
	if (age < 0)
		age = 0;
	return (__u64)age >= p->min && (__u64)age <= p->max;
}

EMPTCP_SELECTOR(age, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_IMPURE "," EMPTCP_TRACKED,
		"Age of the subflow or of the connection is in a range");
