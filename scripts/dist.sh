#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# scripts/dist.sh: the committed tree with all crates it is built of, as
# target/emptcp-VERSION.tar.xz. What is unpacked builds without the network.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
toolchain
git diff --quiet HEAD || note "what is not committed is left out"

name=emptcp-$(version)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
git archive --prefix="$name/" HEAD | tar -x -C "$tmp"
mkdir "$tmp/$name/.cargo"
(cd "$tmp/$name" && cargo vendor --quiet --locked vendor)
cat >"$tmp/$name/.cargo/config.toml" <<END
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "vendor"

[net]
offline = true
END
# The same bytes from the same commit.
tar -C "$tmp" --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w \
	--mtime="@$(git log -1 --format=%ct)" -cf - "$name" | xz -T0 >"target/$name.tar.xz"
echo "$ROOT/target/$name.tar.xz"
