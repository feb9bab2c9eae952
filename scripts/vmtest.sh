#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Run the binary and its tests on other kernels, in QEMU guests.
#
#   scripts/vmtest.sh [--ends] [--update] [--payload DIR] [KERNEL...]
#
#   KERNEL         a name from tests/kernels.txt; without one, all of them
#   --ends         the oldest and the newest only
#   --update       look for newer kernel packages than those in the cache
#   --payload DIR  run DIR/run.sh instead of what scripts/build-static.sh builds
#
# The emulator needs neither root nor KVM. EMPTCP_VM_KVM=1 uses KVM (not asked
# for, because a /dev/kvm that exists may still hang), EMPTCP_VM_TIMEOUT is the
# limit in seconds per guest (2400), EMPTCP_VM_JOBS how many run at a time (2:
# each keeps one CPU busy), EMPTCP_CACHE the directory of the kernels (.cache),
# EMPTCP_DEBIAN_MIRROR where they come from if not from the mirror that this
# machine uses itself. Consoles are kept in target/vm/KERNEL.log.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() { sed -n '4,19s/^# \{0,1\}//p' "$ROOT/scripts/vmtest.sh"; }

mapfile -t listed < <(awk '/^[^#]/ { print $1 }' "$ROOT/tests/kernels.txt")
update=() payload='' names=()
while [ $# -gt 0 ]; do
	case $1 in
	--ends) names+=("${listed[0]}" "${listed[-1]}") ;;
	--update) update=(--update) ;;
	--payload)
		[ $# -gt 1 ] || { usage >&2 && exit 2; }
		payload=$2
		shift
		;;
	-h | --help)
		usage
		exit
		;;
	-*)
		usage >&2
		exit 2
		;;
	*)
		[[ " ${listed[*]} " == *" $1 "* ]] || die "no kernel $1 in tests/kernels.txt; there are: ${listed[*]}"
		names+=("$1")
		;;
	esac
	shift
done
[ ${#names[@]} -gt 0 ] || names=("${listed[@]}")

logs=$ROOT/target/vm
limit=${EMPTCP_VM_TIMEOUT:-2400} jobs=${EMPTCP_VM_JOBS:-2}
tmp=$(mktemp -d) pids=()
# shellcheck disable=SC2329 # called by the traps
clean() {
	[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
	rm -rf "$tmp"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$ROOT/scripts/setup.sh" vm
if [ -z "$payload" ]; then
	payload=$ROOT/target/static/payload
	"$ROOT/scripts/build-static.sh" "$payload"
fi
[ -f "$payload/run.sh" ] || die "$payload has no run.sh"
mkdir -p "$logs"

accel=(-accel 'tcg,thread=multi' -cpu 'max,cx16=off') # 6.12 crashes in every other boot with cx16
[ "${EMPTCP_VM_KVM:-}" != 1 ] || accel=(-accel kvm -cpu host)

# boot DIR LOG INITRD: one guest, ended if it takes longer than the limit, or two
# minutes to its first process. It ends with the shell that boots it.
boot() {
	local rc=0 qemu
	setpriv --pdeathsig KILL qemu-system-x86_64 "${accel[@]}" -m 1G -smp 2 -nodefaults -no-user-config \
		-display none -serial stdio -nic none -no-reboot \
		-kernel "$1/vmlinuz" -initrd "$3" \
		-append 'console=ttyS0 panic=-1 quiet nowatchdog random.trust_cpu=on mitigations=off' \
		</dev/null >"$2" 2>&1 &
	qemu=$!
	local deadline=$((SECONDS + limit)) bootline=$((SECONDS + 120))
	while kill -0 "$qemu" 2>/dev/null; do
		if [ $SECONDS -ge $deadline ]; then
			kill -KILL "$qemu" 2>/dev/null || true
			echo "=== no end after $limit s" >>"$2"
		elif [ $SECONDS -ge $bootline ] && ! grep -q '=== guest up' "$2"; then
			kill -KILL "$qemu" 2>/dev/null || true
		fi
		sleep 0.2
	done
	wait "$qemu" 2>/dev/null || rc=$?
	# As a file without the carriage returns of a serial line.
	tr -d '\r' <"$2" >"$3.log" && cat "$3.log" >"$2"
	return $rc
}

# verdict LOG: what is wrong with a guest, nothing if it passed.
verdict() {
	local end
	end=$(sed -n 's/.*=== guest end: exit \([0-9]*\)$/\1/p' "$1" | tail -n1)
	if grep -qE 'Kernel panic|Oops: |BUG: |general protection fault' "$1"; then
		echo "the kernel crashed"
	elif grep -q '^=== no end after' "$1"; then
		echo "no end after $limit s"
	elif [ -z "$end" ]; then
		echo "the guest died without a word"
	elif [ "$end" != 0 ]; then
		echo "exit status $end"
	fi
}

# guest NAME DIR: boots one, says its sums, and a line of the table in a file of its own.
guest() {
	local name=$1 dir=$2 log=$logs/$1.log initrd=$tmp/initrd-$1 start=$SECONDS version why seconds
	version=$(<"$dir/version")
	"$ROOT/scripts/vm/initramfs.sh" "$dir" "$payload" "$initrd"
	say "--- $name: Linux $version"
	boot "$dir" "$log" "$initrd" || true
	if ! grep -qE '=== (guest up|no end)' "$log"; then
		note "$name: hung or crashed before the first process, as emulated guests do now and then: once more"
		mv "$log" "${log%.log}.first.log"
		boot "$dir" "$log" "$initrd" || true
	fi
	# Nothing of the guest's but its sums, unless it fails.
	grep -aE '^(test result:|kernel log:)' "$log" | sed "s/\$/ [$name]/" || true
	why=$(verdict "$log")
	seconds=$((SECONDS - start))
	if [ -z "$why" ]; then
		printf 'PASS  %-8s %-32s %4d s\n' "$name" "$version" $seconds >"$tmp/line-$name"
		return
	fi
	tail -n "${EMPTCP_VM_TAIL:-100}" "$log" >&2
	printf 'FAIL  %-8s %-32s %4d s  %s; see %s\n' "$name" "$version" $seconds "$why" "${log#"$ROOT"/}" >"$tmp/line-$name"
	grep -qE '^test result: FAILED' "$log" || echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; kernel $name"
	return 1
}

failed=0
finish() {
	local pid
	for pid in "${pids[@]}"; do
		wait "$pid" || failed=$((failed + 1))
	done
	pids=()
}
for name in "${names[@]}"; do
	if ! dir=$("$ROOT/scripts/vm/kernel.sh" "${update[@]}" "$name"); then
		failed=$((failed + 1))
		printf 'FAIL  %-8s %-32s no kernel\n' "$name" '' >"$tmp/line-$name"
		echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; kernel $name"
		continue
	fi
	[ ${#pids[@]} -lt "$jobs" ] || finish
	guest "$name" "$dir" &
	pids+=($!)
done
finish
for name in "${names[@]}"; do
	cat "$tmp/line-$name"
done
[ $failed = 0 ]
