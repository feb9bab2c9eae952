#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A path manager: further subflows only for connections that have carried so many bytes.

For a client:  emptcp apply path_manager.json && emptcp run --exec ./path_manager.py -- 220000
The policy suppresses the addresses that servers announce, until a connection is in its table.
"""
import collections, json, sys

THRESHOLD = int(sys.argv[1]) if len(sys.argv) > 1 else 220 << 10
carried, grown = {}, set()  # (token, bytes) of each subflow; tokens that are in the table


def say(**command):
    print(json.dumps(command), flush=True)


say(id=0, cmd="subscribe", metrics=True, kernel=False)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("event") != "metrics":
        continue
    if message["reset"]:
        carried.clear()
    for key in message["gone"]:
        carried.pop(key, None)
    for s in message["subflows"]:
        carried[s["subflow"]] = s["token"], sum(s[end]["bytes"] or 0 for end in ("from", "to"))
    if message["more"]:
        continue
    total = collections.Counter()
    for token, count in carried.values():
        total[token] += count
    large = {token for token, count in total.items() if token and count >= THRESHOLD}
    for token in large - grown:
        say(id=token, cmd="table_add", table="grown", key=token)
    for token in grown - total.keys():
        say(id=token, cmd="table_del", table="grown", key=token)
    grown = (grown | large) & total.keys()
