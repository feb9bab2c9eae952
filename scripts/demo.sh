#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# See emptcp work, in half a minute: two hosts with two paths between them, a
# real Multipath TCP download between stock sockets, and a policy that comes and
# goes while it runs.
#
#   scripts/demo.sh        (needs root; asks sudo otherwise)
#
# Builds what is missing. Everything happens in network namespaces of its own,
# which are gone afterwards, also after an interruption. Exit code 0: the effect
# was seen, in the size that was computed beforehand.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

EMPTCP=$ROOT/target/release/emptcp
LAB=$ROOT/target/release/emptcp-lab
PATHS=$ROOT/lab/examples/two-paths.json
POLICY=$ROOT/examples/clamp-path.json

# What the lab file and the policy say.
RTT_MS=20
WINDOW_KIB=32
# Rows (seconds) of each part; the first ones of a part are not judged: queues
# drain, windows open.
BEFORE=8 DURING=10 AFTER=8 SETTLE=2
ATTEMPTS=3

# --- one run, in front of the lab ---------------------------------------------

# Runs a command on the client; mounts (bpffs) stay those of the caller.
client() { "$LAB" exec client -- "$@"; }

# on_client ARG...: emptcp on the client, as a user would type it.
on_client() {
	printf '\n  client$ emptcp %s\n' "${*//"$tmp/"/}"
	client "$EMPTCP" "$@" 2>&1 | sed 's/^/  /; s/ *$//'
}

bar() { printf '%*s' "${1%.*}" '' | tr ' ' '='; }

# median SKIP NUMBER...
median() {
	shift $(($1 + 1))
	printf '%s\n' "$@" | sort -n | awk '{ n[NR] = $1 } END { print n[int((NR + 1) / 2)] }'
}

# holds EXPRESSION: true if awk finds it so.
holds() { awk "BEGIN { exit !($1) }"; }

inside() {
	local tmp=$1 expected rows=0 one=0 line rate wscale clamped failed=
	local first=() second=() last=0
	expected=$(awk "BEGIN { printf \"%.1f\", $WINDOW_KIB * 1024 * 8 / ($RTT_MS / 1000) / 1e6 }")
	last=$((BEFORE + DURING + AFTER))

	trap 'client "$EMPTCP" delete 2>/dev/null || true' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP

	cat <<-END

	  client 10.0.1.2 ===== path 1: 20 Mbit/s, $RTT_MS ms ===== 10.0.1.1 server
	         10.0.2.2 ===== path 2: 20 Mbit/s, $RTT_MS ms ===== 10.0.2.1

	A download with Multipath TCP, one row a second, Mbit/s of each subflow:

	END
	"$LAB" serve --netns server --congestion cubic 2>"$tmp/serve" &
	exec 3< <("$LAB" bulk 10.0.1.1 --netns client --congestion cubic \
		--time $((last + 1))s --interval 1s 2>"$tmp/bulk" || true)

	while [ $rows -lt $last ] && read -r line <&3; do
		rate=${line% Mbit/s}
		rate=${rate##* }
		case $line in
		total*) break ;;
		*' > 10.0.1.1:'*) one=$rate ;;
		*' > 10.0.2.1:'*)
			rows=$((rows + 1))
			first+=("$one") second+=("$rate")
			printf '  %4d s   path 1 %5s %-20s   path 2 %5s %s\n' \
				$rows "$one" "$(bar "$one")" "$rate" "$(bar "$rate")"
			;;
		*) continue ;;
		esac
		case $rows:$line in
		$BEFORE:*' > 10.0.2.1:'*)
			# Of the pair that ss shows, the second is the scale of this side's own windows.
			wscale=$(client ss -tinH src 10.0.2.2 | sed -nE 's/.*wscale:[0-9]+,([0-9]+).*/\1/p' | head -n1)
			[ -n "$wscale" ] || die "ss shows no window scale of the subflow on path 2"
			sed -E "s/(\"wscale\": *)[0-9]+/\1$wscale/" "$POLICY" >"$tmp/clamp-path.json"
			cat <<-END

			  Now a policy, while the download goes on: the ACKs of the subflow on path 2 may
			  announce $WINDOW_KIB KiB at the most. One window per round trip is
			  $WINDOW_KIB KiB / $RTT_MS ms = $expected Mbit/s.
			  (examples/clamp-path.json, with the window scale that ss shows: $wscale)
			END
			on_client apply "$tmp/clamp-path.json"
			on_client show
			echo
			;;
		$((BEFORE + DURING)):*' > 10.0.2.1:'*)
			on_client status
			clamped=$(client "$EMPTCP" status | awk '/set_recv_win/ { print $(NF - 1) }')
			on_client delete
			echo
			;;
		esac
	done
	if [ $rows -lt $last ]; then
		sed 's/^/  /' "$tmp/bulk" "$tmp/serve" >&2
		die "the download ended early, or had no second subflow"
	fi

	local b d a o
	b=$(median $SETTLE "${second[@]:0:BEFORE}")
	d=$(median $SETTLE "${second[@]:BEFORE:DURING}")
	a=$(median $SETTLE "${second[@]:BEFORE + DURING}")
	o=$(median $SETTLE "${first[@]:BEFORE:DURING}")
	cat <<-END

	  Median, Mbit/s      before   clamped   after
	  path 1               $(printf '%5s    %5s     %5s' "$(median $SETTLE "${first[@]:0:BEFORE}")" "$o" "$(median $SETTLE "${first[@]:BEFORE + DURING}")")
	  path 2               $(printf '%5s    %5s     %5s     computed: %s' "$b" "$d" "$a" "$expected")

	END
	check() { # check WHAT EXPRESSION
		if holds "$2"; then echo "  ok    $1"; else
			echo "  FAIL  $1"
			failed=1
		fi
	}
	check "path 2 was filled before ($b of 20 Mbit/s)" "$b > 15"
	check "clamped to within 20 % of window / RTT ($d, computed $expected)" "$d > 0.8 * $expected && $d < 1.2 * $expected"
	check "path 1 did not suffer ($o)" "$o > 15"
	check "$clamped ACKs were rewritten" "$clamped > 100"
	check "path 2 is filled again without the policy ($a)" "$a > 15"
	[ -z "$failed" ] || return 1
	touch "$tmp/seen"
}

if [ "${1:-}" = --inside ]; then
	inside "$2"
	exit
fi

# --- set-up and clean-up --------------------------------------------------------

[ $# = 0 ] || {
	sed -n '4,13s/^# \{0,1\}//p' "$ROOT/scripts/demo.sh" >&2
	exit 2
}
if ! [ -x "$EMPTCP" ] || ! [ -x "$LAB" ]; then
	scripts/setup.sh demo
	scripts/cargo.sh build --release
	scripts/cargo.sh build --release -p emptcp-lab
fi
if [ "$(id -u)" != 0 ]; then
	have sudo || die "network namespaces and BPF need root"
	note "network namespaces and BPF need root: asking sudo"
	exec sudo -- "$ROOT/scripts/demo.sh"
fi
at_least "$(uname -r | sed 's/[^0-9.].*//')" 6.5 || die "the lab needs Linux 6.5 (this is $(uname -r))"
[ -e /proc/sys/net/mptcp/enabled ] || die "this kernel has no Multipath TCP (CONFIG_MPTCP)"

tmp=$(mktemp -d)
lab='' mounted=''
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
	local rc=$?
	trap '' INT TERM HUP
	if [ -n "$lab" ]; then
		kill "$lab" 2>/dev/null || true
		wait "$lab" 2>/dev/null || true
	fi
	[ -z "$mounted" ] || umount "$mounted" || umount -l "$mounted" || true
	rm -rf --one-file-system "$tmp"
	exit "$rc"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The pins of the policy go where they always do, or, where that is no BPF file
# system, into one of our own.
if [ -z "${EMPTCP_BPFFS:-}" ] && [ "$(stat -f -c %T /sys/fs/bpf)" != bpf_fs ]; then
	mkdir "$tmp/bpf"
	mount -t bpf bpf "$tmp/bpf" || die "cannot mount a BPF file system"
	mounted=$tmp/bpf
	export EMPTCP_BPFFS=$mounted
fi

for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
	# In the background, so that a signal reaches us at once.
	"$LAB" run --quiet "$PATHS" -- "$ROOT/scripts/demo.sh" --inside "$tmp" &
	lab=$!
	rc=0
	wait "$lab" || rc=$?
	lab=''
	case $rc in
	0 | 75)
		if [ -e "$tmp/seen" ]; then
			[ $rc = 0 ] || note "seen, although other work on this machine disturbed the emulated links a little"
			say ""
			say "It works. Next: README.md, and docs/policy.md for policies of your own."
			exit 0
		fi
		note "other work on this machine disturbed the emulated links: attempt $attempt of $ATTEMPTS does not count"
		;;
	*) die "the effect was not seen (exit code $rc)" ;;
	esac
done
die "no undisturbed run in $ATTEMPTS attempts: this machine is too busy to measure on"
