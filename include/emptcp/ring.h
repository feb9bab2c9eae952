/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What steps send to user space through a ring buffer, and how they know that
 * somebody reads. Numbers are in the byte order of the machine unless they say
 * otherwise. Reaches BTF, and so the loader, through a global of
 * bpf/entry.bpf.c.
 *
 * A record is a structure that begins with struct emptcp_ring_head, followed by
 * bytes that are not part of it. A reader skips records of types that it does
 * not know, and goes by size: later versions only add members at the end.
 */
#ifndef __EMPTCP_RING_H__
#define __EMPTCP_RING_H__

/** Layout of records; another number is one that cannot be read. */
#define EMPTCP_RING_VERSION 1

/** What a record is. */
enum emptcp_ring_type {
	/** The first bytes of a packet: struct emptcp_ring_packet. */
	EMPTCP_RING_PACKET = 1,
	/** Of the others see ring_events.h. A connection began or ended. */
	EMPTCP_RING_CONNECTION,
	/** A subflow began or ended. */
	EMPTCP_RING_SUBFLOW,
	/** A connection went on as plain TCP. */
	EMPTCP_RING_FALLBACK,
	/** ADD_ADDR. */
	EMPTCP_RING_ADD_ADDR,
	/** REMOVE_ADDR. */
	EMPTCP_RING_REMOVE_ADDR,
	/** MP_PRIO. */
	EMPTCP_RING_PRIO,
	/** A subflow met a condition of the policy. */
	EMPTCP_RING_THRESHOLD,
	/** A quota is used up. */
	EMPTCP_RING_QUOTA,
	/** Taken, but of nothing yet: something was given up after a time. */
	EMPTCP_RING_EXPIRED,
	/** Likewise: something that was held goes on. */
	EMPTCP_RING_RELEASED,
	EMPTCP_RING_MAX,
};

/** What every record begins with. */
struct emptcp_ring_head {
	/** EMPTCP_RING_VERSION. */
	__u8 version;
	/** enum emptcp_ring_type. */
	__u8 type;
	/** Bytes of the structure with this head; data begin behind them. */
	__u16 size;
	/** Number of the step (emptcp_links.step). */
	__u32 step;
	/** When: nanoseconds of CLOCK_BOOTTIME. */
	__u64 time;
	/** Interface at which the step runs. */
	__u32 ifindex;
	/** Zone of its chain (emptcp_links.zone). */
	__u32 zone;
	/** enum emptcp_hook. */
	__u8 hook;
	/** enum emptcp_framing. */
	__u8 framing;
	__u8 pad[6];
};

/** What is so for a packet; bits. */
enum emptcp_ring_packet_flags {
	/** Keys and HMACs of Multipath TCP have been zeroed. */
	EMPTCP_RING_NO_KEYS = 1 << 0,
};

/** A packet; `captured` bytes from its link-layer (or IP) header on follow. */
struct emptcp_ring_packet {
	struct emptcp_ring_head head;
	/** Bytes that it has; of a GSO or GRO packet those of all segments, with one set of
	 * headers. */
	__u32 len;
	/** Bytes that follow. */
	__u32 captured;
	/** Bits of enum emptcp_ring_packet_flags. */
	__u32 flags;
	/** VLAN tag that is not among the bytes, because the device took it out: its control
	 * information and protocol (network byte order); protocol 0: there is none. */
	__u16 vlan_tci;
	__be16 vlan_proto;
	/** Packets on the wire that it stands for, and the payload of each but the last (0: it is
	 * one). */
	__u16 segments;
	__u16 segment_size;
	/** Offsets of the headers. */
	__u16 ip_off;
	__u16 tcp_off;
	/** 4 or 6. */
	__u8 ip_version;
	__u8 pad[7];
};

/** What a reader asks for; bits. */
enum emptcp_ring_reader_flags {
	/** Keys and HMACs too, where the step gives them. */
	EMPTCP_RING_READS_KEYS = 1 << 0,
};

/** Whether a ring is read. The reader changes each member by single 8-byte stores. */
struct emptcp_ring_reader {
	/**
	 * Until when somebody reads, in nanoseconds of CLOCK_BOOTTIME; 0: nobody. The reader
	 * puts it off again and again, so that it ends with the reader, however that ends.
	 */
	__u64 until;
	/** Bits of enum emptcp_ring_reader_flags. */
	__u64 flags;
};

#endif /* __EMPTCP_RING_H__ */
