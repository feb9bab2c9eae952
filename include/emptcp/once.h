/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is done once for each subflow: a map of the module remembers it. */
#ifndef __EMPTCP_ONCE_H__
#define __EMPTCP_ONCE_H__

#include <emptcp/chain.h>
#include <emptcp/parse.h>

/** errno of a map that has the key already; the uapi headers of C are not there for BPF. */
#define EMPTCP_EEXIST 17
/** errno of a map that does not have the key. */
#define EMPTCP_ENOENT 2

/**
 * Notes that it is about to be done. how: BPF_NOEXIST where the map does not have
 * the key, so that of several CPUs one comes through; BPF_EXIST where it has one
 * of another value. Returns EMPTCP_NEXT; EMPTCP_SKIP where another CPU was
 * faster; minus EMPTCP_REASON_MAP_FULL.
 */
static __always_inline int emptcp_claim(void *map, const void *key, const void *value, __u64 how)
{
	/* Before Linux 6.4 the upper half of what maps return is not that of the sign. */
	int ret = bpf_map_update_elem(map, key, value, how);

	if (!ret)
		return EMPTCP_NEXT;
	return ret == -EMPTCP_EEXIST || ret == -EMPTCP_ENOENT ? EMPTCP_SKIP
							      : -EMPTCP_REASON_MAP_FULL;
}

#endif /* __EMPTCP_ONCE_H__ */
