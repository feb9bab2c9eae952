#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# scripts/pages.sh: manual pages, completions and the schema of policies, from the program that was
# built, into target/release/share.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

share=$ROOT/target/release/share
rm -rf "$share"
target/release/emptcp-pages "$share"
mkdir -p "$share/emptcp"
target/release/emptcp schema >"$share/emptcp/policy.schema.json"
