# Everything a person runs. `make help` lists it.
SHELL := /bin/bash
# One target folder for all clones: a cold build of all dependencies takes minutes.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/phronis/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
BIN := $(CARGO_TARGET_DIR)/release
PLUGINS := $(patsubst plugins/%/Cargo.toml,phronis-plugin-%,$(wildcard plugins/*/Cargo.toml))

.PHONY: help setup build plugins demo test lint bench chaos ci

help: ## lists the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

setup: ## installs what is missing on this machine
	@scripts/bootstrap.sh

build: setup plugins ## builds the host and the plugins
	cargo build --release --locked -p phronis

plugins: setup ## builds the shipped plugins and the example to WebAssembly
	cargo build --release --locked --target wasm32-wasip2 $(addprefix -p ,$(PLUGINS)) -p first-detector

demo: build ## runs the whole job on the embedded log, and checks the result
	@cargo build --release --locked -q -p phronis-demo
	@$(BIN)/phronis-demo

test: build ## runs all tests
	cargo build --release --locked --target wasm32-wasip2 -p phronis-guests
	cargo test --release --locked --workspace --exclude phronis-guests

lint: setup ## formatting, lints, docs, dependencies
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --document-private-items -q
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level error check bans licenses sources; else echo "cargo-deny is not installed, skipped"; fi

bench: build ## measures speed and memory; results in benches/results
	cargo run --release --locked -q -p phronis-benches

chaos: build ## kills the host 50 times under load, then checks every topic
	cargo run --release --locked -q -p phronis-tests --bin chaos

ci: ## what the merge gate runs
	.ci/run
