#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Install what a part of the project needs and is missing here.
#
#   scripts/setup.sh [build|test|lab|demo|deb|vm|all]...     (default: build)
#
#   build   compilers and libraries of the emptcp binary
#   test    what `make check` and `make test` run, apart from the guests
#   lab     what the emulated links and `make demo` run (demo: the same)
#   deb     what makes the package (`make deb`)
#   vm      what boots other kernels (`make vmtest`)
#
# Debian and Ubuntu, through apt, as root or with sudo. Returns at once, without
# the network, if nothing is missing. $CLANG, if set, is taken as it is.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() { sed -n '4,16s/^# \{0,1\}//p' "$ROOT/scripts/setup.sh"; }

missing=()
# tool COMMAND PACKAGE, library PKG-CONFIG-NAME PACKAGE, file PATH PACKAGE
tool() { have "$1" || [ -x "/usr/sbin/$1" ] || missing+=("$2"); }
library() { pkg-config --exists "$1" 2>/dev/null || missing+=("$2"); }
file() { [ -e "$1" ] || missing+=("$2"); }

want_build() {
	tool gcc gcc
	tool make make
	tool pkg-config pkg-config
	file /usr/include/stdio.h libc6-dev
	file /etc/ssl/certs/ca-certificates.crt ca-certificates
	library libelf libelf-dev
	library zlib zlib1g-dev
	want_clang=1
	want_rust=1
}

want_lab() {
	want_build
	tool ip iproute2
	tool tc iproute2
	tool ethtool ethtool
	tool iperf3 iperf3
	tool tcpdump tcpdump
	tool sysctl procps
	tool unshare util-linux
	tool python3 python3
}

want_test() {
	want_lab
	tool tshark tshark
	want_bpftool=1
	want_mptcpd=1
	want_format=1
	want_rust_lint=1
}

want_deb() {
	want_build
	tool dpkg-shlibdeps dpkg-dev
	tool xz xz-utils
}

want_vm() {
	want_build
	tool python3 python3
	tool ip iproute2
	tool ethtool ethtool
	tool qemu-system-x86_64 qemu-system-x86
	tool busybox busybox-static
	tool cpio cpio
	tool modprobe kmod
	tool xz xz-utils
	tool zstd zstd
	tool flock util-linux
	tool dpkg-deb dpkg
	file /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
	want_static=1
}

# --- apt ---------------------------------------------------------------------

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo -n true 2>/dev/null || [ -t 0 ] || die "${missing[*]:-packages} missing: run this as root"
		sudo "$@"
	fi
}

# apt CMD...: apt-get, waiting for whoever else is installing. Its own lock
# option covers dpkg's lock only, not those of the lists and the archives.
apt() {
	local out rc tries=60
	have apt-get || die "no apt-get here: install ${missing[*]} (or what they are called here) by hand"
	[ "$(id -u)" = 0 ] || have sudo || die "missing: ${missing[*]}: run this as root"
	while :; do
		rc=0
		out=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
			-o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null 2>&1) || rc=$?
		grep -qE 'Could not get lock|Unable to lock' <<<"$out" || break
		[ $tries -gt 0 ] || break
		[ $tries -lt 60 ] || note "another apt is at work, waiting"
		tries=$((tries - 1))
		sleep 5
	done
	[ $rc = 0 ] || printf '%s\n' "$out" >&2
	return $rc
}

updated=
update() {
	[ -z "$updated" ] || return 0
	updated=1
	note "reading the package lists"
	apt update || note "some package list could not be read; going on with the rest"
}

# candidate PACKAGE: the version apt would install, nothing if there is none.
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([^(].*\)/\1/p'; }

install() {
	update
	note "installing $*"
	apt install --no-install-recommends "$@" || die "apt-get could not install: $*"
}

# --- clang -------------------------------------------------------------------

# llvm_candidate PACKAGE: its number: 19, else the newest there is.
llvm_candidate() {
	local v
	for v in "$LLVM_WANTED" $(seq 40 -1 "$LLVM_OLDEST"); do
		if [ -n "$(candidate "$1-$v")" ]; then
			echo "$v"
			return
		fi
	done
	return 1
}

setup_clang() {
	local s v
	if [ -n "${CLANG:-}" ]; then
		have "$CLANG" || die "CLANG=$CLANG does not exist"
		return
	fi
	if s=$(llvm_suffix clang) && have "llvm-strip$s"; then
		return
	fi
	update
	v=${s#-}
	[ -n "$v" ] || v=$(llvm_candidate clang) ||
		die "no clang $LLVM_OLDEST or newer in apt's lists: install one and name it in \$CLANG"
	install "clang-$v" "llvm-$v"
}

setup_format() {
	[ -n "${CLANG_FORMAT:-}" ] || llvm_suffix clang-format >/dev/null && return
	local v
	update
	v=$(llvm_candidate clang-format) || die "no clang-format $LLVM_OLDEST or newer in apt's lists"
	install "clang-format-$v"
}

# --- Rust --------------------------------------------------------------------

# link_rust SUFFIX: plain names for a distribution's versioned programs, in a
# directory of ours which lib.sh puts into PATH.
link_rust() {
	local name path
	mkdir -p "$CACHE/rust/bin"
	for name in cargo rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver; do
		for path in "/usr/bin/$name-$1" "/usr/lib/rust-$1/bin/$name" "/usr/lib/cargo-$1/bin/$name"; do
			[ -x "$path" ] || continue
			ln -sfn "$path" "$CACHE/rust/bin/$name"
			break
		done
	done
}

# versioned_rust: the newest NN of the packages rustc-1.NN, if new enough.
versioned_rust() {
	local v
	v=$(apt-cache search --names-only '^rustc-1\.[0-9]+$' | sed 's/^rustc-\([^ ]*\).*/\1/' | sort -V | tail -n1)
	[ -n "$v" ] && at_least "$v" "$(rust_wanted)" && echo "$v"
}

# fits PACKAGE: true if apt's candidate is new enough.
fits() {
	local v
	v=$(candidate "$1")
	[ -n "$v" ] && at_least "${v#*:}" "$(rust_wanted)"
}

# What the distribution itself has comes first: it needs no further host, and is
# what a packager would build with. rustup last: it downloads from elsewhere.
setup_rust() {
	local v
	rust_path && return
	update
	if fits rustc && fits cargo; then
		install rustc cargo
	elif v=$(versioned_rust); then
		install "rustc-$v" "cargo-$v"
		link_rust "$v"
	elif fits rustc-web && fits cargo-web; then
		install rustc-web cargo-web
	elif have rustup || [ -n "$(candidate rustup)" ]; then
		have rustup || install rustup
		note "fetching Rust with rustup"
		rustup toolchain install stable --profile minimal -c clippy -c rustfmt >&2 ||
			die "rustup could not fetch a toolchain. Cure: install Rust $(rust_wanted) or newer by hand, so that cargo is in PATH"
		rustup default stable >&2
	fi
	hash -r
	rust_path || die "no Rust $(rust_wanted) or newer, neither here nor in apt's lists.
Cure: install one from https://rust-lang.org, so that cargo is in PATH or in ~/.cargo/bin, and run this again"
}

# rust_lints: true if cargo knows fmt and clippy.
rust_lints() { cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; }

setup_rust_lint() {
	local owner v p
	rust_lints && return
	update
	owner=$(dpkg -S "$(realpath "$(command -v rustc)")" 2>/dev/null | sed -n '1s/:.*//p')
	v=${owner#rustc}
	case $owner in
	rustc-web) install rust-web-clippy rustfmt-web ;;
	rustc) install rust-clippy rustfmt ;;
	rustc-*)
		for p in "rust$v-clippy" "rust-clippy$v" "rustfmt$v"; do
			[ -z "$(candidate "$p")" ] || install "$p"
		done
		link_rust "${v#-}"
		;;
	*) ! have rustup || rustup component add clippy rustfmt >&2 || true ;;
	esac
	rust_lints || note "no clippy or rustfmt for this Rust: the checks which need them will be left out"
}

# Ubuntu before 24.10 has no package of this name: there /usr/sbin/bpftool is a script that
# looks for the one of the running kernel, which in a container may be no kernel of Ubuntu;
# one of another version does as well.
setup_bpftool() {
	local path=$PATH:/usr/local/sbin:/usr/sbin real
	PATH=$path bpftool version >/dev/null 2>&1 && return
	update
	if [ -n "$(candidate bpftool)" ]; then
		install bpftool
	elif [ -n "$(candidate "linux-tools-$(uname -r)")" ]; then
		install linux-tools-common "linux-tools-$(uname -r)"
	elif [ -n "$(candidate linux-tools-generic)" ]; then
		install linux-tools-common linux-tools-generic
		real=$(find /usr/lib/linux-tools -name bpftool | sort -V | tail -n1)
		[ -z "$real" ] || as_root ln -sfn "$real" /usr/local/sbin/bpftool
	fi
	hash -r
	PATH=$path bpftool version >/dev/null 2>&1 ||
		note "no bpftool that runs on $(uname -r): tests that read maps with it will fail.
Cure: install the tools of this kernel, so that \`bpftool version\` works"
}

# A path manager for tests to run in namespaces of theirs. Where it was not here before, its service,
# which changes the endpoints of this host, is kept from starting.
setup_mptcpd() {
	local p packages=()
	[ -x /usr/libexec/mptcpd ] && compgen -G '/usr/lib/*/mptcpd/addr_adv.so' >/dev/null && return
	update
	for p in mptcpd mptcpd-plugins; do
		[ -z "$(candidate "$p")" ] || packages+=("$p")
	done
	if [ ${#packages[@]} = 0 ]; then
		note "no mptcpd in apt's lists: the tests beside it will be left out"
		return
	fi
	if [ ! -x /usr/libexec/mptcpd ] && [ -d /run/systemd/system ]; then
		note "masking mptcp.service: systemctl unmask mptcp.service to use it"
		as_root systemctl --quiet mask mptcp.service
	fi
	install "${packages[@]}"
}

# -----------------------------------------------------------------------------

want_clang='' want_rust='' want_format='' want_rust_lint='' want_static='' want_bpftool='' want_mptcpd=''
[ $# -gt 0 ] || set -- build
for part; do
	case $part in
	build) want_build ;;
	test) want_test ;;
	lab | demo) want_lab ;;
	deb) want_deb ;;
	vm) want_vm ;;
	all)
		want_test
		want_vm
		;;
	-h | --help)
		usage
		exit
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
done

if [ ${#missing[@]} -gt 0 ]; then
	mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
	install "${missing[@]}"
fi
[ -z "$want_clang" ] || setup_clang
[ -z "$want_bpftool" ] || setup_bpftool
[ -z "$want_mptcpd" ] || setup_mptcpd
[ -z "$want_format" ] || setup_format
[ -z "$want_rust" ] || setup_rust
[ -z "$want_rust_lint" ] || setup_rust_lint
# A static libelf may need more than the shared one does (libzstd since 0.189 or so).
if [ -n "$want_static" ] && pkg-config --static --libs libelf | grep -q -- -lzstd; then
	[ -e "/usr/lib/$(gcc -print-multiarch)/libzstd.a" ] || install libzstd-dev
fi
