#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Random packets through every module, and packets of a failure once more (root).
#
#   scripts/fuzz.sh packets [NUMBER]     so many (10,000,000), the way of tests/fuzz
#   scripts/fuzz.sh again JSON           one that a message names
#
# SEED is another one than that of the tests; MODULE the only one that is tried.
set -euo pipefail
here=$0
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
	sed -n '4,9s/^# \{0,1\}//p' "$ROOT/scripts/${here##*/}" >&2
	exit 2
}

case ${1:-} in
packets)
	export EMPTCP_FUZZ_PACKETS=${2:-10000000}
	[[ $EMPTCP_FUZZ_PACKETS =~ ^[0-9]+$ ]] || usage
	[ -z "${SEED:-}" ] || export EMPTCP_FUZZ_SEED=$SEED
	[ -z "${MODULE:-}" ] || export EMPTCP_FUZZ_MODULE=$MODULE
	;;
again)
	[ $# = 2 ] || usage
	export EMPTCP_FUZZ_REPLAY=$2
	;;
*) usage ;;
esac
[ "$(id -u)" = 0 ] || die "test runs of the kernel need root"
toolchain
exec cargo test --quiet --test fuzz -- root_ --nocapture
