#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Measurements on this machine (root); docs/performance.md says what they mean.
#
#   scripts/bench.sh [chains|apply|change|tables|tracker|transfer]...     (default: all of them)
#
#   chains     nanoseconds of chains and modules beside monoliths (emptcp bench)
#   apply      time and memory of an apply of 1,000 steps; size of the binary
#   change     time of an apply that changes nothing, and of the exchange of one step
#   tables     nanoseconds of look-ups in tables, small and large; time of table load and add
#   tracker    nanoseconds and memory of tracked connections, up to 100,000
#   transfer   goodput of MPTCP over two paths, with chains at both ends and without
#
# Network namespaces begin with emptcp-bench-, and go away at any exit.
# RUNS (20) of the changes, PAIRS (10), SECONDS_EACH (4) and RATE (500mbit a path; none:
# as fast as the CPUs are) of the transfers may be set.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() { sed -n '4,17s/^# \{0,1\}//p' "$ROOT/scripts/bench.sh"; }

parts=()
for arg; do
	case $arg in
	chains | apply | change | tables | tracker | transfer) parts+=("$arg") ;;
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
[ ${#parts[@]} -gt 0 ] || parts=(chains apply change tables tracker transfer)
[ "$(id -u)" = 0 ] || die "measurements need root"

toolchain
cargo build --release --quiet
EMPTCP=$ROOT/target/release/emptcp
ns=emptcp-bench-$$
tmp=$(mktemp -d)
started=()
# shellcheck disable=SC2329 # called by the trap
finish() {
	local rc=$? pid name
	trap - EXIT
	for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
	for name in "$ns-a" "$ns-b"; do
		ip netns del "$name" 2>/dev/null || true
	done
	for name in "$tmp/bpf-a" "$tmp/bpf-b"; do
		umount "$name" 2>/dev/null || true
	done
	rm -rf "$tmp"
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for side in a b; do
	mkdir "$tmp/bpf-$side"
	mount -t bpf bpf "$tmp/bpf-$side"
done
# in_ns SIDE COMMAND...
in_ns() {
	local side=$1
	shift
	EMPTCP_BPFFS=$tmp/bpf-$side ip netns exec "$ns-$side" "$@"
}
new_ns() { for side; do ip netns add "$ns-$side" && in_ns "$side" ip link set lo up; done; }
del_ns() { for side; do ip netns del "$ns-$side"; done; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

chains() {
	echo "== chains and modules"
	"$EMPTCP" bench
}

# Chains of 32 steps at tc ingress and egress of 16 interfaces: 1,024 steps, 32 programs more.
policy_of_1000() {
	local i k hook first=1 any
	echo '{ "version": 1, "chains": ['
	for i in $(seq 0 15); do
		for hook in tc-ingress tc-egress; do
			[ $first = 1 ] || echo ,
			first=0
			any=
			for k in $(seq 28); do any+="${any:+,}{\"src\":{\"in\":[\"10.$i.$k.0/24\"]}}"; done
			cat <<-END
				{ "name": "c$i-$hook", "hook": "$hook", "interfaces": ["bench$i"],
				  "select": { "all": [{ "mptcp": {} }, { "tcp": { "flags": ["ack"] } }, { "any": [$any] }] },
				  "act": [{ "record": {} }, { "set_recv_win": { "bytes": "64KiB", "wscale": 7 } }] }
			END
		done
	done
	echo ']}'
}

# What bpftool says that the programs and maps of this policy occupy, in bytes.
kernel_memory() {
	have bpftool && have python3 || return 0
	in_ns a "$EMPTCP" status --json >"$tmp/status.json"
	bpftool prog show -j >"$tmp/progs" 2>/dev/null || return 0
	bpftool map show -j >"$tmp/maps" 2>/dev/null || return 0
	python3 - "$tmp" <<-'END'
		import json, sys
		read = lambda name: json.load(open(sys.argv[1] + "/" + name))
		progs, maps = read("progs"), {m["id"]: m for m in read("maps")}
		attachments = read("status.json")["attachments"]
		entries = {a["program"] for a in attachments}
		# From the entry programs to the constants and maps that they share with their steps.
		known, own = set(), {p["id"] for p in progs if p["id"] in entries}
		shared = lambda p: {m for m in p.get("map_ids", []) if maps.get(m, {}).get("name") in
		                    ("progs", "counters", "reasons", "chain_words", "generation")}
		for p in progs:
		    if p["id"] in own:
		        known |= shared(p)
		for p in progs:
		    if known & set(p.get("map_ids", [])):
		        own.add(p["id"])
		programs = [p for p in progs if p["id"] in own]
		used = {m for p in programs for m in p.get("map_ids", [])}
		steps = sum(a["steps"] for a in attachments)
		size = sum(p["bytes_memlock"] for p in programs) + sum(p.get("bytes_jited", 0) for p in programs)
		size_maps = sum(maps[m]["bytes_memlock"] for m in used if m in maps)
		print(f"kernel memory: {steps} steps in {len(programs) - len(entries)} programs, {size / 1e6:.1f} MB, {size / steps:.0f} bytes a step; "
		      f"maps {size_maps / 1e6:.1f} MB (bytes_memlock and bytes_jited of bpftool)")
	END
}

apply() {
	local i start runs=5
	echo "== apply of 1,000 steps (1,024 in 32 chains), at most 256 files open"
	have python3 || die "apply needs python3"
	policy_of_1000 >"$tmp/1000.json"
	cat >"$tmp/limited.py" <<-'END'
		import resource, subprocess, sys, time
		resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
		start = time.monotonic()
		subprocess.run(sys.argv[1:], check=True)
		took = time.monotonic() - start
		used = resource.getrusage(resource.RUSAGE_CHILDREN)
		print(f"{took * 1000:.0f} ms, {used.ru_utime + used.ru_stime:.2f} s of CPU, peak {used.ru_maxrss} kB")
	END
	new_ns a
	for i in $(seq 0 2 15); do
		in_ns a ip link add "bench$i" type veth peer name "bench$((i + 1))"
	done
	for i in $(seq $runs); do
		echo "apply $i of $runs: $(in_ns a python3 "$tmp/limited.py" "$EMPTCP" apply "$tmp/1000.json")"
		[ "$i" != $runs ] || kernel_memory
		start=$(milliseconds)
		in_ns a "$EMPTCP" delete
		echo "delete: $(($(milliseconds) - start)) ms"
	done
	del_ns a
	echo "binary: $(stat -c %s "$EMPTCP") bytes"
}

# Two chains of 10 steps at tc ingress and egress of one interface.
policy_of_20() {
	local hook first=1 any="" k
	for k in $(seq 6); do any+="${any:+,}{\"src\":{\"in\":[\"10.0.$k.0/24\"]}}"; done
	echo '{ "version": 1, "chains": ['
	for hook in tc-ingress tc-egress; do
		[ $first = 1 ] || echo ,
		first=0
		cat <<-END
			{ "name": "c0-$hook", "hook": "$hook", "interfaces": ["bench0"],
			  "select": { "all": [{ "mptcp": {} }, { "tcp": { "flags": ["ack"] } }, { "any": [$any] }] },
			  "act": [{ "record": {} }, { "set_recv_win": { "bytes": "64KiB", "wscale": 7 } }] }
		END
	done
	echo ']}'
}

# Times of the same command, in milliseconds: median, fastest and slowest of all.
TIMES='
import statistics, subprocess, sys, time
def timed(*command, stdin=None):
    start = time.monotonic()
    subprocess.run(command, check=True, stdin=stdin, stderr=subprocess.DEVNULL)
    return (time.monotonic() - start) * 1000
def show(what, times):
    print(f"{what}: median {statistics.median(times):.1f} ms, {min(times):.1f} to {max(times):.1f}, {len(times)} runs")
emptcp, steps, policy, one, other, runs = *sys.argv[1:6], int(sys.argv[6])
subprocess.run([emptcp, "apply", policy], check=True)
show(f"apply of {steps} steps in force", [timed(emptcp, "apply", policy) for _ in range(runs)])
show(f"exchange of one step of {steps}",
     [timed(emptcp, "chain", "replace", "c0-tc-ingress", file) for _ in range(runs // 2) for file in (other, one)])
subprocess.run([emptcp, "delete"], check=True)
'

change() {
	local steps
	echo "== changes of a policy in force"
	have python3 && have jq || die "change needs python3 and jq"
	new_ns a
	for i in $(seq 0 2 15); do
		in_ns a ip link add "bench$i" type veth peer name "bench$((i + 1))"
	done
	policy_of_20 >"$tmp/20.json"
	policy_of_1000 >"$tmp/1024.json"
	for steps in 20 1024; do
		jq '.chains[0]' "$tmp/$steps.json" >"$tmp/one.json"
		jq '.chains[0].act[1].set_recv_win.bytes = "32KiB" | .chains[0]' "$tmp/$steps.json" >"$tmp/other.json"
		in_ns a python3 -c "$TIMES" "$EMPTCP" "$steps" "$tmp/$steps.json" "$tmp/one.json" "$tmp/other.json" "${RUNS:-20}"
	done
	del_ns a
}

# goodput SECONDS: bits per second that the server received.
goodput() {
	local _
	for _ in 1 2 3; do
		# The server may still be busy with the transfer before.
		sleep 0.5
		in_ns a mptcpize run iperf3 -c 10.77.1.2 -t "$1" -O 1 -J >"$tmp/iperf3.json" || continue
		python3 -c 'import json, sys; print(json.load(sys.stdin)["end"]["sum_received"]["bits_per_second"])' \
			<"$tmp/iperf3.json" && return
	done
	die "iperf3 measures nothing"
}

transfer() {
	local i order with without pairs=${PAIRS:-10} each=${SECONDS_EACH:-4} way
	echo "== MPTCP over two veth paths, chains of 8 steps at tc ingress of both ends"
	for tool in iperf3 mptcpize python3; do
		have $tool || die "transfer needs $tool"
	done
	new_ns a b
	for i in 1 2; do
		in_ns a ip link add "path$i" type veth peer name "path$i" netns "$ns-b"
		in_ns a ip addr add "10.77.$i.1/24" dev "path$i"
		in_ns b ip addr add "10.77.$i.2/24" dev "path$i"
		in_ns a ip link set "path$i" up
		in_ns b ip link set "path$i" up
	done
	if [ "${RATE:-500mbit}" != none ]; then
		for i in 1 2; do
			in_ns a tc qdisc add dev "path$i" root tbf rate "${RATE:-500mbit}" burst 256kb latency 20ms
			in_ns b tc qdisc add dev "path$i" root tbf rate "${RATE:-500mbit}" burst 256kb latency 20ms
		done
	fi
	in_ns a ip mptcp limits set subflow 2 add_addr_accepted 2
	in_ns b ip mptcp limits set subflow 2 add_addr_accepted 2
	in_ns a ip mptcp endpoint add 10.77.2.1 dev path2 subflow
	# By itself, not by in_ns: its number is then the server's.
	ip netns exec "$ns-b" mptcpize run iperf3 -s >/dev/null &
	started+=($!)
	# The window is never above the limit: all is tested, nothing is throttled.
	cat >"$tmp/eight.json" <<-'END'
		{ "version": 1, "chains": [{
		  "name": "eight", "hook": "tc-ingress", "interfaces": ["path*"],
		  "select": { "all": [{ "tcp": { "flags": ["ack"] } }, { "src": { "in": ["10.77.0.0/16"] } },
		                      { "dst": { "in": ["10.77.0.0/16"] } }, { "mptcp": {} }] },
		  "act": [{ "record": {} }, { "set_mark": { "value": 7 } },
		          { "set_recv_win": { "bytes": "1GiB", "wscale": 14 } }, { "accept": {} }] }] }
	END
	sleep 1
	: >"$tmp/pairs"
	for i in $(seq "$pairs"); do
		order="with without"
		[ $((RANDOM % 2)) = 0 ] || order="without with"
		for way in $order; do
			if [ "$way" = with ]; then
				in_ns a "$EMPTCP" apply "$tmp/eight.json"
				in_ns b "$EMPTCP" apply "$tmp/eight.json"
			fi
			printf -v "$way" %s "$(goodput "$each")"
			if [ "$way" = with ]; then
				[ "$i" != 1 ] || in_ns b "$EMPTCP" status
				in_ns a "$EMPTCP" delete
				in_ns b "$EMPTCP" delete
			fi
		done
		echo "$with $without" >>"$tmp/pairs"
	done
	python3 - "$tmp/pairs" <<-'END'
		import statistics, sys
		pairs = [[float(n) for n in line.split()] for line in open(sys.argv[1])]
		for a, b in pairs:
		    print(f"with {a / 1e9:.2f} Gbit/s, without {b / 1e9:.2f}: {a / b:.3f}")
		ratios = sorted(a / b for a, b in pairs)
		quarters = statistics.quantiles(ratios, n=4)
		print(f"median ratio {statistics.median(ratios):.3f}, quartiles {quarters[0]:.3f} and {quarters[2]:.3f}, "
		      f"{ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} pairs")
	END
	del_ns a b
}

# timed COMMAND...: prints how long it takes, with the last words of the command.
timed() {
	local start took
	start=$(date +%s%N)
	in_ns a "$@" >"$tmp/out"
	took=$((($(date +%s%N) - start) / 10000))
	echo "table $3 $4 $(basename "$5"): $((took / 100)).$(printf %02d $((took % 100))) ms (ip netns exec included)"
}

tracker() {
	echo "== the tracker, each packet of another connection at random"
	cargo test --release --quiet --test tracked -- --ignored --nocapture | grep 'tracked connections:'
}

tables() {
	local n table i
	echo "== look-ups in tables, each packet another entry at random"
	cargo test --release --quiet --test lookup -- --ignored --nocapture | grep entries:
	echo "== entries of tables"
	have python3 || die "tables needs python3"
	new_ns a
	cat >"$tmp/tables.json" <<-'END'
		{ "version": 1, "tables": {
		  "subflows": { "type": "subflow", "value": "bytes", "size": 1200000, "timeout": "1h" },
		  "prefixes": { "type": "prefix", "value": "u32", "size": 1200000 } } }
	END
	"$EMPTCP" check "$tmp/tables.json"
	in_ns a "$EMPTCP" apply "$tmp/tables.json"
	for n in 100000 1000000; do
		python3 - "$n" "$tmp" <<-'END'
			import sys
			n, folder = int(sys.argv[1]), sys.argv[2]
			with open(f"{folder}/subflows-{n}", "w") as f:
			    for i in range(n):
			        f.write(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:{1000 + i % 60000}-10.200.0.1:443 64KiB\n")
			with open(f"{folder}/prefixes-{n}", "w") as f:
			    for i in range(n):
			        f.write(f"{1 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.0/24 {i}\n")
		END
		for table in subflows prefixes; do timed "$EMPTCP" table load $table "$tmp/$table-$n"; done
		for i in 1 2 3; do
			timed "$EMPTCP" table add subflows "192.0.2.1:$i-192.0.2.2:2" 1MiB
			timed "$EMPTCP" table add prefixes "192.0.2.$i" 1
		done
	done
	in_ns a "$EMPTCP" table list
	in_ns a "$EMPTCP" delete
	del_ns a
}

for part in "${parts[@]}"; do
	"$part"
done
