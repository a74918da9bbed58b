# Two commands matter: `make up` tries Weir, `make test` tests it. Everything runs as often as wanted.

DATA ?= .weir
# The development build: it is the one that `make test` has built, and is fast enough to try.
PROFILE ?= dev
# How long `make soak` goes on, in minutes.
MINUTES ?= 60
# Of each fuzz target.
SECONDS ?= 600
# Of each run of `make bench`.
BENCH_SECONDS ?= 60
WEIR = $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/weir

.PHONY: help up down status test test-deep test-planted soak fuzz bench supply-chain reproduce

help:
	@echo "make up          start Weir with a demo on this machine, and print what to try"
	@echo "make status      what was accepted and what became of it"
	@echo "make down        stop it; data stay in $(DATA)"
	@echo "make test        format, lints, all tests"
	@echo "make test-deep   the fault tests with larger counts (docs/RELIABILITY.md)"
	@echo "make test-planted  makes a known mistake, one at a time, and sees that a test catches it"
	@echo "make soak        the fault tests with new seeds for MINUTES=$(MINUTES), added to the totals"
	@echo "make fuzz        every fuzz target for $(SECONDS) s (TARGETS names some)"
	@echo "make supply-chain  licences and sources of dependencies, unused ones, and a list of all"
	@echo "make bench       measures every bar of speed, $(BENCH_SECONDS) s of load each (BENCH_SECONDS)"
	@echo "make reproduce   two builds from nothing are the same, byte by byte"

up:
	@PROFILE=$(PROFILE) deploy/up.sh "$(DATA)"

down:
	@deploy/down.sh "$(DATA)"

status:
	@"$(WEIR)" status --data "$(DATA)"

test:
	@deploy/test.sh

test-deep:
	@deploy/test.sh deep

test-planted:
	@deploy/planted.sh

soak:
	@deploy/soak.sh "$(MINUTES)"

fuzz:
	@deploy/fuzz.sh $(SECONDS) $(TARGETS)

bench:
	@deploy/setup/all.sh
	@cargo run --locked --release --bin weir -- bench bars --seconds $(BENCH_SECONDS)

supply-chain:
	@deploy/supply-chain.sh

reproduce:
	@deploy/reproduce.sh
