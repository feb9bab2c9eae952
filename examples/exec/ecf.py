#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Earliest completion first (Lim et al., CoNEXT 2017) for connections with two subflows.

For the host that sends:  emptcp apply ecf.json && emptcp run --exec ./ecf.py
The slower subflow is backup while waiting for the faster one completes earlier. What waits in the
connection above the subflows is not told: as much is expected as was sent since they were idle.
"""
import json, sys

BETA = 0.25  # hysteresis, as in the paper
subflows, waiting, backup, begin = {}, {}, {}, {}


def say(**command):
    print(json.dumps(command), flush=True)


def set_backup(key, so):
    if backup.get(key, False) != so:
        backup[key] = so
        say(id=key, cmd="prio", table="backup", subflow=key, value=so)


def here(subflow):
    """What the kernel knows of the end that is here, the key of packets to it, and what it sent."""
    a, b = subflow["subflow"].split("-")
    for end, back in ("from", f"{b}-{a}"), ("to", f"{a}-{b}"):
        kernel = subflow[end]["kernel"]
        if kernel and kernel["srtt_us"] and kernel["cwnd"]:
            return kernel, back, subflow[end]["bytes"] or 0


def decide(token, ends):
    (f, f_key, f_sent), (s, s_key, s_sent) = sorted(ends, key=lambda end: end[0]["srtt_us"])
    queued, sent = f["unsent_bytes"] + s["unsent_bytes"], f_sent + s_sent
    begin[token] = begin.get(token, sent) if queued + f["in_flight"] + s["in_flight"] else sent
    k = (queued + sent - begin[token]) / f["mss"]
    delta = max(f["rttvar_us"], s["rttvar_us"])
    margin = 1 + BETA * waiting.get(token, False)
    if queued < f["mss"]:
        return
    wait = waiting[token] = (1 + k / f["cwnd"]) * f["srtt_us"] < margin * (s["srtt_us"] + delta)
    set_backup(f_key, False)
    set_backup(s_key, wait and k / s["cwnd"] * s["srtt_us"] >= 2 * f["srtt_us"] + delta)


say(id=0, cmd="subscribe", metrics=True)
for message in map(json.loads, sys.stdin):
    if message.get("event") != "metrics":
        continue
    gone = subflows if message["reset"] else message["gone"]
    subflows = {k: s for k, s in subflows.items() if k not in gone}
    subflows.update((s["subflow"], s) for s in message["subflows"])
    connections = {}
    for end, token in ((here(s), s["token"]) for s in subflows.values()):
        connections.setdefault(token, []).append(end)
    for token, ends in connections.items():
        if token and len(ends) == 2 and all(ends) and not message["more"]:
            decide(token, ends)
