#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Writes docs/modules.md: what the modules say of themselves.
#
#   scripts/gen-docs.sh            writes it
#   scripts/gen-docs.sh --check    fails where it is not up to date
#
# EMPTCP: a binary that is built; the rule is to build one.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

page=docs/modules.md
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT

emptcp=(scripts/cargo.sh run --quiet --)
[ -z "${EMPTCP:-}" ] || emptcp=("$EMPTCP")
"${emptcp[@]}" --json modules | python3 -c '
import json, sys

modules = json.load(sys.stdin)
print("<!-- Written by scripts/gen-docs.sh; change the modules instead. -->")
print("# Modules")
print()
print("Selectors say which packets a chain takes, actors what is done to them. How they are put")
print("together: [policy.md](policy.md). The same list: `emptcp modules`.")
remarks = {
    "edits": "changes bytes of the packet",
    "ends": "no later step or chain of this hook sees the packet",
    "impure": "its result does not depend on packet and parameters alone",
}
for kind, title in [("selector", "Selectors"), ("actor", "Actors")]:
    print(f"\n## {title}")
    for m in (m for m in modules if m["kind"] == kind):
        name, doc, since = m["name"], m["doc"], m["since"]
        hooks = ", ".join(f"`{h}`" for h in m["hooks"])
        print(f"\n### {name}\n\n{doc}.")
        flags = [text for flag, text in remarks.items() if m["flags"][flag]]
        if m["events"]:
            flags.append("can be asked of [events](events.md)")
        print(f"Hooks: {hooks}; Linux {since} and later" + "".join(f"; {f}" for f in flags) + ".")
        if m["warns"]:
            print("\nNote: " + m["warns"] + ".")
        if not m["params"]:
            print("\nNo parameters: `{ \"%s\": {} }`." % name)
            continue
        print("\n| Parameter | Type | | Meaning |\n|---|---|---|---|")
        for p in m["params"]:
            table = [q["name"] for q in m["params"] if q["lookup"] and q is not p]
            notes = ["required" + "".join(f" without `{t}`" for t in table)] if p["required"] else []
            for key, word in [("default", "default"), ("min", "at least"), ("max", "at most")]:
                if key in p:
                    notes.append(f"{word} `{p[key]}`")
            if p["tracked_unless"]:
                notes.append("without it, packets are [tracked](tracker.md)")
            print("| `%s` | %s | %s | %s |" % (p["name"], p["type"], ", ".join(notes), p["doc"]))
' >"$tmp"

case ${1:-} in
'')
	cp "$tmp" "$page"
	chmod 644 "$page"
	;;
--check)
	diff -u "$page" "$tmp" || die "$page is not what the modules say: run scripts/gen-docs.sh"
	;;
*)
	sed -n '4,9s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
