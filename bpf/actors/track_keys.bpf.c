// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Makes a connection of the keys that the last packet of its handshake shows. */
#include <emptcp/clock.h>
#include <emptcp/once.h>
#include <emptcp/sha.h>
#include <emptcp/track_events.h>
#include <emptcp/track_list.h>
#include <emptcp/track_maps.h>

EMPTCP_NO_PARAMS(track_keys);

/** Whether the connection of this key is one that has gone, and was not forgotten yet. */
static __always_inline int track_keys_is_gone(const struct emptcp_track_key *key)
{
	const struct emptcp_track_conn *old = bpf_map_lookup_elem(&connections, key);

	return old && !old->live;
}

/** Enters a connection by the token of its server. */
static __always_inline int track_keys_enter(const struct emptcp_track_key *key,
					    const struct emptcp_track_conn *conn)
{
	int ret = emptcp_claim(&connections, key, conn, BPF_NOEXIST);

	if (ret == EMPTCP_SKIP && track_keys_is_gone(key))
		ret = emptcp_claim(&connections, key, conn, BPF_EXIST);
	/* Of 2^32 tokens two connections may have the same, if they have not one server. */
	return ret == EMPTCP_SKIP ? -EMPTCP_REASON_TOKEN : ret;
}

/** The other way in: by the token of the client. */
static __always_inline void track_keys_alias(const struct emptcp_track_key *client,
					     struct emptcp_track_key server)
{
	const emptcp_token *old = bpf_map_lookup_elem(&client_tokens, client);

	if (old) {
		struct emptcp_track_key other = {.token = *old, .zone = client->zone};
		const struct emptcp_track_conn *conn = bpf_map_lookup_elem(&connections, &other);

		if (conn && conn->live && conn->client_token == client->token)
			return;
	}
	bpf_map_update_elem(&client_tokens, client, &server.token, BPF_ANY);
}

/**
 * Tells of the connection that was entered (if it was), and of its first subflow;
 * emptcp_event_leave() has left that in the record. A function that the verifier
 * looks at once. Returns 0.
 */
__noinline int track_keys_tell(struct emptcp_ctx *ctx)
{
	union emptcp_event_record *record = emptcp_event_record();
	struct emptcp_track_subflow *sub;
	const struct emptcp_track_conn *conn;
	struct emptcp_subflow key;
	int is_told;

	if (!record)
		return 0;
	key = record->event.subflow;
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub)
		return 0;
	is_told = sub->flags & EMPTCP_TRACK_TOLD;
	sub->flags |= EMPTCP_TRACK_TOLD;
	if (!emptcp_event_begin_left(ctx, record))
		return 0;
	conn = emptcp_tracked_conn(sub);
	if (conn) {
		track_event_subflow(EMPTCP_EVENT_OPENED, EMPTCP_EVENT_END_NONE);
		track_event_connection(record, conn, EMPTCP_EVENT_OPENED, EMPTCP_EVENT_END_NONE);
		track_event_send(EMPTCP_RING_CONNECTION, sizeof(record->connection));
		record->event.subflow = key;
		record->event.flags = 0;
	}
	if (is_told)
		return 0;
	track_event_subflow(EMPTCP_EVENT_OPENED, EMPTCP_EVENT_END_NONE);
	track_event_send(EMPTCP_RING_SUBFLOW, sizeof(record->subflow));
	return 0;
}

static __always_inline int track_keys_act(struct emptcp_ctx *ctx, const struct emptcp_pkt *pkt,
					  const struct track_keys_params *p)
{
	struct emptcp_track_key server = {}, client = {};
	struct emptcp_track_secrets keys;
	struct emptcp_track_conn conn = {};
	union emptcp_event_record *record;
	struct emptcp_track_subflow *sub;
	struct emptcp_subflow key;
	struct sha_scratch *s;
	const __u8 *opt;
	__u64 unused;
	__u32 off;
	int ret;

	emptcp_track_key_of(pkt, &key);
	sub = bpf_map_lookup_elem(&subflows, &key);
	if (!sub || sub->flags & EMPTCP_TRACK_TIED)
		return EMPTCP_SKIP;
	record = emptcp_event_record();
	if (!record)
		return EMPTCP_SKIP;
	/* Here, so that the key is on the stack no more: the verifier would follow each of its
	 * kinds through all that comes. */
	emptcp_event_leave(record, pkt->links, &key);
	off = mptcp_find_subtype(ctx, pkt, MPTCP_MP_CAPABLE, TCPOLEN_MPTCP_MPC_ACK);
	if (!off)
		return EMPTCP_SKIP;
	opt = tcpopt_at(ctx, pkt, off, TCPOLEN_MPTCP_MPC_ACK);
	s = sha_scratch_of_cpu();
	if (!opt || !s)
		return EMPTCP_SKIP;
	keys.client = mptcp_be64(opt + 4);
	keys.server = mptcp_be64(opt + 12);

	conn.version = sub->version;
	conn.flags = EMPTCP_CONN_HAS_CLIENT_TOKEN | EMPTCP_CONN_HAS_KEYS;
	conn.created = sub->created;
	conn.live = conn.ever = 1;
	client.zone = server.zone = pkt->links->zone;
	client.token = conn.client_token = mptcp_key_token(s, conn.version, keys.client, &unused);
	server.token = mptcp_key_token(s, conn.version, keys.server, &unused);
	/* Data may have come with the keys. */
	conn.bytes[0] = sub->way[sub->client & 1].bytes;
	conn.bytes[1] = sub->way[!(sub->client & 1)].bytes;

	ret = track_keys_enter(&server, &conn);
	if (ret == EMPTCP_NEXT) {
		track_keys_alias(&client, server);
		bpf_map_update_elem(&secrets, &server, &keys, BPF_ANY);
		sub->conn = server;
		sub->flags |= EMPTCP_TRACK_TIED;
	}
	track_list(ret == EMPTCP_NEXT);
	track_keys_tell(ctx);
	return ret;
}

EMPTCP_ACTOR(track_keys, EMPTCP_HOOKS_ALL, "5.10", EMPTCP_OBSERVES "," EMPTCP_TRACKS,
	     "Makes a connection of the keys that a handshake ends with");
