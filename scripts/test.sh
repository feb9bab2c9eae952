#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# The whole test suite, in stages; stops at the first that fails.
#
#   scripts/test.sh [fast|root|lab|vm|all]...     (default: all of them)
#
#   fast   formatting, lints, every test that needs no privilege
#   root   tests on this kernel, which need root: those named root_*
#   lab    the same of the lab: emulated links, real MPTCP traffic
#   vm     the oldest and the newest kernel of tests/kernels.txt, in QEMU
#
# Each test runs in exactly one stage. The last line printed is the sum over all
# test programs, guests included: `N passed, N failed, N skipped`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() { sed -n '4,14s/^# \{0,1\}//p' "$ROOT/scripts/test.sh"; }

stages=()
for arg; do
	case $arg in
	fast | root | lab | vm) stages+=("$arg") ;;
	all) stages+=(fast lab root vm) ;;
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
[ ${#stages[@]} -gt 0 ] || stages=(fast lab root vm)

tmp=$(mktemp -d)
table=() failed='' skipped=0 guests=''
# shellcheck disable=SC2329 # called by the trap
finish() {
	local rc=$?
	trap - EXIT
	[ -z "$guests" ] || kill -- "-$guests" 2>/dev/null || true
	# Wherever a line came from, colours or not, what cargo's test programs say.
	sed 's/\x1b\[[0-9;]*m//g' "$tmp/log" 2>/dev/null | awk -v skipped="$skipped" -v rc=$rc '
		/^test result: / {
			for (i = 4; i < NF; i++) {
				if ($(i + 1) == "passed;") p += $i
				if ($(i + 1) == "failed;") f += $i
				if ($(i + 1) == "ignored;") s += $i
			}
		}
		# What is no test, a lint or a build, may fail as well.
		END {
			if (rc && !f) f = 1
			printf "%d passed, %d failed, %d skipped\n", p, f, s + skipped
		}' >"$tmp/sum" || true
	printf '\n'
	[ ${#table[@]} = 0 ] || printf '%s\n' "${table[@]}"
	[ -z "$failed" ] || echo "failed: $failed"
	cat "$tmp/sum"
	rm -rf "$tmp"
	exit $rc
}
trap finish EXIT
trap 'failed=interrupted; exit 130' INT
trap 'failed=interrupted; exit 143' TERM HUP

# step NAME COMMAND...: one step under a heading, its seconds in the summary.
step() {
	local name=$1 start=$SECONDS
	shift
	printf '\n=== %s\n' "$name"
	if ! "$@" 2>&1 | tee -a "$tmp/log"; then
		table+=("$(printf 'FAIL  %5d s  %s' $((SECONDS - start)) "$name")")
		failed=$name
		exit 1
	fi
	table+=("$(printf 'ok    %5d s  %s' $((SECONDS - start)) "$name")")
}
# skip NAME WHY
skip() {
	table+=("$(printf 'skip           %s: %s' "$1" "$2")")
	skipped=$((skipped + 1))
}

need_root() {
	[ "$(id -u)" = 0 ] && return
	failed="the stage $1 needs root; scripts/test.sh fast does not"
	exit 1
}
set_up() {
	[ -n "${is_set_up:-}" ] && return
	step "set-up" "$ROOT/scripts/setup.sh" test
	toolchain
	is_set_up=1
}

format_c() {
	local files
	mapfile -t files < <(find bpf include benches examples tests -name '*.[ch]' 2>/dev/null | sort)
	[ ${#files[@]} = 0 ] || "$CLANG_FORMAT" --dry-run -Werror "${files[@]}"
}

# Some tests stop or kill an apply half way. All packages every time, also where the tests of some
# are wanted: with others selected cargo builds with other features, everything once more.
tests=(cargo test --workspace --features emptcp/failpoints --no-fail-fast)

# A test is known by its name: root_ means that it needs root, root_lab_ that it is of the lab.
stage_fast() {
	set_up
	if cargo fmt --version >/dev/null 2>&1; then
		step "format of Rust" cargo fmt --all --check
	else
		skip "format of Rust" "no rustfmt"
	fi
	if [ "$CLANG_FORMAT" = "clang-format-$LLVM_WANTED" ]; then
		step "format of C" format_c
	else
		skip "format of C" "no clang-format-$LLVM_WANTED, and others differ"
	fi
	if cargo clippy --version >/dev/null 2>&1; then
		step "lints" cargo clippy --workspace --features emptcp/failpoints --all-targets --quiet -- -D warnings
	else
		skip "lints" "no clippy"
	fi
	step "tests without root" "${tests[@]}" -- --skip root_
	# The binary that tests use.
	step "generated documentation" env EMPTCP="${CARGO_TARGET_DIR:-target}/debug/emptcp" scripts/gen-docs.sh --check
}

stage_root() {
	need_root root
	set_up
	[[ " ${stages[*]} " != *" vm "* ]] || start_guests
	step "tests as root" "${tests[@]}" --tests -- root_ --skip root_lab_ --test-threads=1
}

stage_lab() {
	need_root lab
	set_up
	step "lab" "${tests[@]}" --tests -- root_lab_ --test-threads=1
}

# A guest keeps a CPU busy, and the tests as root wait most of the time: where both are wanted, guests
# run beside them with what they leave of the CPUs, one after the other: some measure rates.
start_guests() {
	# shellcheck disable=SC2016 # for the inner shell
	setsid bash -c 'EMPTCP_VM_JOBS=1 nice -n 15 scripts/vmtest.sh --ends >"$1/guests" 2>&1; echo $? >"$1/guests.rc"' \
		bash "$tmp" </dev/null &
	guests=$!
}
finish_guests() {
	tail -n +1 -f --pid="$guests" "$tmp/guests"
	return "$(<"$tmp/guests.rc")"
}

stage_vm() {
	if [ -n "$guests" ]; then
		step "guests" finish_guests
	else
		step "guests" "$ROOT/scripts/vmtest.sh" --ends
	fi
}

for stage in "${stages[@]}"; do
	"stage_$stage"
done
