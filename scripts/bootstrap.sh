#!/usr/bin/env bash
# Installs what building and testing Phronis needs on Debian or Ubuntu. Says nothing when nothing is missing.
set -euo pipefail

say() { printf 'bootstrap: %s\n' "$*" >&2; }

# name of a command or file → package that brings it
missing=()
need_command() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need_command cc gcc
need_command make make
need_command curl curl
need_command git git

if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${missing[*]}"
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates >/dev/null
fi

# Rust comes from rustup; its own toolchain file pins the version.
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null 2>&1 && apt-cache show rustup >/dev/null 2>&1; then
    say "installing rustup"
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq rustup >/dev/null
    rustup toolchain install "$(sed -n 's/^channel = "\(.*\)"/\1/p' "$(dirname "$0")/../rust-toolchain.toml")" --profile minimal
fi
if ! command -v cargo >/dev/null 2>&1; then
    say "Rust is missing: install rustup (see the Rust project's site), then run this again"
    exit 1
fi
if command -v rustup >/dev/null 2>&1; then
    toolchain=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$(dirname "$0")/../rust-toolchain.toml")
    rustup toolchain list | grep -q "^$toolchain" || { say "installing Rust $toolchain"; rustup toolchain install "$toolchain" --profile minimal -c clippy -c rustfmt; }
    rustup target list --installed --toolchain "$toolchain" | grep -qx wasm32-wasip2 || { say "installing the wasm32-wasip2 target"; rustup target add wasm32-wasip2 --toolchain "$toolchain"; }
fi
