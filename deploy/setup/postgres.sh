#!/bin/sh
# Installs the Postgres server's programs, if there are none, without making or starting a cluster:
# `weir up` and the tests run private servers from them. Debian and Ubuntu; needs root (or sudo) only
# to install. Safe to run again.
set -eu

for server in /usr/lib/postgresql/*/bin/postgres; do
    if [ -x "$server" ]; then
        echo "postgres is installed: $server"
        exit 0
    fi
done

if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "postgres is not installed, and this is not root; run as root: $0" >&2
        exit 1
    fi
    exec sudo "$0"
fi

mkdir -p /etc/postgresql-common
settings=/etc/postgresql-common/createcluster.conf
if ! grep -q '^[[:space:]]*create_main_cluster[[:space:]]*=[[:space:]]*false' "$settings" 2>/dev/null; then
    echo 'create_main_cluster = false' >>"$settings"
fi

"$(dirname "$0")/apt.sh" postgresql

for server in /usr/lib/postgresql/*/bin/postgres; do
    if [ -x "$server" ]; then
        echo "installed: $server"
        exit 0
    fi
done
echo "the package postgresql brought no server under /usr/lib/postgresql" >&2
exit 1
