#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# scripts/vm/kernel.sh [--update] NAME: make sure that the kernel NAME of
# tests/kernels.txt lies unpacked in the cache; prints its directory:
#
#   version   vmlinuz   config   lib/modules/VERSION/
#
# Comes from the Debian mirror that this machine's own apt uses, or
# $EMPTCP_DEBIAN_MIRROR. Nothing is installed: apt works on lists and archives of
# its own, with signatures checked. What is in the cache is used without the
# network, until --update.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"

update=
[ "${1:-}" != --update ] || { update=1 && shift; }
[ $# = 1 ] || die "usage: scripts/vm/kernel.sh [--update] NAME"
name=$1
read -r suite package < <(awk -v n="$name" '$1 == n { print $2, $3 }' "$ROOT/tests/kernels.txt") ||
	die "no kernel $name in tests/kernels.txt; there are: $(awk '/^[^#]/ { printf " %s", $1 }' "$ROOT/tests/kernels.txt")"

dir=$CACHE/kernels/$name
mkdir -p "$CACHE/kernels"
exec 9>"$CACHE/kernels/.$name.lock"
flock 9 # another run may be fetching the same

if [ -z "$update" ] && [ -e "$dir/version" ]; then
	echo "$dir"
	exit
fi

# own_mirrors: the addresses of Debian archives in this machine's sources, in
# both formats that apt reads.
own_mirrors() {
	local f
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -r "$f" ] && sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) .*/\2/p' "$f"
	done
	for f in /etc/apt/sources.list.d/*.sources; do
		[ -r "$f" ] && awk '/^[A-Za-z-]+:/ { uris = tolower($1) == "uris:"; $1 = uris ? "" : $1 }
			/^#/ { next } uris { for (i = 1; i <= NF; i++) print $i }' "$f"
	done
	true
}

# mirrors: addresses to try: the main archive and, for suites that were moved
# away from it, the places beside it where mirrors keep those.
mirrors() {
	local main
	if [ -n "${EMPTCP_DEBIAN_MIRROR:-}" ]; then
		echo "${EMPTCP_DEBIAN_MIRROR%/}"
	else
		own_mirrors | sed -nE 's|/$||; /\/debian(\.list)?$/p'
	fi | awk '!seen[$0]++' | while read -r main; do
		echo "$main"
		case $main in
		*/debian)
			echo "${main%/debian}/debian-archive/debian"
			echo "${main%/debian}/archive/debian"
			;;
		esac
	done
}

keyring=
for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
	[ ! -e "$keyring" ] || break
done

tmp=$(mktemp -d "$CACHE/kernels/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

# A configuration of our own on top of the machine's, which knows of proxies.
# Validity dates are not looked at: a mirror may be a frozen copy, and the
# signature is what matters for a kernel that runs in an emulator only.
mkdir -p "$tmp/state/lists/partial" "$tmp/cache/archives/partial" "$tmp/new" "$tmp/debs"
cat >"$tmp/apt.conf" <<CONF
Dir::Etc::SourceList "$tmp/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$tmp/state";
Dir::State::status "/dev/null";
Dir::Cache "$tmp/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
CONF

# depends PACKAGE: what its newest version depends on, one name per line.
depends() {
	APT_CONFIG=$tmp/apt.conf apt-cache show --no-all-versions "$1" 2>/dev/null |
		sed -n 's/^Depends: //p' | tr ',|' '\n' | sed 's/^ *//; s/ .*//'
}

# The parts of a kernel: the image, and what newer ones split off from it.
kernel_parts() { grep -E '^linux-(image|binary|modules|base)(-unsigned)?-[0-9]' || true; }

found=
while read -r mirror; do
	rm -rf "$tmp"/state/lists/*
	{
		opt="[arch=amd64 target=Packages signed-by=$keyring]"
		echo "deb $opt $mirror $suite main"
		[ "$suite" = sid ] || echo "deb $opt $(sed -E 's|debian(\.list)?$|debian-security\1|' <<<"$mirror") $suite-security main"
	} >"$tmp/sources.list"
	APT_CONFIG=$tmp/apt.conf apt-get -qq update </dev/null >>"$tmp/log" 2>&1 || true
	image=$(depends "$package" | kernel_parts | head -n1)
	[ -z "$image" ] || {
		found=1
		break
	}
done < <(mirrors)

if [ -z "$found" ]; then
	cat "$tmp/log" >&2 2>/dev/null || true
	if grep -qE 'NO_PUBKEY|EXPKEYSIG|not signed|Missing key|No keyring' "$tmp/log" 2>/dev/null; then
		die "cannot check the signature of $suite: is the package debian-archive-keyring the newest of this distribution?"
	fi
	[ -s "$tmp/sources.list" ] ||
		die "apt's sources name no Debian archive: set EMPTCP_DEBIAN_MIRROR to one (http://…/debian)"
	die "no $package in suite $suite of the mirrors tried; EMPTCP_DEBIAN_MIRROR names another one"
fi

parts=("$image")
mapfile -t -O 1 parts < <(depends "$image" | kernel_parts)
note "$name: fetching ${parts[*]}"
(cd "$tmp/debs" && APT_CONFIG=$tmp/apt.conf apt-get -qq download "${parts[@]}" </dev/null >&2)

for deb in "$tmp"/debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tmp/new" --no-same-owner --wildcards \
		--exclude='./usr/share' './boot/*' './lib/*' './usr/*' 2>/dev/null || true
done
set -- "$tmp"/new/boot/vmlinuz-* "$tmp"/new/usr/lib/modules/*/vmlinuz
for vmlinuz; do [ ! -f "$vmlinuz" ] || break; done
[ -f "$vmlinuz" ] || die "no vmlinuz in ${parts[*]}"
set -- "$tmp"/new/{lib,usr/lib}/modules/*/kernel
for modules; do [ ! -d "$modules" ] || break; done
[ -d "$modules" ] || die "no modules in ${parts[*]}"
modules=${modules%/kernel}
version=${modules##*/}

mkdir -p "$tmp/done/lib/modules"
cp "$vmlinuz" "$tmp/done/vmlinuz"
cp "$tmp/new/boot/config-$version" "$tmp/done/config" 2>/dev/null || cp "$modules/config" "$tmp/done/config"
mv "$modules" "$tmp/done/lib/modules/$version"
PATH=$PATH:/usr/sbin:/sbin depmod -b "$tmp/done" "$version"
for option in DEBUG_INFO_BTF BPF_SYSCALL BPF_JIT DEVTMPFS SERIAL_8250_CONSOLE; do
	grep -q "^CONFIG_$option=y" "$tmp/done/config" || die "$version has no CONFIG_$option: another image is needed"
done
echo "$version" >"$tmp/done/version"
rm -rf "$dir"
mv "$tmp/done" "$dir"
echo "$dir"
