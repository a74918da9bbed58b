#!/bin/sh
# Installs everything that building, running and testing Weir needs on one machine. Safe to run
# again; does nothing where all of it is there.
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
echo "clickhouse: $("$folder/clickhouse.sh")"
echo "kafka: $("$folder/kafka.sh")"
echo "clients: $("$folder/clients.sh")"
echo "schemathesis: $("$folder/schemathesis.sh")"
echo "promtool: $("$folder/promtool.sh")"
