#!/bin/sh
# Runs the fuzz targets under libFuzzer, on stable Rust and without a sanitizer. `make fuzz` calls it.
#
#   deploy/fuzz.sh SECONDS [TARGET...]   # each target, all by default, for so many seconds
#   deploy/fuzz.sh keep [TARGET...]      # keeps in fuzz/corpus what earlier runs found that reaches other code
#
# What runs find new is collected in target/fuzz-found, an input that fails in fuzz/artifacts: run
# the target with it alone, mend what is wrong, and keep the input in fuzz/corpus.
set -eu

cd "$(dirname "$0")/.."
version=0.13.2
limits="-timeout=10 -rss_limit_mb=2048 -max_len=16384"
task=${1:?say for how many seconds, or keep}
shift

export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v cargo-fuzz >/dev/null 2>&1 || cargo install --locked cargo-fuzz --version "$version"
[ $# -gt 0 ] || set -- $(cargo fuzz list --fuzz-dir fuzz)
found=${CARGO_TARGET_DIR:-target}/fuzz-found

# cargo-fuzz hands its own flags on to cargo.
export CARGO_NET_OFFLINE="${CARGO_NET_OFFLINE:-false}"
cargo metadata --locked --format-version 1 >/dev/null
cargo fuzz build --fuzz-dir fuzz --sanitizer none --features libfuzzer ${CARGO_TARGET_DIR:+--target-dir "$CARGO_TARGET_DIR"}
programs=${CARGO_TARGET_DIR:-target}/$(rustc -vV | sed -n 's/^host: //p')/release

failed=
for target in "$@"; do
    mkdir -p "$found/$target" fuzz/artifacts
    if [ "$task" = keep ]; then
        "$programs/$target" -merge=1 -use_counters=0 $limits "fuzz/corpus/$target" "$found/$target" 2>&1 | tail -1
        continue
    fi
    echo "== $target, $task s"
    if "$programs/$target" $limits "-max_total_time=$task" -print_final_stats=1 -verbosity=0 \
        "-artifact_prefix=fuzz/artifacts/$target-" "$found/$target" "fuzz/corpus/$target" \
        >"$found/$target.log" 2>&1; then
        grep -E "number_of_executed_units|new_units_added|slowest_unit|peak_rss" "$found/$target.log"
    else
        tail -40 "$found/$target.log" >&2
        failed="$failed $target"
    fi
done
[ -z "$failed" ] || {
    echo "failed:$failed" >&2
    exit 1
}
