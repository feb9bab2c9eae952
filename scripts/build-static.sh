#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# scripts/build-static.sh [PAYLOAD-DIR]: build emptcp and the tests named in
# tests/guest/tests.txt as fully static programs, and lay them out as the payload
# of a guest (default target/static/payload):
#
#   run.sh  emptcp  tests/NAME  tests/NAME.args  guest/  and the data directories
#
# In a target directory of its own: other flags, so an ordinary build stays valid.
# Where the distribution's libelf cannot be linked statically, the programs are
# linked as usual, and scripts/vm/initramfs.sh adds the libraries.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
case $#${1:-} in
?-* | [2-9]*) die "usage: scripts/build-static.sh [PAYLOAD-DIR]" ;;
esac
out=$(realpath -m "${1:-target/static/payload}")
toolchain

triple=$(uname -m)-unknown-linux-gnu
export CARGO_TARGET_DIR=$ROOT/target/static
# glibc's advice on getaddrinfo, which nothing here calls, is not wanted
export RUSTFLAGS="${RUSTFLAGS:-} -A linker_messages"
LIBBPF_SYS_LIBRARY_PATH=${LIBBPF_SYS_LIBRARY_PATH:-/usr/lib/$(gcc -print-multiarch)}
export LIBBPF_SYS_LIBRARY_PATH

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

# links FLAG...: true if a program that reads ELF files can be linked statically.
links() {
	echo '#include <libelf.h>
	int main(void) {
		Elf *e = elf_begin(0, ELF_C_READ, 0);
		return elf_strptr(e, 0, 0) || elf_newscn(e) || elf_update(e, ELF_C_NULL) || elf_end(e);
	}' |
		gcc -x c - -static -o "$tmp/probe" -lelf -lz "$@" 2>/dev/null
}

# Newer static libelfs use zstd, which libbpf-sys does not link, and have a crc32
# of their own (the same sum) beside zlib's. That of Debian 13 lacks a part.
static=1
if links; then
	link=''
elif links -lzstd -Wl,-z,muldefs; then
	link=' -C link-arg=-l:libzstd.a -C link-arg=-Wl,-z,muldefs'
else
	static=''
	note "the static libelf of this distribution cannot be linked: shared libraries instead"
fi
[ -z "$static" ] || RUSTFLAGS+=" -C target-feature=+crt-static$link"
# Quick to build, quick enough to run under emulation, checks of overflow kept.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=symbols
export CARGO_INCREMENTAL=0

# The lines of tests.txt: kind, then its words.
entries() { sed 's/#.*//' "$ROOT/tests/guest/tests.txt" | awk -v k="$1" '$1 == k { $1 = ""; print }'; }

# has_feature: true if the package emptcp has the feature "static" (links libbpf
# and its libraries into the binary).
has_feature() {
	cargo metadata --no-deps --format-version 1 --quiet | python3 -c '
import json, sys
packages = json.load(sys.stdin)["packages"]
sys.exit(not any(p["name"] == "emptcp" and "static" in p["features"] for p in packages))'
}

features=()
[ -z "$static" ] || ! has_feature || features=(--features emptcp/static)

packages=(-p emptcp) targets=()
while read -r name package _; do
	[ -n "$name" ] || continue
	case $package in
	'' | -*) ;;
	*) packages+=(-p "$package") ;;
	esac
	targets+=(--test "$name")
done < <(entries test)

rm -rf "$out"
mkdir -p "$out/tests"

note "building emptcp, static"
cargo build --target "$triple" -p emptcp --bin emptcp "${features[@]}"
cp "$CARGO_TARGET_DIR/$triple/debug/emptcp" "$out/emptcp"

if [ ${#targets[@]} -gt 0 ]; then
	note "building the tests, static"
	cargo test --no-run --target "$triple" "${packages[@]}" "${targets[@]}" "${features[@]}" \
		--message-format=json-render-diagnostics |
		python3 -c '
import json, shutil, sys
for line in sys.stdin:
    m = json.loads(line) if line.startswith("{") else {}
    if m.get("executable") and m["profile"]["test"]:
        shutil.copy(m["executable"], sys.argv[1] + "/tests/" + m["target"]["name"])' "$out"
	while read -r name package args; do
		[ -n "$name" ] || continue
		case $package in -*) args="$package $args" ;; esac
		[ -x "$out/tests/$name" ] || die "cargo built no test $name"
		[ -z "${args// /}" ] || echo "$args" >"$out/tests/$name.args"
	done < <(entries test)
fi

for program in "$out/emptcp" "$out"/tests/*; do
	[ -n "$static" ] || break
	case $program in *.args | *'/*') continue ;; esac
	! ldd "$program" >/dev/null 2>&1 || ldd "$program" 2>&1 | grep -q 'statically linked' ||
		die "$program is not fully static"
done

while read -r path; do
	[ -n "$path" ] || continue
	if [ -e "$path" ]; then
		cp -r "$path" "$out/${path##*/}"
	else
		note "tests/guest/tests.txt: no $path yet"
	fi
done < <(entries data)
cp -r tests/guest "$out/guest"
cp tests/guest/run.sh "$out/run.sh"
