# Everything a person runs. `make help` lists it.
SHELL := /bin/bash
# One target folder for all clones: a cold build of all dependencies takes minutes.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/phronis/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
BIN := $(CARGO_TARGET_DIR)/release
# Tests and demo need not ask cargo for what make has built.
export PHRONIS_BUILT := 1
PLUGINS := $(patsubst plugins/%/Cargo.toml,phronis-plugin-%,$(wildcard plugins/*/Cargo.toml))

.PHONY: help setup build plugins demo demo-kafka test lint bench bench-kafka chaos ci

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 13

setup: ## installs what is missing on this machine
	@scripts/bootstrap.sh

# Always the whole workspace: with another selection of packages, cargo would build the dependencies once more.
HOST := --release --locked --workspace --exclude phronis-guests

build: setup plugins ## builds the host, the demo and the plugins
	cargo build $(HOST)

plugins: setup ## builds the shipped plugins to WebAssembly
	cargo build --release --locked --target wasm32-wasip2 $(addprefix -p ,$(PLUGINS)) -p phronis-demo-next -p phronis-demo-broken -p phronis-w1-too-hot

demo: build ## runs the whole job on the embedded log, and checks the result
	@$(BIN)/phronis-demo

demo-kafka: build ## the same on a real Apache Kafka, which it starts and stops
	@$(BIN)/phronis-demo --kafka

test: build ## runs all tests
	cargo build --release --locked --target wasm32-wasip2 -p phronis-guests --examples
	cargo test $(HOST)
	cargo test --release --locked --manifest-path examples/first-detector/Cargo.toml
	python3 -W error::ResourceWarning -m unittest discover -s sdk/python/tests -t sdk/python

lint: setup ## formatting, lints, docs, dependencies
	cargo fmt --all --check
	cargo clippy $(HOST) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc $(HOST) --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level error check bans licenses sources; else echo "cargo-deny is not installed, skipped"; fi

bench: build ## measures speed and memory; results in benches/results
	@$(BIN)/phronis-benches

bench-kafka: build ## measures the job on a real Apache Kafka, beside others where their harness is (PEERS)
	@$(BIN)/phronis-benches kafka

chaos: build ## kills hosts on both logs and hurts Kafka, again and again, and checks every topic
	@$(BIN)/chaos

ci: ## what the merge gate runs
	.ci/run
