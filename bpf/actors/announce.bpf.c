// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Announces an address of the operator's own: ADD_ADDR in the name of who sends the packet, signed
 * with the keys that the tracker saw (RFC 8684, 3.4.1; add_addr_generate_hmac() of the kernel).
 * Version 0 signs nothing (RFC 6824, 3.4.1).
 */
#include <emptcp/add_option.h>
#include <emptcp/once.h>
#include <emptcp/sha.h>
#include <emptcp/track_maps.h>

struct announce_params {
	struct emptcp_addr address EMPTCP_DOC("The address that is announced") EMPTCP_REQUIRED;
	emptcp_port port EMPTCP_DOC("Its port, if it is another one than that of the connection");
	__u8 addr_id EMPTCP_DOC("Its address id; none that the sender of these packets uses itself")
		EMPTCP_REQUIRED EMPTCP_MIN("1");
};

/* An announcement to one end of a connection. */
struct announce_key {
	struct emptcp_track_key conn;
	struct emptcp_addr address;
	emptcp_port port;
	__u8 addr_id;
	/* The server announces, else the client. */
	emptcp_bool by_server;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct announce_key);
	/* When: CLOCK_BOOTTIME. */
	__type(value, emptcp_time);
	__uint(max_entries, 65536);
} announcements SEC(".maps") EMPTCP_KEPT;

/** HMAC-SHA256 of the message in the scratch of the CPU, which leaves it there. In a function that
 * the verifier looks at once. Returns 0. */
__noinline int announce_sign(__u64 first, __u64 second, __u32 len)
{
	struct sha_scratch *s = sha_scratch_of_cpu();

	if (s)
		mptcp_hmac(s, first, second, len);
	return 0;
}

static __always_inline int announce_is6(const struct emptcp_addr *address)
{
	return address->w[0] || address->w[1] || address->w[2] != bpf_htonl(0xffff);
}

/* Its bytes without the HMAC. */
static __always_inline __u32 announce_base(const struct announce_params *p)
{
	return (announce_is6(&p->address) ? TCPOLEN_MPTCP_ADD_ADDR6_BASE
					  : TCPOLEN_MPTCP_ADD_ADDR_BASE) +
	       (p->port ? TCPOLEN_MPTCP_PORT : 0);
}

/* Writes the option but for the HMAC. base: of announce_base(). */
static __always_inline void announce_write(const struct announce_params *p, __u32 version,
					   union emptcp_option *option)
{
	int is6 = announce_is6(&p->address);
	__u32 base = announce_base(p), family = is6 ? 6 : 4;

	for (int i = 0; i < EMPTCP_GROW_MAX / 4; i++)
		option->words[i] = TCPOPT_NOP * 0x01010101U;
	option->at[0] = TCPOPT_MPTCP;
	option->at[1] = version ? base + TCPOLEN_MPTCP_ADD_ADDR_HMAC : base;
	option->at[2] = MPTCP_ADD_ADDR << 4 | (version ? 0 : family);
	option->at[3] = p->addr_id;
	if (is6) {
		for (int i = 0; i < 4; i++)
			option->words[1 + i] = p->address.w[i];
		if (p->port)
			option->halves[10] = bpf_htons(p->port);
	} else {
		option->words[1] = p->address.w[3];
		if (p->port)
			option->halves[4] = bpf_htons(p->port);
	}
}

/* Signs it, by the last 64 bits of the hash. */
static __always_inline void announce_hmac(const struct announce_params *p,
					  const struct emptcp_track_secrets *keys, int by_server,
					  union emptcp_option *option)
{
	__u64 first = by_server ? keys->server : keys->client;
	__u64 second = by_server ? keys->client : keys->server;
	struct sha_scratch *s = sha_scratch_of_cpu();
	int is6 = announce_is6(&p->address);
	__u32 len = is6 ? 16 : 4;
	__be16 *to = option->halves + (is6 ? 10 : p->port ? 5 : 4);

	if (!s)
		return;
	/* Id, address, port: zero where there is none. */
	s->message[0] = p->addr_id;
	for (int i = 0; i < 16; i++)
		if (i < len)
			s->message[1 + i] = option->at[4 + i];
	s->message[1 + len] = p->port >> 8;
	s->message[2 + len] = p->port;
	announce_sign(first, second, len + 3);
	for (int i = 0; i < 2; i++) {
		__u32 word = s->h[SHA_WORDS - 2 + i];

		to[2 * i] = bpf_htons(word >> 16);
		to[2 * i + 1] = bpf_htons(word);
	}
}

static __always_inline int announce_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					const struct announce_params *p)
{
	const struct emptcp_track_secrets *keys = NULL;
	const struct emptcp_track_conn *conn;
	struct emptcp_track_subflow *sub;
	struct emptcp_track_way *way;
	struct announce_key key = {};
	struct emptcp_adding add;
	const emptcp_time *done;
	__u32 how, len, next, version;
	int from, ret;

	if (!emptcp_add_begin(ctx, pkt, &add))
		return EMPTCP_SKIP;
	/* From a table it may be anything. */
	if (!p->addr_id)
		return -EMPTCP_REASON_NO_VALUE;
	conn = emptcp_add_connection(ctx, pkt, &add, &sub, &from, &ret);
	if (!conn)
		return ret;
	version = conn->version;
	key.conn = sub->conn;
	key.address = p->address;
	key.port = p->port;
	key.addr_id = p->addr_id;
	key.by_server = from != sub->client;
	done = bpf_map_lookup_elem(&announcements, &key);
	if (done && *done >= conn->created)
		return EMPTCP_SKIP;
	/* Of an earlier connection with its token. */
	how = done ? BPF_EXIST : BPF_NOEXIST;
	how = emptcp_forget(how);
	if (version) {
		keys = bpf_map_lookup_elem(&secrets, &key.conn);
		if (!keys)
			return -EMPTCP_REASON_NO_KEYS;
	}
	if (!emptcp_add_is_turn(pkt, &add))
		return EMPTCP_SKIP;
	len = announce_base(p) + (version ? TCPOLEN_MPTCP_ADD_ADDR_HMAC : 0);
	if (len > EMPTCP_GROW_MAX)
		return -EMPTCP_REASON_NO_ROOM;
	ret = emptcp_add_look(ctx, &add, MPTCP_ADD_ADDR, len);
	if (ret != EMPTCP_NEXT)
		return ret;
	if (emptcp_add_wants_copy(&add))
		return emptcp_add_send_copy(ctx, &add);

	ret = emptcp_claim(&announcements, &key, &add.now, how);
	if (ret != EMPTCP_NEXT)
		return ret;
	announce_write(p, version, &add.place->option);
	if (keys)
		announce_hmac(p, keys, key.by_server, &add.place->option);
	way = &sub->way[from & 1];
	next = emptcp_add_next(&add, way);
	ret = emptcp_add_put(ctx, &add, next, way);
	if (ret != EMPTCP_NEXT)
		bpf_map_delete_elem(&announcements, &key);
	return ret;
}

EMPTCP_ACTOR(
	announce, EMPTCP_HOOKS_TC, "5.10", EMPTCP_EDITS "," EMPTCP_TRACKED,
	"Announces an address of its own (ADD_ADDR) to who receives the packets, once for each "
	"connection");
