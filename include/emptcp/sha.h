/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The hashes of Multipath TCP: SHA-256 in version 1 (RFC 8684), SHA-1 in version
 * 0 (RFC 6824). They make tokens and first sequence numbers out of keys, and the
 * HMACs that prove who announces an address.
 *
 * All work is in a scratch of the CPU: messages are longer than what is left of
 * the stack, and Linux before 5.12 takes no index into the stack that it does
 * not know. A packet is treated from begin to end on one CPU, so it holds
 * between two calls, and no longer.
 *
 * Words are in the byte order of the machine. Both are FIPS 180-4.
 */
#ifndef __EMPTCP_SHA_H__
#define __EMPTCP_SHA_H__

#include <emptcp/ctx.h>

/** Words of a block. */
#define SHA_BLOCK 16
/** Words of the hash: of SHA-256, SHA-1 leaves the last three unused. */
#define SHA_WORDS 8

/** Bytes for the message of an HMAC, one of them for its end. */
#define SHA_MESSAGE 32

struct sha_scratch {
	/** The block; compression leaves something else in it. */
	__u32 w[SHA_BLOCK];
	/** The hash so far, and in the end. */
	__u32 h[SHA_WORDS];
	/** Inner hash of an HMAC. */
	__u32 inner[SHA_WORDS];
	/** What is signed by an HMAC, and room for its end; bytes. */
	__u8 message[SHA_MESSAGE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sha_scratch);
	__uint(max_entries, 1);
} sha_scratch SEC(".maps");

/** Of the cube roots of primes (FIPS 180-4, 4.2.2). */
static const __u32 sha256_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

/** The scratch of this CPU; NULL, which cannot be, where there is none. */
static __always_inline struct sha_scratch *sha_scratch_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sha_scratch, &zero);
}

static __always_inline __u32 sha_ror(__u32 x, const int bits)
{
	return x >> bits | x << (32 - bits);
}

/** Begins a hash of SHA-256. */
static __always_inline void sha256_begin(struct sha_scratch *s)
{
	s->h[0] = 0x6a09e667;
	s->h[1] = 0xbb67ae85;
	s->h[2] = 0x3c6ef372;
	s->h[3] = 0xa54ff53a;
	s->h[4] = 0x510e527f;
	s->h[5] = 0x9b05688c;
	s->h[6] = 0x1f83d9ab;
	s->h[7] = 0x5be0cd19;
}

/** Takes one block, s->w, into the hash. */
static __noinline int sha256_block(struct sha_scratch *s)
{
	__u32 a = s->h[0], b = s->h[1], c = s->h[2], d = s->h[3];
	__u32 e = s->h[4], f = s->h[5], g = s->h[6], h = s->h[7];

	for (int i = 0; i < 64; i++) {
		__u32 w = s->w[i & 15], t;

		if (i >= 16) {
			__u32 near = s->w[(i + 14) & 15], far = s->w[(i + 1) & 15];

			w += s->w[(i + 9) & 15];
			w += sha_ror(near, 17) ^ sha_ror(near, 19) ^ near >> 10;
			w += sha_ror(far, 7) ^ sha_ror(far, 18) ^ far >> 3;
			s->w[i & 15] = w;
		}
		t = h + (sha_ror(e, 6) ^ sha_ror(e, 11) ^ sha_ror(e, 25)) + ((e & f) ^ (~e & g)) +
		    sha256_k[i] + w;
		h = g;
		g = f;
		f = e;
		e = d + t;
		t += (sha_ror(a, 2) ^ sha_ror(a, 13) ^ sha_ror(a, 22)) +
		     ((a & b) ^ (a & c) ^ (b & c));
		d = c;
		c = b;
		b = a;
		a = t;
	}
	s->h[0] += a;
	s->h[1] += b;
	s->h[2] += c;
	s->h[3] += d;
	s->h[4] += e;
	s->h[5] += f;
	s->h[6] += g;
	s->h[7] += h;
	return 0;
}

/** Begins a hash of SHA-1. */
static __always_inline void sha1_begin(struct sha_scratch *s)
{
	s->h[0] = 0x67452301;
	s->h[1] = 0xefcdab89;
	s->h[2] = 0x98badcfe;
	s->h[3] = 0x10325476;
	s->h[4] = 0xc3d2e1f0;
}

/** Takes one block, s->w, into the hash. */
static __noinline int sha1_block(struct sha_scratch *s)
{
	__u32 a = s->h[0], b = s->h[1], c = s->h[2], d = s->h[3], e = s->h[4];

	for (int i = 0; i < 80; i++) {
		__u32 w = s->w[i & 15], t;

		if (i >= 16) {
			w ^= s->w[(i + 13) & 15] ^ s->w[(i + 8) & 15] ^ s->w[(i + 2) & 15];
			w = sha_ror(w, 31);
			s->w[i & 15] = w;
		}
		if (i < 20)
			t = ((b & c) | (~b & d)) + 0x5a827999;
		else if (i < 40)
			t = (b ^ c ^ d) + 0x6ed9eba1;
		else if (i < 60)
			t = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
		else
			t = (b ^ c ^ d) + 0xca62c1d6;
		t += sha_ror(a, 27) + e + w;
		e = d;
		d = c;
		c = sha_ror(b, 2);
		b = a;
		a = t;
	}
	s->h[0] += a;
	s->h[1] += b;
	s->h[2] += c;
	s->h[3] += d;
	s->h[4] += e;
	return 0;
}

/** The one block of a message of 8 bytes. */
static __always_inline void sha_fill_key(struct sha_scratch *s, __u64 key)
{
	for (int i = 3; i < SHA_BLOCK - 1; i++)
		s->w[i] = 0;
	s->w[0] = key >> 32;
	s->w[1] = key;
	s->w[2] = 1U << 31;
	s->w[SHA_BLOCK - 1] = 64;
}

/**
 * What follows from the key of an end (a number in the byte order of the
 * machine): its token, and its initial data sequence number. version: 0 or 1 of
 * Multipath TCP (RFC 6824, 3.2; RFC 8684, 3.2).
 */
static __always_inline __u32 mptcp_key_token(struct sha_scratch *s, int version, __u64 key,
					     __u64 *idsn)
{
	sha_fill_key(s, key);
	if (version) {
		sha256_begin(s);
		sha256_block(s);
		*idsn = (__u64)s->h[6] << 32 | s->h[7];
	} else {
		sha1_begin(s);
		sha1_block(s);
		*idsn = (__u64)s->h[3] << 32 | s->h[4];
	}
	return s->h[0];
}

/** The block of a key of 16 bytes, of which each byte is changed by pad. */
static __always_inline void sha_fill_keys(struct sha_scratch *s, __u64 first, __u64 second,
					  __u32 pad)
{
	s->w[0] = first >> 32 ^ pad;
	s->w[1] = (__u32)first ^ pad;
	s->w[2] = second >> 32 ^ pad;
	s->w[3] = (__u32)second ^ pad;
	for (int i = 4; i < SHA_BLOCK; i++)
		s->w[i] = pad;
}

/**
 * HMAC-SHA256 (RFC 2104) of the first len bytes of s->message, fewer than
 * SHA_MESSAGE, under the keys of both ends: first that of who signs (numbers in
 * the byte order of the machine; RFC 8684, 3.2). Left in s->h.
 */
static __always_inline void mptcp_hmac(struct sha_scratch *s, __u64 first, __u64 second, __u32 len)
{
	sha_fill_keys(s, first, second, 0x36363636);
	sha256_begin(s);
	sha256_block(s);
	for (int i = 0; i < SHA_BLOCK; i++)
		s->w[i] = 0;
	len &= SHA_MESSAGE - 1;
	s->message[len] = 0x80;
	for (int i = 0; i < SHA_MESSAGE / 4; i++) {
		__u32 word = bpf_ntohl(*(__be32 *)(s->message + 4 * i));
		__s32 left = (len + 1) * 8 - 32 * i;

		/* Nothing of what another message has left. */
		if (left < 32)
			word &= left <= 0 ? 0 : ~0U << (32 - left);
		s->w[i] = word;
	}
	s->w[SHA_BLOCK - 1] = 512 + len * 8;
	sha256_block(s);
	for (int i = 0; i < SHA_WORDS; i++)
		s->inner[i] = s->h[i];
	sha_fill_keys(s, first, second, 0x5c5c5c5c);
	sha256_begin(s);
	sha256_block(s);
	for (int i = 0; i < SHA_WORDS; i++)
		s->w[i] = s->inner[i];
	s->w[SHA_WORDS] = 1U << 31;
	for (int i = SHA_WORDS + 1; i < SHA_BLOCK - 1; i++)
		s->w[i] = 0;
	s->w[SHA_BLOCK - 1] = 512 + 256;
	sha256_block(s);
}

#endif /* __EMPTCP_SHA_H__ */
