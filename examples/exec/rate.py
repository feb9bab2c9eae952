#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Holds senders that are elsewhere at a rate, by the receive windows that pass this host.

For a receiver or router:  emptcp apply rate.json && emptcp run --exec ./rate.py -- 5 connection
So many Mbit/s of payload for each `subflow` (default), `connection` or prefix of receivers (`24`).
"""
import collections, ipaddress, json, sys

KP, KI = 0.2, 1.0  # of the relative error; per second
FLOOR = 2 * 1460  # bytes: two segments
SMOOTH = 0.3  # seconds


class Loop:
    """One direction of a subflow: its window in bytes, None where it has been below its rate."""

    def __init__(self):
        self.window, self.rate, self.integral = None, 0.0, 0.0

    def step(self, target, measured, rtt, seconds, flows=1, total=None):
        """Rates in bytes/s. A connection has one window for its `flows`, which carry `total`."""
        self.rate += (min(measured, 2 * target) - self.rate) * min(1, seconds / SMOOTH)
        if self.window is None:
            if measured > target:
                self.window, self.rate = max(FLOOR, target * flows * rtt), target
            return
        error = max(-1, (target - self.rate) / target)
        if error > 0 and (total or measured) * rtt < self.window / 2:
            return  # the window is not what limits
        self.integral = min(3, max(-0.75, self.integral + KI * error * seconds))
        wanted = target * flows * rtt * (1 + KP * error + self.integral)
        self.window = max(FLOOR, min(wanted, 2 * self.window))


def shares(target, rates):
    """Max-min fair: what each may have of a rate; who wants less leaves the rest to the others."""
    given = {}
    for key in sorted(rates, key=rates.get):
        given[key] = target / (len(rates) - len(given))
        target -= min(rates[key], given[key])
    return given


def directions(s, per):
    """Those not sent from here: key of their ACKs; group, connection, bytes, RTT in seconds."""
    a, b = s["subflow"].split("-")
    rtt = sum(s[end]["srtt_us"] or 0 for end in ("from", "to")) / 1e6  # of both sides of this host
    for end, back, key in (s["from"], s["to"], f"{b}-{a}"), (s["to"], s["from"], f"{a}-{b}"):
        if end["bytes"] is not None and back["interface"] and not end["kernel"] and rtt:
            connection = s["token"] or key, end is s[s["client"] or "from"]
            group = {"subflow": key, "connection": connection}.get(per)
            group = group or ipaddress.ip_network(f"{back['address']}/{per}", strict=False)
            yield key, (group, connection, end["bytes"], rtt)


def main(mbit, per="subflow"):
    def say(**command):
        print(json.dumps(command), flush=True)

    known, loops, before, last, shown = {}, {}, {}, 0, (0, {})
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
        now = message["time"] / 1e9
        flows = dict(d for s in known.values() for d in directions(s, per))
        measured = {k: (d[2] - before.get(k, d[2])) / (now - last) for k, d in flows.items()}
        for key in loops.keys() - flows.keys():
            if loops.pop(key).window:
                say(id=key, cmd="window", subflow=key, value=None)
        groups = collections.defaultdict(dict)
        totals, limited = collections.Counter(), collections.Counter()
        for key, (group, connection, _, _) in flows.items():
            groups[group][key] = loops.setdefault(key, Loop()).rate
            totals[connection] += measured[key]
            limited[connection] += bool(loops[key].window)
        targets = {k: t for g in groups.values() for k, t in shares(mbit * 125e3, g).items()}
        for key, (_, connection, _, rtt) in flows.items():
            loop, old = loops[key], loops[key].window
            others = limited[connection] - bool(old)
            loop.step(targets[key], measured[key], rtt, now - last, 1 + others, totals[connection])
            if loop.window != old:
                say(id=key, cmd="window", subflow=key, value=int(loop.window))
        before, last = {key: d[2] for key, d in flows.items()}, now
        if now - shown[0] >= 1:
            for key in (key for key in flows if loops[key].window and key in shown[1]):
                rate, target = (before[key] - shown[1][key]) / (now - shown[0]), targets[key]
                print(f"{key}: target {target / 125e3:.2f}, measured {rate / 125e3:.2f} Mbit/s,",
                      f"error {(rate / target - 1) * 100:+.1f} %, window {loops[key].window:.0f},",
                      f"RTT {flows[key][3] * 1e3:.1f} ms", file=sys.stderr, flush=True)
            shown = now, before


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
