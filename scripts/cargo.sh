#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# cargo with the compilers that scripts/setup.sh chose.
set -euo pipefail
here=$PWD
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
toolchain
cd "$here"
exec cargo "$@"
