# Each target is one line into scripts/ or go. `make` prints this list.
PKGS ?= ./...
RUN ?= .
FUZZTIME ?= 20s

.DEFAULT_GOAL := help
.PHONY: help build cross run demo test race lint lint-fast fmt fuzz bench e2e powercut vmcut cluster tools notices ci

help: ## list of targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## the binary here, build/wispgate
	@scripts/build

cross: ## every target with its size against the budget: amd64, arm64, armv7, 386
	@scripts/cross

run: build ## build and run the whole product on loopback (wispgate demo); Ctrl-C stops it, the data stays in demo-data
	@build/wispgate demo --data demo-data

demo: run ## the same as run

test: ## install what the tests need and run them all; PKGS= and RUN= narrow
	@scripts/test $(PKGS) $(RUN)

race: ## the parts with goroutines under the race detector; PKGS= narrows
	@scripts/race $(PKGS)

lint: ## golangci-lint
	@scripts/lint

lint-fast: ## vet, gofumpt and staticcheck
	@scripts/lint fast

fmt: ## format the source
	@scripts/lint fmt

fuzz: ## each fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

bench: ## benchmarks with their peers, as ratios of one run
	@scripts/bench

e2e: ## stories on the built binary
	@scripts/e2e

powercut: ## 200 simulated power cuts of store and log, and many more of the journal (root)
	@scripts/powercut 200

vmcut: ## power cuts of whole virtual machines, ROUNDS=n (root, or qemu and busybox installed)
	@scripts/vmcut $(or $(ROUNDS),30)

cluster: ## a cluster under harm for HOURS=n: linearizability in one process, then real nodes in network namespaces (root)
	@scripts/cluster $(or $(HOURS),1)

tools: ## build the pinned tools once
	@scripts/tools

notices: ## THIRD_PARTY_NOTICES.md from the linked modules
	@scripts/notices

ci: ## what CI runs
	@scripts/ci
