#!/bin/sh
# Fetches promtool, Prometheus' checker of rules, and prints its program: tests/tests/operators.rs
# runs the alert rules through it. It is taken out of Debian's package, so that no Prometheus starts.
#
# Safe to run again and to run twice at once. WEIR_TOOLS chooses another folder than the cache.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=${WEIR_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
program=$tools/promtool

if [ ! -x "$program" ]; then
    mkdir -p "$tools"
    temporary=$(mktemp -d "$tools/.promtool.XXXXXX")
    trap 'rm -rf "$temporary"' EXIT
    trap 'exit 1' HUP INT TERM
    # A machine that is new has no list of packages yet; `apt.sh` makes one.
    (cd "$temporary" && apt-get download prometheus >&2) ||
        { "$here/apt.sh" xz-utils && (cd "$temporary" && apt-get download prometheus >&2); }
    dpkg -x "$temporary"/prometheus_*.deb "$temporary/unpacked"
    mv "$temporary/unpacked/usr/bin/promtool" "$program"
fi
echo "$program"
