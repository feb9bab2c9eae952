#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# scripts/deb.sh: what `make` built as target/emptcp_VERSION_ARCHITECTURE.deb, for this release of
# Debian or Ubuntu and later ones. Needs dpkg-dev, no network. DEBFULLNAME and DEBEMAIL name who
# maintains it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
have dpkg-shlibdeps || die "no dpkg-shlibdeps: run scripts/setup.sh deb"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/debian/emptcp
# Nobody but root may write what root runs.
umask 022
DESTDIR=$root PREFIX=/usr scripts/install.sh

doc=$root/usr/share/doc/emptcp
# What Debian wants elsewhere, compressed or by another name.
mkdir -p "$root/usr/share/zsh/vendor-completions"
mv "$root/usr/share/zsh/site-functions/_emptcp" "$root/usr/share/zsh/vendor-completions/"
rmdir "$root/usr/share/zsh/site-functions"
gzip -9n "$root"/usr/share/man/man[578]/*.[578]
{
	cat COPYING
	printf '\nOn Debian systems the text of the GPL, version 2, is in\n/usr/share/common-licenses/GPL-2.\n\n'
	cat LICENSES/BSD-2-Clause.txt
} >"$doc/copyright"
rm -r "$doc/LICENSES" "$doc/COPYING"
mv "$doc/CHANGELOG.md" "$doc/changelog"
version=$(version)-1
maintainer="${DEBFULLNAME:-the authors of emptcp} <${DEBEMAIL:-emptcp@localhost.localdomain}>"
cat >"$doc/changelog.Debian" <<END
emptcp ($version) unstable; urgency=medium

  * Package of emptcp $(version); what changed: changelog.gz.

 -- $maintainer  $(LC_ALL=C date -R -d "@${SOURCE_DATE_EPOCH:-$(stat -c %Y CHANGELOG.md)}")
END
gzip -9n "$doc/changelog" "$doc/changelog.Debian"

printf 'Source: emptcp\n\nPackage: emptcp\nArchitecture: any\n' >"$tmp/debian/control"
depends=$(cd "$tmp" && dpkg-shlibdeps -O debian/emptcp/usr/sbin/emptcp 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
# The same library has another name in Debian 13.
depends=$(sed -E 's/libelf1(t64)?( \([^)]*\))?/libelf1t64\2 | libelf1\2/' <<<"$depends")
[ -n "$depends" ] || die "dpkg-shlibdeps found no libraries"

mkdir "$root/DEBIAN"
arch=$(dpkg --print-architecture)
cat >"$root/DEBIAN/control" <<END
Package: emptcp
Version: $version
Architecture: $arch
Section: net
Priority: optional
Maintainer: $maintainer
Depends: $depends
Suggests: clang, libbpf-dev
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Description: programmable Multipath TCP on stock kernels
 emptcp treats the packets of Multipath TCP connections from outside of the
 stack: chains of selectors (which packets) and actors (what is done to them)
 are described in JSON and run in eBPF at XDP, tc ingress and tc egress, on a
 host, a router or a hypervisor. Policies are exchanged while connections run.
END
for script in postinst prerm postrm; do
	install -m 755 "packaging/debian/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

deb=$ROOT/target/emptcp_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >&2
echo "$deb"
