#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# scripts/vm/initramfs.sh KERNEL-DIR PAYLOAD-DIR OUT: the whole file system of a
# guest as one cpio archive: busybox, the network modules, a few real tools with
# their libraries, the payload.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
[ $# = 3 ] || die "usage: scripts/vm/initramfs.sh KERNEL-DIR PAYLOAD-DIR OUT"
kernel=$1 payload=$2 out=$3
PATH=$PATH:/usr/sbin:/sbin

# Modules loaded in the guest, with what they need, where they are modules.
MODULES='veth dummy ifb tun macvlan 8021q bridge
	sch_ingress cls_bpf cls_u32 cls_flower cls_matchall act_bpf act_mirred act_gact
	sch_fq sch_fq_codel sch_htb sch_tbf sch_prio sch_netem tcp_bbr mptcp_diag'
# Programs of this machine: busybox has a poorer one by that name, or none. dash
# is /bin/sh, because busybox's sh runs its own ip and tc whatever PATH says.
TOOLS='dash ip tc ss ethtool'

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
root=$tmp/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,dev,etc,proc,sys,run,tmp,root,var,modules,payload}
ln -s ../run "$root/var/run"

busybox=$(command -v busybox)
ldd "$busybox" >/dev/null 2>&1 && die "$busybox is not static: install busybox-static"
cp "$busybox" "$root/bin/busybox"
"$busybox" --list | grep -vxE "busybox|sh|${TOOLS// /|}" | while read -r applet; do
	ln -s /bin/busybox "$root/bin/$applet"
done

# libraries PROGRAM: put what it is linked with where it will look for it.
libraries() {
	# nothing for a static one
	{ ldd "$1" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | while read -r lib; do
		mkdir -p "$root${lib%/*}"
		[ -e "$root$lib" ] || cp -L "$lib" "$root$lib"
	done
}

for tool in $TOOLS; do
	path=$(command -v "$tool") || die "no $tool here: run scripts/setup.sh vm"
	cp -L "$path" "$root/usr/sbin/$tool"
	libraries "$path"
done
for program in "$payload/emptcp" "$payload"/tests/*; do
	[ ! -x "$program" ] || [ -d "$program" ] || libraries "$program"
done
ln -s /usr/sbin/dash "$root/bin/sh"

version=$(<"$kernel/version")
for module in $MODULES; do
	modprobe -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod *\([^ ]*\).*/\1/p' || true
done | awk '!seen[$0]++' | while read -r path; do
	ko=${path##*/}
	ko=${ko%%.ko*}.ko
	case $path in
	*.xz) xz -dc "$path" ;;
	*.zst) zstd -qdc "$path" ;;
	*.gz) gzip -dc "$path" ;;
	*) cat "$path" ;;
	esac >"$root/modules/$ko"
	echo "$ko" >>"$root/modules/order"
done
[ -s "$root/modules/order" ] || die "no modules found in $kernel"

cp -rL "$payload/." "$root/payload/"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
install -m 755 "$ROOT/scripts/vm/init" "$root/init"
(cd "$root" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0) >"$out"
