#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# Installs what `make` built, or removes it again. Builds nothing and needs no network.
#
#   scripts/install.sh [--uninstall]     with DESTDIR and PREFIX (/usr/local) from the environment
#
# Below DESTDIR: the program, headers for modules with a pkg-config file, manual pages, completions
# of bash, zsh and fish, the schema of policies, units of systemd with a rule of udev, and
# documentation with examples. /etc/emptcp is made if it is not there, and never removed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
case $PREFIX in /*) ;; *) die "PREFIX=$PREFIX does not begin with /" ;; esac
version=$(version)
built=$ROOT/target/release
share=$built/share

# put MODE DIRECTORY FILE...: one way for installing and removing, so that neither forgets any.
put() {
	local mode=$1 dir=$DESTDIR$2 file
	shift 2
	for file; do
		if [ -n "$uninstall" ]; then
			rm -f "$dir/${file##*/}"
		else
			install -D -m "$mode" "$file" "$dir/${file##*/}"
		fi
	done
}

# filled IN NAME: a template with the places of this installation, as a file of that name.
filled() {
	sed "s|@PREFIX@|$PREFIX|g; s|@VERSION@|$version|g" "$1" >"$tmp/$2"
	echo "$tmp/$2"
}

uninstall=''
case ${1:-} in
'') ;;
--uninstall) uninstall=1 ;;
*)
	sed -n '6p' "$0" >&2
	exit 2
	;;
esac
[ -d "$share/man" ] || die "nothing is built here: run make first"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

data=$PREFIX/share
put 755 "$PREFIX/sbin" "$built/emptcp"
put 644 "$PREFIX/include/emptcp" include/emptcp/*.h
put 644 "$data/pkgconfig" "$(filled packaging/emptcp.pc.in emptcp.pc)"
for section in 5 7 8; do
	put 644 "$data/man/man$section" "$share/man/man$section"/*."$section"
done
put 644 "$data/bash-completion/completions" "$share/bash-completion/completions/emptcp"
put 644 "$data/zsh/site-functions" "$share/zsh/site-functions/_emptcp"
put 644 "$data/fish/vendor_completions.d" "$share/fish/vendor_completions.d/emptcp.fish"
put 644 "$data/emptcp" "$share/emptcp/policy.schema.json"
for unit in emptcp emptcp-run; do
	put 644 "$PREFIX/lib/systemd/system" "$(filled "packaging/$unit.service.in" "$unit.service")"
done
put 644 "$PREFIX/lib/udev/rules.d" packaging/90-emptcp.rules
put 644 "$data/doc/emptcp" README.md CHANGELOG.md COPYING
put 644 "$data/doc/emptcp/LICENSES" LICENSES/GPL-2.0-only.txt LICENSES/BSD-2-Clause.txt
put 644 "$data/doc/emptcp/docs" docs/*.md
put 644 "$data/doc/emptcp/examples" examples/*.json
put 644 "$data/doc/emptcp/examples/exec" examples/exec/*.json
put 755 "$data/doc/emptcp/examples/exec" examples/exec/*.py
put 644 "$data/doc/emptcp/examples/module" examples/module/*

if [ -n "$uninstall" ]; then
	# Folders that are ours alone.
	for dir in include/emptcp share/emptcp share/doc/emptcp; do
		[ ! -d "$DESTDIR$PREFIX/$dir" ] || find "$DESTDIR$PREFIX/$dir" -depth -type d -empty -delete
	done
else
	install -d -m 755 "$DESTDIR/etc/emptcp"
fi
