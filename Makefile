# What a person types here. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo docker docker-or-not test test-rust test-teahouse test-crash test-edge-cost bench bench-pipeline bench-edge bench-switch bench-deploy bench-conformance fuzz lint
# One after the other: the targets share a build folder.
.NOTPARALLEL:

# Where cargo puts what it builds: target/, unless CARGO_TARGET_DIR says otherwise.
BUILT := $(or $(CARGO_TARGET_DIR),target)
# What the demo's environments run on: process or docker.
ENGINE ?= process
# rustup puts cargo there; a non-login shell may not know.
export PATH := $(PATH):$(HOME)/.cargo/bin

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing on this machine (Debian, Ubuntu), or say what to install
	@dev/setup

demo: setup $(if $(filter docker,$(ENGINE)),docker) ## From a commit to production and back, with the example shop (ENGINE=docker in containers; DEMO_ARGS=--stay leaves it running)
	@echo '== demo: build launchway, then carry examples/teahouse from a commit to production, under load ($(ENGINE))'
	cargo build --release --locked -p launchway
	@mkdir -p target/demo
	$(BUILT)/release/launchway demo --source examples/teahouse --engine $(ENGINE) --summary target/demo/summary.json $(DEMO_ARGS)

docker: ## A Docker Engine that answers, and the base images of the example shop, made here where no registry is reachable
	@dev/setup docker
	@dev/base-images
	@dev/scanners system || echo '== without scanners for the scan stage'

# Tests of containers run wherever an Engine answers; where none does, they say so, and so does the end.
docker-or-not:
	@if docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then dev/base-images; \
	else echo '== SKIPPING ALL TESTS OF CONTAINERS: no Docker Engine answers (`make docker` installs one)'; fi

test: setup lint test-teahouse test-rust test-crash test-edge-cost ## Everything: lint, the shop's own tests, all Rust tests, a crash at every event, what a request costs

test-rust: docker-or-not ## All Rust tests
	@echo '== test-rust: the tests of every crate, with real PostgreSQL and Redis servers where they are needed'
	cargo test --locked --workspace

test-teahouse: ## Lint, unit tests and build of the example shop
	@echo '== test-teahouse: lint, unit tests and build of examples/teahouse'
	dev/test-teahouse

test-crash: setup ## Kill the server after each event of a deploy, and see that it always ends well
	@echo '== test-crash: a full deploy, once for each of its events, with the server killed after that event'
	cargo test --locked -p launchway --features crash-points --test crash -- --nocapture

test-edge-cost: setup ## Instructions and allocations per request through the edge, against a ceiling
	@echo '== test-edge-cost: what one request costs the edge, counted by valgrind'
	dev/edge-cost

fuzz: ## Throw bytes at the edge's parsers for ten minutes (FUZZ_SECONDS says otherwise)
	@echo '== fuzz: request heads, answers, chunked bodies, WebSocket frames and routes, against other readings of the same bytes'
	fuzz/run

lint: ## Formatting, clippy, and what may be in the dependency tree
	@echo '== lint: cargo fmt, clippy, cargo-deny'
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	dev/deny

bench: bench-pipeline bench-edge bench-switch bench-deploy ## All benchmarks

bench-pipeline: setup ## The pipeline against a shell script doing the same (writes target/bench/pipeline.json)
	@echo '== bench-pipeline: the pipeline against a shell script that runs the same commands'
	bench/pipeline/run

bench-conformance: setup ## Public conformance suites against the edge, and hostile requests (writes target/bench/conformance.json)
	@echo '== bench-conformance: h2spec, frames of WebSocket and hostile requests, beside nginx'
	bench/conformance/run

bench-edge: setup ## The edge against nginx, HAProxy and kamal-proxy (writes target/bench/edge.json; BENCH_ARGS=--quick takes 3 minutes)
	@echo '== bench-edge: what a request costs, beside nginx, HAProxy and kamal-proxy'
	bench/edge/run $(BENCH_ARGS)

bench-switch: setup ## What clients lose at 200 switches under load, beside the same proxies (writes target/bench/switch.json; BENCH_ARGS=--quick)
	@echo '== bench-switch: releases come and go under load, behind the edge, nginx, HAProxy and kamal-proxy'
	bench/switch/run $(BENCH_ARGS)

bench-deploy: setup docker ## A change from commit to production in containers, beside docker compose up (writes target/bench/deploy.json)
	@echo '== bench-deploy: a one-line change under load, with Launchway and with Docker Compose'
	bench/deploy/run $(BENCH_ARGS)
