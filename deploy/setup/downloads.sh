#!/bin/sh
# Fetches the servers and the programs of others that the tests run; nothing is built with them.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)
echo "clickhouse: $("$folder/clickhouse.sh")"
echo "kafka: $("$folder/kafka.sh")"
echo "clients: $("$folder/clients.sh")"
echo "schemathesis: $("$folder/schemathesis.sh")"
echo "promtool: $("$folder/promtool.sh")"
