/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The map of classify and count_class. */
enum who {
	CLASSIFIED,
	ACTED,
};

struct class_key {
	__u32 class;
	__u32 who;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct class_key);
	__type(value, __u64);
	__uint(max_entries, 64);
} classes SEC(".maps") EMPTCP_SHARED;

/* Returns 0 where there is no room. */
static __always_inline int count_in_class(__u32 class, __u32 who)
{
	struct class_key key = {class, who};
	__u64 *count = bpf_map_lookup_elem(&classes, &key);
	__u64 one = 1;

	if (!count)
		return !bpf_map_update_elem(&classes, &key, &one, BPF_ANY);
	__sync_fetch_and_add(count, 1);
	return 1;
}
