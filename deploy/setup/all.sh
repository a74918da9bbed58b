#!/bin/sh
# Installs everything that building, running and testing Weir needs on one machine. Safe to run
# again; does nothing where all of it is there.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)
"$folder/build.sh"
if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    echo "rustfmt or clippy is missing; run: rustup component add rustfmt clippy" >&2
    exit 1
fi
"$folder/postgres.sh"
echo "clickhouse: $("$folder/clickhouse.sh")"
echo "kafka: $("$folder/kafka.sh")"
echo "clients: $("$folder/clients.sh")"
echo "schemathesis: $("$folder/schemathesis.sh")"
