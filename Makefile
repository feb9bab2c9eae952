# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# The targets are thin: what they do is in scripts/.

CARGO = scripts/cargo.sh
PREFIX = /usr/local
# Of make soak.
SECONDS = 600
# Of make fuzz.
PACKETS = 10000000

build: setup-build	## target/release/emptcp (the default)
	$(CARGO) build --release -p emptcp -p emptcp-pages
	scripts/pages.sh

install:		## what was built, below DESTDIR and PREFIX (/usr/local)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh

uninstall:		## remove it again
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh --uninstall

dist:			## the sources with all crates, to build without the network
	scripts/dist.sh

deb: setup-deb build	## a package for this release of Debian or Ubuntu
	scripts/deb.sh

debtest: deb		## install it on a clean Debian, and apply a policy there (root)
	scripts/debtest.sh

lab: setup-lab		## target/release/emptcp-lab, emulated links and traffic
	$(CARGO) build --release -p emptcp-lab

demo: setup-demo build lab	## see it work between network namespaces (root)
	scripts/demo.sh

check:			## format, lints, all tests that need no privilege
	scripts/test.sh fast

test:			## the whole suite (root)
	scripts/test.sh

vmtest:			## the tests on every kernel of tests/kernels.txt, in QEMU
	scripts/vmtest.sh

thorough: setup-test	## what policies do between network namespaces, five times as often (root)
	EMPTCP_THOROUGH=1 EMPTCP_CONNECTIONS=1000 $(CARGO) test --workspace --features emptcp/failpoints --test netns -- --test-threads=1

soak: setup-test	## policies and tables change under traffic, for SECONDS (600) each way of attaching (root)
	EMPTCP_SOAK=$(SECONDS) $(CARGO) test --features failpoints --test netns -- root_soak --test-threads=1 --nocapture

fuzz: setup-test	## PACKETS (10000000) random packets through every module (root)
	scripts/fuzz.sh packets $(PACKETS)

bench: setup-lab	## measurements (root)
	scripts/bench.sh

setup-%:
	@scripts/setup.sh $*

clean:			## remove what was built; downloads in .cache stay
	rm -rf target

help:			## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.DEFAULT_GOAL = build
.PHONY: build install uninstall dist deb debtest lab demo check test vmtest soak fuzz bench clean help
