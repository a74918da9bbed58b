#!/bin/sh
# Runs one test binary and shows what it said once it has ended; `deploy/test.sh` calls it.
#
#   deploy/test-one.sh spent faults    # adds a line with the seconds to the file `spent`
set -eu

spent=$1
test=$2
# Two at a time; more of those that wait most of the time.
threads=${TEST_THREADS:-2}
case $test in
faults | log_conformance | readiness) threads=$((2 * threads)) ;;
esac
said=$(mktemp)
trap 'rm -f "$said"' EXIT
trap 'exit 255' HUP INT TERM
began=$(date +%s)
outcome=0
# With --workspace every crate has the same features in all of these, and is compiled once.
cargo test --locked --workspace --test "$test" -- --test-threads "$threads" >"$said" 2>&1 || outcome=$?
took=$(($(date +%s) - began))
if [ "$outcome" -eq 0 ]; then
    printf '%5d s  tests: %s\n' "$took" "$test" >>"$spent"
    printf '== tests: %s, %d s\n%s\n' "$test" "$took" "$(cat "$said")"
else
    printf '%5d s  tests: %s, FAILED\n' "$took" "$test" >>"$spent"
    printf '== tests: %s failed after %d s\n%s\n' "$test" "$took" "$(cat "$said")" >&2
    # Nothing more is begun, unless all failures are wanted (KEEP_GOING=1).
    [ "${KEEP_GOING:-0}" = 1 ] || exit 255
    exit 1
fi
