/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the sockets of this host know of a connection of Multipath TCP and its subflows; Linux 5.19,
 * with CAP_PERFMON. The kernel's structures have their members where it says (CO-RE), not where
 * they stand here.
 */
#ifndef __EMPTCP_SOCKETS_H__
#define __EMPTCP_SOCKETS_H__

#include <emptcp/faster.h>
#include <emptcp/module.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	int sk_wmem_queued;
	int sk_sndbuf;
};

struct tcp_sock {
	__u32 srtt_us;
	__u32 mdev_us;
	__u32 snd_cwnd;
	__u32 snd_ssthresh;
	__u32 packets_out;
	__u32 mss_cache;
	__u32 write_seq;
	__u32 snd_nxt;
};

struct mptcp_sock {
	__u64 write_seq;
	__u64 snd_nxt;
	__u64 snd_una;
	__u64 wnd_end;
	__u32 token;
	struct list_head conn_list;
};

struct mptcp_subflow_context {
	struct list_head node;
	__u32 request_bkup : 1;
	__u32 backup : 1;
	__u32 stale : 1;
	struct sock *tcp_sock;
};

#pragma clang attribute pop

/** Subflows of a connection that are looked at. */
#define EMPTCP_SOCKETS_MAX 8
/* Of the kernel: sockaddr families, states of TCP in which it sends (net/tcp_states.h). */
#define EMPTCP_AF_INET 2
#define EMPTCP_TCP_ESTABLISHED 1
#define EMPTCP_TCP_CLOSE_WAIT 8

/** A subflow's socket. */
struct emptcp_socket {
	/** Its address in the kernel: tells sockets apart. */
	__u64 socket;
	struct emptcp_path path;
	/** It can send: established, and with a round-trip time. */
	__u8 sends;
	/** One of both ends has declared it backup. */
	__u8 backup;
	/** The kernel's scheduler has given it up for now: nothing comes through. */
	__u8 stale;
	__u8 pad;
};

/** A connection's, as the kernel has it at this moment. */
struct emptcp_sockets {
	/** Bytes that the application has written and no subflow has yet. */
	__u64 queued;
	/** Data sequence number behind the last byte that a subflow has. */
	__u64 snd_nxt;
	/** Bytes that the receiver takes behind the first one that it has not acknowledged. */
	__u64 window;
	/** The buffer of what was written is more than half full: an application that waits for
	 * room is woken at two thirds (sk_stream_is_writeable()), so it may have more to write. */
	__u32 full;
	/** Subflows that are looked at. */
	__u32 count;
	struct emptcp_socket subflow[EMPTCP_SOCKETS_MAX];
};

/** The socket to which a packet came, or which sent it (sent: 0, 1), of any state; NULL: there is
 * none here. bpf_sk_release() gives it back. */
static __always_inline struct bpf_sock *emptcp_socket_lookup(struct emptcp_ctx *ctx,
							     const struct emptcp_pkt *pkt, int sent)
{
	__be16 sport = sent ? pkt->tcp->dest : pkt->tcp->source;
	__be16 dport = sent ? pkt->tcp->source : pkt->tcp->dest;
	struct bpf_sock_tuple tuple;

	if (pkt->version == 4) {
		tuple.ipv4.saddr = sent ? pkt->ip4->daddr : pkt->ip4->saddr;
		tuple.ipv4.daddr = sent ? pkt->ip4->saddr : pkt->ip4->daddr;
		tuple.ipv4.sport = sport;
		tuple.ipv4.dport = dport;
		return bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(tuple.ipv6.saddr, sent ? &pkt->ip6->daddr : &pkt->ip6->saddr,
			 sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, sent ? &pkt->ip6->saddr : &pkt->ip6->daddr,
			 sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = sport;
	tuple.ipv6.dport = dport;
	return bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

#define EMPTCP_SOCKETS_READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

/* A subflow, from its socket's context (mptcp_subflow_ctx() of the kernel). */
static __always_inline void emptcp_socket_read(struct emptcp_socket *to,
					       struct mptcp_subflow_context *context)
{
	struct emptcp_path *path = &to->path;
	struct tcp_sock *tp = NULL;
	unsigned char state = 0;
	__u32 snd_nxt = 0;
	struct sock *sk;

	EMPTCP_SOCKETS_READ(sk, context->tcp_sock);
	tp = (struct tcp_sock *)sk;
	to->socket = (unsigned long)sk;
	EMPTCP_SOCKETS_READ(state, sk->__sk_common.skc_state);
	EMPTCP_SOCKETS_READ(path->srtt, tp->srtt_us);
	EMPTCP_SOCKETS_READ(path->deviation, tp->mdev_us);
	EMPTCP_SOCKETS_READ(path->cwnd, tp->snd_cwnd);
	EMPTCP_SOCKETS_READ(path->ssthresh, tp->snd_ssthresh);
	EMPTCP_SOCKETS_READ(path->in_flight, tp->packets_out);
	EMPTCP_SOCKETS_READ(path->mss, tp->mss_cache);
	EMPTCP_SOCKETS_READ(path->unsent, tp->write_seq);
	EMPTCP_SOCKETS_READ(snd_nxt, tp->snd_nxt);
	/* The kernel has eighths and quarters (tcp_rtt_estimator()). */
	path->srtt >>= 3;
	path->deviation >>= 2;
	path->unsent -= snd_nxt;
	to->sends =
		path->srtt && (state == EMPTCP_TCP_ESTABLISHED || state == EMPTCP_TCP_CLOSE_WAIT);
	to->backup = BPF_CORE_READ_BITFIELD_PROBED(context, backup) |
		     BPF_CORE_READ_BITFIELD_PROBED(context, request_bkup);
	to->stale = BPF_CORE_READ_BITFIELD_PROBED(context, stale);
}

/** Reads the connection of a subflow. It goes on meanwhile, so numbers may be a moment apart. */
static __always_inline void emptcp_sockets_read(struct emptcp_sockets *to, struct mptcp_sock *msk)
{
	const struct sock *sk = (const struct sock *)msk;
	__u64 head = (unsigned long)&msk->conn_list;
	struct list_head *node = msk->conn_list.next;
	__s64 queued = msk->write_seq - msk->snd_nxt;
	__s64 window = msk->wnd_end - msk->snd_una;
	__u32 count = 0;

	to->queued = queued > 0 ? queued : 0;
	to->window = window > 0 ? window : 0;
	to->snd_nxt = msk->snd_nxt;
	to->full = 2 * (__s64)sk->sk_wmem_queued > sk->sk_sndbuf;
	/* Contexts are freed by RCU (mptcp_subflow_drop_ctx()), which programs hold off. */
	for (int i = 0; i < EMPTCP_SOCKETS_MAX; i++) {
		struct list_head *next = NULL;

		if ((unsigned long)node == head)
			break;
		emptcp_socket_read(
			&to->subflow[i],
			(void *)node - bpf_core_field_offset(struct mptcp_subflow_context, node));
		EMPTCP_SOCKETS_READ(next, node->next);
		node = next;
		count++;
	}
	to->count = emptcp_forget(count);
}

/** The subflow of a socket as packets to it have it, in a zone. */
static __always_inline void emptcp_socket_subflow(__u64 socket, __u32 zone,
						  struct emptcp_subflow *key)
{
	struct sock_common *sk = (void *)(unsigned long)socket;
	unsigned short family = 0;
	__be16 sport = 0;
	__u16 dport = 0;

	__builtin_memset(key, 0, sizeof(*key));
	EMPTCP_SOCKETS_READ(family, sk->skc_family);
	EMPTCP_SOCKETS_READ(sport, sk->skc_dport);
	EMPTCP_SOCKETS_READ(dport, sk->skc_num);
	if (family == EMPTCP_AF_INET) {
		key->src.w[2] = bpf_htonl(0xffff);
		key->dst.w[2] = bpf_htonl(0xffff);
		EMPTCP_SOCKETS_READ(key->src.w[3], sk->skc_daddr);
		EMPTCP_SOCKETS_READ(key->dst.w[3], sk->skc_rcv_saddr);
	} else {
		/* IPv4 on a socket of IPv6 is mapped here, too. */
		bpf_probe_read_kernel(&key->src, sizeof(key->src), &sk->skc_v6_daddr);
		bpf_probe_read_kernel(&key->dst, sizeof(key->dst), &sk->skc_v6_rcv_saddr);
	}
	key->sport = bpf_ntohs(sport);
	key->dport = dport;
	key->zone = zone;
}

#endif /* __EMPTCP_SOCKETS_H__ */
