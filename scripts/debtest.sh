#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# The package on a clean Debian: installs it with its dependencies, lists the modules, checks an
# example, and applies it in a network namespace of its own; then removes it.
#
#   scripts/debtest.sh [SUITE]...     (default: trixie; needs root, mmdebstrap or debootstrap, and
#                                     the archive that apt uses here)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || die "needs root"
[ $# -gt 0 ] || set -- trixie
deb=$(echo target/emptcp_"$(version)"-1_*.deb)
[ -f "$deb" ] || die "no package in target: run make deb"

# archive: where apt gets Debian from.
archive() {
	# shellcheck disable=SC2016 # apt fills these in
	apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 2>/dev/null |
		awk '$2 == "Debian" && $1 !~ /security/ { print $1; exit }'
}

tmp=$(mktemp -d)
netns=emptcp-deb-$$
cleanup() {
	set +e
	ip netns del "$netns" 2>/dev/null
	for dir in sys/fs/bpf sys proc; do
		umount -l "$root/$dir" 2>/dev/null
	done
	rm -rf --one-file-system "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# inside COMMAND...: in the root, in its network namespace.
inside() {
	nsenter --net="/run/netns/$netns" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin EMPTCP_BPFFS=/sys/fs/bpf \
		chroot "$root" "$@"
}

# test_suite SUITE
test_suite() {
	root=$tmp/$1
	mkdir "$root"
	note "$1: a clean root"
	if have mmdebstrap; then
		mmdebstrap --quiet --variant=minbase --mode=root "$1" "$root" "$mirror" >&2
	else
		debootstrap --variant=minbase "$1" "$root" "$mirror" >&2
	fi
	cp "$deb" "$root/tmp/emptcp.deb"
	note "$1: the package"
	[ -s "$root/etc/resolv.conf" ] || cp /etc/resolv.conf "$root/etc/"
	chroot "$root" apt-get -qq update >"$tmp/log" 2>&1 || die "no lists: $(tail "$tmp/log")"
	DEBIAN_FRONTEND=noninteractive chroot "$root" \
		apt-get -qq -y --no-install-recommends install /tmp/emptcp.deb >"$tmp/log" 2>&1 ||
		die "cannot install: $(tail -n 20 "$tmp/log")"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount -t bpf bpf "$root/sys/fs/bpf"
	ip netns add "$netns"
	ip -n "$netns" link add eth0 type veth peer name far
	ip -n "$netns" link set eth0 up

	local example=/usr/share/doc/emptcp/examples/block-port.json
	note "$1: the command"
	inside emptcp --version
	[ "$(inside emptcp modules | grep -c '^[sa][ec][lt].*:')" -ge 10 ] || die "modules are missing"
	inside emptcp check "$example"
	cp "$root$example" "$root/etc/emptcp/policy.json"
	inside emptcp apply /etc/emptcp
	inside emptcp status
	inside emptcp status | grep -q block-telnet || die "the policy is not in force"
	note "$1: removal"
	inside dpkg --remove emptcp >"$tmp/log" 2>&1 || die "cannot remove: $(cat "$tmp/log")"
	[ ! -e "$root/usr/sbin/emptcp" ] || die "the program is still there"
	[ -z "$(find "$root/sys/fs/bpf/emptcp/v1" -mindepth 1)" ] || die "the policy is still there"
	[ -e "$root/etc/emptcp/policy.json" ] || die "the administrator's policy is gone"
	ip netns del "$netns"
	umount "$root/sys/fs/bpf" "$root/sys" "$root/proc"
}

mirror=$(archive)
[ -n "$mirror" ] || die "apt knows no archive of Debian here"
for suite; do
	test_suite "$suite"
	echo "ok: $deb on $suite"
done
