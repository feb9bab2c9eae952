#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Earliest completion first (Lim et al., CoNEXT 2017) for connections with two subflows.

For the host that sends:  emptcp apply ecf.json && emptcp run --exec ./ecf.py
The slower subflow is backup while waiting for the faster one completes earlier. What is queued
is seen in the sockets of subflows only, not in that of the connection above them.
"""
import json, sys

BETA = 0.25  # hysteresis, as in the paper
subflows, waiting, backup = {}, {}, {}


def say(**command):
    print(json.dumps(command), flush=True)


def set_backup(key, so):
    if backup.get(key, False) != so:
        backup[key] = so
        say(id=key, cmd="prio", table="backup", subflow=key, value=so)


def here(subflow):
    """What the kernel knows of the end that is here, and the key of packets that come to it."""
    a, b = subflow["subflow"].split("-")
    for end, back in ("from", f"{b}-{a}"), ("to", f"{a}-{b}"):
        kernel = subflow[end]["kernel"]
        if kernel and kernel["srtt_us"] and kernel["cwnd"]:
            return kernel, back


def decide(token, ends):
    (f, f_key), (s, s_key) = sorted(ends, key=lambda end: end[0]["srtt_us"])
    k = (f["unsent_bytes"] + s["unsent_bytes"]) / f["mss"]
    delta = max(f["rttvar_us"], s["rttvar_us"])
    beta = BETA if waiting.get(token) else 0
    if k < 1:
        return
    wait = (1 + k / f["cwnd"]) * f["srtt_us"] < (1 + beta) * (s["srtt_us"] + delta)
    waiting[token] = wait
    set_backup(f_key, False)
    set_backup(s_key, wait and k / s["cwnd"] * s["srtt_us"] >= 2 * f["srtt_us"] + delta)


say(id=0, cmd="subscribe", metrics=True)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("event") != "metrics":
        continue
    known = {} if message["reset"] else subflows
    subflows = {k: s for k, s in known.items() if k not in message["gone"]}
    subflows.update((s["subflow"], s) for s in message["subflows"])
    connections = {}
    for end, token in ((here(s), s["token"]) for s in subflows.values()):
        connections.setdefault(token, []).append(end)
    for token, ends in connections.items():
        if token and len(ends) == 2 and all(ends) and not message["more"]:
            decide(token, ends)
