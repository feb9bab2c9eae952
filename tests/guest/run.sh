#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# What runs in a guest: the test programs, then the command line once through.
# Results are in the form of cargo's, so that one sum serves all. Runs on any
# machine as root, if EMPTCP and so on are set as tests.txt says.
# shellcheck disable=SC2317 # functions called through step
cd "$(dirname "$0")" || exit 1
rc=0

# The order of tests.txt.
# shellcheck disable=SC2013 # words are meant
for name in $(sed 's/#.*//' guest/tests.txt | awk '$1 == "test" { print $2 }'); do
	echo "     Running $name"
	args=
	[ ! -e "tests/$name.args" ] || args=$(cat "tests/$name.args")
	# shellcheck disable=SC2086 # words
	"./tests/$name" --test-threads=1 $args && continue
	echo "$name: exit status $?"
	rc=1
done

# --- the command line --------------------------------------------------------

passed=0 failed=0
policy=guest/smoke.json
out=$(mktemp)

# step WHAT COMMAND...: one test of the command line; its output on failure.
step() {
	what=$1
	shift
	if "$@" >"$out" 2>&1; then
		passed=$((passed + 1))
		echo "test smoke::$what ... ok"
	else
		failed=$((failed + 1))
		echo "test smoke::$what ... FAILED (exit status $?): $*"
		sed 's/^/    /' "$out"
	fi
}

lists_modules() { "$EMPTCP" modules | grep -q set_recv_win; }
shows_chain() { "$EMPTCP" show | grep -q smoke; }
status_shows_chain() { "$EMPTCP" status | grep -q smoke; }
would_change() {
	"$EMPTCP" apply --dry-run "$policy"
	[ $? = 3 ]
}
second_changes_nothing() {
	before=$("$EMPTCP" show --json) && "$EMPTCP" apply --dry-run "$policy" && "$EMPTCP" apply "$policy" && [ "$("$EMPTCP" show --json)" = "$before" ]
}
refuses_nonsense() { ! echo '{ "version": 1, "chians": [] }' | "$EMPTCP" check /dev/stdin; }
nothing_left() { ! "$EMPTCP" show | grep -q smoke && [ -z "$(tc filter show dev smoke0 ingress)" ]; }

echo "     Running the command line"
if [ -z "$("$EMPTCP" --version)" ]; then
	echo "test smoke ... ignored, this emptcp knows no command yet"
	echo "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out"
else
	ip link add smoke0 type veth peer name smoke1 && ip link set smoke0 up && ip link set smoke1 up
	step modules lists_modules
	step check "$EMPTCP" check "$policy"
	step check_refuses refuses_nonsense
	step dry_run would_change
	step apply "$EMPTCP" apply "$policy"
	step show shows_chain
	step status status_shows_chain
	step apply_again second_changes_nothing
	# The tracker is what the verifier has most work with, at XDP above all.
	step tracks_at_xdp "$EMPTCP" apply guest/tracked.json
	step delete "$EMPTCP" delete
	step delete_leaves_nothing nothing_left
	step delete_again "$EMPTCP" delete
	ip link del smoke0
	word=ok
	[ $failed = 0 ] || { word=FAILED && rc=1; }
	echo "test result: $word. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
fi
rm -f "$out"
exit $rc
