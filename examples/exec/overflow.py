#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Overflow: a costly link carries only what the others cannot.

For a client:  emptcp apply overflow.json && emptcp run --exec ./overflow.py -- 'wwan*'
Subflows over interfaces of these names are backup until the others are full, and again once those
could carry all that there is. --queue: milliseconds by which round trips of a full link are longer
than the shortest; --rate: Mbit/s from which on the others count as full in any case.
"""
import argparse, collections, fnmatch, json, sys

ROUNDS, FULL = 10, 8  # of metrics, 100 ms each: of so many, so many must be full
CALM = 20  # for so many all carry together less than the others did alone


def full(flows, queue, rate):
    """Whether most of what subflows carry, bytes/s, meets a queue. flows: (bytes/s, RTT, least)."""
    total = sum(flow[0] for flow in flows)
    queued = sum(carries for carries, rtt, least in flows if rtt >= least + max(queue, least / 2))
    return total > 0 and (2 * queued >= total or total >= rate)


class Overflow:
    """used: whether costly subflows are; room: bytes/s that the others can carry, as was seen."""

    def __init__(self):
        self.used, self.room, self.rounds = False, 0, collections.deque(maxlen=CALM)

    def step(self, is_full, cheap, costly):
        """One round; bytes/s."""
        self.rounds.append((is_full, cheap, cheap + costly))
        last = list(self.rounds)[-ROUNDS:]
        fulls, rate = (sum(r[n] for r in last) / len(last) for n in (0, 1))
        if self.used:
            self.room = max(self.room, rate)
            turn = len(self.rounds) == CALM and sum(r[2] for r in self.rounds) < CALM * self.room
        else:
            turn, self.room = len(last) * fulls >= FULL, rate
        if turn:
            self.used = not self.used
            self.rounds.clear()
        return self.used


def main(costly, queue, rate):
    def say(**command):
        print(json.dumps(command), flush=True)

    known, before, wanted, last, overflow = {}, {}, set(), 0, Overflow()
    say(id=0, cmd="subscribe", metrics=True, kernel=False)
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("event") != "metrics":
            continue
        known = {} if message["reset"] else known
        known = {key: s for key, s in known.items() if key not in message["gone"]}
        known.update((s["subflow"], s) for s in message["subflows"])
        if message["more"]:
            continue
        now, carried, others, dear, keys = message["time"] / 1e9, {}, [], 0, set()
        for key, s in known.items():
            ends = s["from"], s["to"]
            carried[key] = sum(end["bytes"] or 0 for end in ends)
            carries = (carried[key] - before.get(key, carried[key])) / (now - last)
            names = [end["interface"] for end in ends if end["interface"]]
            if any(fnmatch.fnmatch(name, pattern) for name in names for pattern in costly):
                dear += carries
                keys |= {key, "-".join(reversed(key.split("-")))}  # what arrives, and what leaves
            elif s["token"] and s["state"] == "established":
                rtts = (sum(end[of] or 0 for end in ends) for of in ("srtt_us", "min_rtt_us"))
                others.append((carries, *(rtt / 1e6 for rtt in rtts)))
        before, last, told = carried, now, wanted
        is_full = full(others, queue / 1e3, rate * 125e3)
        used = overflow.used
        wanted = keys if overflow.step(is_full, sum(flow[0] for flow in others), dear) else set()
        if used != overflow.used:
            print("in use" if overflow.used else "backup", file=sys.stderr, flush=True)
        for key in wanted ^ told:
            value = False if key in wanted else None
            say(id=key, cmd="prio", table="costly", subflow=key, value=value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("costly", nargs="*", default=["wwan*"])
    parser.add_argument("--queue", type=float, default=10)
    parser.add_argument("--rate", type=float, default=float("inf"))
    main(**vars(parser.parse_args()))
