#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Of the subflows of a connection that share a bottleneck, all but one are backup.

For the host that sends:  emptcp apply disjoint.json && emptcp run --exec ./disjoint.py
    -- --group 10.0.1.0/24,10.0.2.0/24 --costly 10.0.2.0/24
A --group declares prefixes, of either host, behind one bottleneck, or behind others than those of
the next --group. Else it is found: where round trips or losses of two go together it is tried
whether one, as backup, leaves its rate to the others. See policies.md.
"""
import argparse, collections, ipaddress, json, statistics, sys

ROUNDS, SETTLE, MEASURE = 50, 10, 20  # of metrics, 100 ms each
ALIKE, MOVES, LOSES = 0.5, 0.05, 5  # correlation; of what varies so much of the least; rounds
LEAST = 0.2  # of the rate of the others: of less a shift would not be seen
SHIFTS, STILL = 0.75, 0.3  # of its rate: goes to the others as backup; comes back from them
PAUSE, LONGEST = 30, 480  # seconds until it is tried again, doubled each time


def alike(a, b):
    """Correlation of the round trips, or losses, of two subflows; 0: nothing known."""
    (_, *a), (_, *b) = zip(*a), zip(*b)
    moves = all(statistics.pstdev(x) > max(1e-3, MOVES * min(x)) for x in (a[0], b[0]))
    loses = all(LOSES <= sum(x) <= len(x) - LOSES for x in (a[1], b[1]))
    return max(known and statistics.correlation(*x) for known, x in zip((moves, loses), zip(a, b)))


class Subflow:
    """phase: used, tried (as backup), backup, probed (whether it need be). before: rates then."""

    def __init__(self, group=None):
        self.phase, self.until, self.pause, self.before = "used", 0, PAUSE, (0, [])
        self.group, self.rest, self.last = group, [], (0, 0)
        self.rounds = collections.deque(maxlen=ROUNDS)  # bytes/s; seconds; 1: something was lost

    def enter(self, phase, others, flows, now):
        before = statistics.median(rates([self])), rates(others, ROUNDS)
        self.phase, self.before, self.until = phase, before, now + self.pause
        for flow in flows:
            flow.rounds.clear()


def rates(flows, count=MEASURE):
    """What flows carry together, round by round, sorted: the median is right while the machine, or
    the application, holds all of them up."""
    last = [[r[0] for r in flow.rounds][-count:] for flow in flows]
    return sorted(map(sum, zip(*last))) or [0]


def step(flows, now):
    """One round of those subflows of a connection among which is to be found, best first."""
    busy = any(flow.phase in ("tried", "probed") for flow in flows)
    least = min((len(flow.rounds) for flow in flows), default=0)
    for flow in reversed(flows):
        rest, flow.rest = flow.rest, [f for f in flows if f is not flow]
        used = [f for f in flow.rest if f.phase in ("used", "probed")]
        own, rate = (statistics.median(rates(those)) for those in ([flow], used))
        had, before = flow.before
        like = (alike(flow.rounds, f.rounds) for f in used if None in (f.group, flow.group))
        if rest != flow.rest or not used:
            flow.until, flow.phase = 0, flow.phase if used else "used"
        elif flow.phase in ("tried", "probed") and least >= SETTLE + MEASURE:
            # More than the others vary by themselves, too.
            more, n = rate - statistics.median(before), len(before) // 8
            shared = more >= SHIFTS * had and rate > before[-1 - n]
            if flow.phase == "probed":
                shared = -more >= STILL * own > 0 and rate < before[n]
            flow.enter("backup" if shared else "used", used, flows, now)
            flow.pause = min(2 * flow.pause, LONGEST)
            return
        elif busy or now < flow.until or least < ROUNDS or not rate:
            continue
        elif flow.phase == "backup":
            return flow.enter("probed", used, flows, now)
        elif flow is not flows[0] and own >= LEAST * rate:
            if max(like, default=0) >= ALIKE:
                return flow.enter("tried", used, flows, now)


def main(groups, costly):
    def say(**command):
        print(json.dumps(command), flush=True)

    def within(s, prefixes):
        addresses = [ipaddress.ip_address(s[end]["address"]) for end in ("from", "to")]
        return any(address in prefix for address in addresses for prefix in prefixes)

    known, flows, wanted, last = {}, {}, set(), 0
    say(id=0, cmd="subscribe", metrics=True)
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("event") != "metrics":
            continue
        known = {} if message["reset"] else known
        known = {key: s for key, s in known.items() if key not in message["gone"]}
        known.update((s["subflow"], s) for s in message["subflows"])
        if message["more"]:
            continue
        now, connections, told, wanted = message["time"] / 1e9, {}, wanted, set()
        flows = {key: flow for key, flow in flows.items() if key in known}
        for key, s in known.items():
            if s["token"] and s["state"] == "established":
                order = within(s, costly), s["index"], key
                connections.setdefault((s["zone"], s["token"]), []).append(order)
        for keys in connections.values():
            free, taken = {}, {None}
            for _, _, key in sorted(keys):
                s, back = known[key], "-".join(reversed(key.split("-")))
                group = next((n for n, group in enumerate(groups) if within(s, group)), None)
                flow, end = flows.setdefault(key, Subflow(group)), s["from"]
                if (s["to"]["bytes"] or 0) > (end["bytes"] or 0):
                    end, back = s["to"], key  # the end that sends, and what arrives there
                sums = end["bytes"] or 0, end["retransmitted_bytes"] or 0
                rate, again = (sums[0] - flow.last[0]) / (now - last), sums[1] > flow.last[1]
                rtt = sum(s[way]["srtt_us"] or 0 for way in ("from", "to")) / 1e6
                flow.rounds.append((rate, rtt, int(again)))
                flow.last = sums
                if group is None or group not in taken:
                    free[back] = flow
                else:
                    wanted.add(back)
                taken.add(group)
            step(list(free.values()), now)
            wanted |= {back for back, flow in free.items() if flow.phase in ("tried", "backup")}
        last = now
        for key in wanted ^ told:
            say(id=key, cmd="prio", table="backup", subflow=key, value=key in wanted or None)


if __name__ == "__main__":
    prefixes = lambda text: [ipaddress.ip_network(prefix) for prefix in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", type=prefixes, action="append", default=[], dest="groups")
    parser.add_argument("--costly", type=prefixes, default=[])
    main(**vars(parser.parse_args()))
