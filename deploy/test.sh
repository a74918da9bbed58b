#!/bin/sh
# All checks, with the seconds that each phase took. `make test` calls it; continuous integration too.
#
#   deploy/test.sh          # everything
#   deploy/test.sh deep     # the fault tests alone, each fault more often, and more seeds
set -eu

cd "$(dirname "$0")/.."
only=${1:-all}
summary=

phase() { # name, then the command
    name=$1
    shift
    echo "== $name"
    began=$(date +%s)
    if ! "$@"; then
        echo "== $name failed after $(($(date +%s) - began)) s" >&2
        printf '%b' "$summary" >&2
        exit 1
    fi
    summary="$summary$(printf '%5d s  %s' $(($(date +%s) - began)) "$name")\n"
}

# The build is done by clippy, called as cargo-clippy calls it for `-D warnings`: with its lints, and with the programs
# that the tests run. A check by itself compiles all dependencies a second time.
lint_the_build() {
    export RUSTC_WORKSPACE_WRAPPER=clippy-driver
    # How cargo-clippy tells its driver what to deny.
    export CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
    # Whether it bites: a lint of the style group.
    folder=$(mktemp -d)
    echo 'pub fn one() -> u8 { return 1; }' >"$folder/one.rs"
    ! clippy-driver rustc --edition 2024 --crate-type lib --emit metadata --out-dir "$folder" "$folder/one.rs" \
        2>"$folder/said" && grep -q needless_return "$folder/said" || {
        cat "$folder/said" >&2
        echo "clippy-driver does not refuse what clippy warns of" >&2
        return 1
    }
    rm -r "$folder"
}

phase "setup" deploy/setup/tools.sh
# What is built does not need these, so they are fetched meanwhile.
fetched=$(mktemp)
spent=$(mktemp)
others=$(mktemp)
deploy/setup/downloads.sh >"$fetched" 2>&1 &
downloads=$!
trap '[ -z "$downloads" ] || kill "$downloads" 2>/dev/null || true; rm -f "$fetched" "$spent" "$others"' EXIT
trap 'exit 1' HUP INT TERM
have_downloads() {
    outcome=0
    wait "$downloads" || outcome=$?
    downloads=
    cat "$fetched"
    return "$outcome"
}

if [ "$only" = all ]; then
    phase "format" cargo fmt --all --check
    phase "lints" lint_the_build
fi
# Millions of events are compared one by one.
faster="--config profile.dev.package.tests.opt-level=1"
[ "$only" = deep ] || faster=
phase "build, with lints" cargo test $faster --locked --workspace --no-run
phase "build weir" cargo build --locked --bin weir
phase "downloads" have_downloads
if [ "$only" = deep ]; then
    export WEIR_TIER=deep WEIR_SIMULATION_SEEDS=20000 WEIR_KILLS=30
    # Each run adds a line to the totals of docs/RELIABILITY.md, also one that fails.
    export WEIR_FAULTS_OUT="$PWD/tests/data/faults.jsonl"
    for test in faults kills restore verify simulation; do
        phase "tests: $test" cargo test $faster --locked --workspace --test "$test" -- --include-ignored --nocapture --test-threads 1
    done
    phase "totals" cargo run $faster --locked --bin faults-table
    # Its settings are those of the environment, which has none of the above.
    phase "tests: a loud neighbour" env -u WEIR_TIER -u WEIR_SIMULATION_SEEDS -u WEIR_KILLS -u WEIR_FAULTS_OUT \
        cargo test $faster --locked --workspace --test ingest -- --ignored --nocapture
else
    # With --workspace every crate has the same features in all of these, and is compiled once.
    phase "unit tests" cargo test --locked --workspace --lib --bins
    phase "examples in documents" cargo test --locked --workspace --doc
    # By itself: its faults are to bite at their moments, and it keeps the machine busy.
    began=$(date +%s)
    outcome=0
    deploy/test-one.sh "$spent" faults || outcome=$?
    # The others wait most of the time, so two of them run beside each other; the longest first.
    for test in $(ls domain/tests/*.rs fuzz/tests/*.rs tests/tests/*.rs | sed 's|.*/||; s|[.]rs$||' | sort -u); do
        case $test in
        faults) ;;
        openapi_fuzz | late | corrections | doors | abuse | verify) echo "1 $test" ;;
        *) echo "2 $test" ;;
        esac
    done | sort | sed 's/.* //' >"$others"
    if [ "$outcome" -eq 0 ] || [ "${KEEP_GOING:-0}" = 1 ]; then
        xargs -P "${TEST_QUEUES:-2}" -n 1 deploy/test-one.sh "$spent" <"$others" || outcome=$?
    fi
    summary="$summary$(sort -rn "$spent" | sed 's/$/\\n/' | tr -d '\n')"
    summary="$summary$(printf '%5d s  %s' $(($(date +%s) - began)) "all of these")\n"
    if [ "$outcome" -ne 0 ]; then
        printf '%b' "$summary" >&2
        exit 1
    fi
fi
echo
printf '%b' "$summary"
