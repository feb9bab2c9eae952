# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# What the scripts share. Sourced, never run; changes into the project's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
ROOT=$PWD
CACHE=$(realpath -m "${EMPTCP_CACHE:-$ROOT/.cache}")

# clang-format's result differs from version to version: this one decides.
LLVM_WANTED=19
# bpf_tail_call with a constant index, BTF decl tags and -mcpu=v3 need it.
LLVM_OLDEST=16

say() { printf '%s\n' "$*" >&2; }
note() { say "${0##*/}: $*"; }
die() {
	note "$*"
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# rust_wanted: the workspace's rust-version, the only place that states it.
rust_wanted() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# version: that of the workspace.
version() { sed -n 's/^version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n1; }

# at_least A B: true if version A is B or newer.
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# version_of CMD: its version number, nothing if it does not run. Asked in /,
# where no toolchain file of a project can make rustup fetch another one.
version_of() { (cd / && "$@" --version 2>/dev/null) | sed -nE '1s/.* ([0-9]+\.[0-9.]+).*/\1/p'; }

# llvm_suffix TOOL: "-19" if that is in PATH, else the newest numbered one that
# will do, else fails.
llvm_suffix() {
	local v
	for v in "$LLVM_WANTED" $(seq 40 -1 "$LLVM_OLDEST"); do
		if have "$1-$v"; then
			echo "-$v"
			return
		fi
	done
	return 1
}

# rust_fits: true if cargo and rustc in PATH are new enough.
rust_fits() {
	local v
	for c in cargo rustc; do
		v=$(version_of "$c")
		[ -n "$v" ] && at_least "$v" "$(rust_wanted)" || return 1
	done
}

# rust_path: put the toolchain that setup.sh found into PATH: cargo as it is,
# rustup's directory, or the links to a distribution's versioned packages.
rust_path() {
	rust_fits && return
	local plain=$PATH dir
	for dir in "${CARGO_HOME:-$HOME/.cargo}/bin" "$CACHE/rust/bin"; do
		[ -x "$dir/cargo" ] || continue
		PATH=$dir:$plain
		rust_fits && return
	done
	PATH=$plain
	return 1
}

# toolchain: PATH, CLANG, LLVM_STRIP and CLANG_FORMAT for what follows.
toolchain() {
	local s
	rust_path || die "no Rust $(rust_wanted) or newer: run scripts/setup.sh build"
	if [ -z "${CLANG:-}" ]; then
		s=$(llvm_suffix clang) || die "no clang $LLVM_OLDEST or newer: run scripts/setup.sh build"
		CLANG=clang$s
	fi
	s=${CLANG##*clang}
	if [ -z "${LLVM_STRIP:-}" ]; then
		LLVM_STRIP=llvm-strip$s
		have "$LLVM_STRIP" || LLVM_STRIP=llvm-strip$(llvm_suffix llvm-strip || true)
	fi
	[ -n "${CLANG_FORMAT:-}" ] || CLANG_FORMAT=clang-format$(llvm_suffix clang-format || true)
	export PATH CLANG LLVM_STRIP CLANG_FORMAT
}
