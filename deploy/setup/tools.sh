#!/bin/sh
# Installs what building Weir, its formats and lints, and its Postgres need; `downloads.sh` the rest.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)
"$folder/build.sh"
if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    if ! command -v rustup >/dev/null 2>&1; then
        echo "rustfmt or clippy is missing; install both for this cargo: $(command -v cargo)" >&2
        exit 1
    fi
    rustup component add rustfmt clippy
fi
# A test of the log watches its system calls.
command -v strace >/dev/null 2>&1 || "$folder/apt.sh" strace
"$folder/postgres.sh"
