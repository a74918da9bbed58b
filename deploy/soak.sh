#!/bin/sh
# Runs the fault tests with new seeds until the time is over, and adds each run to the totals.
#
#   deploy/soak.sh 120   # minutes
#
# It can be stopped at any time and begun again: a run counts when it has ended. One that finds
# something wrong ends it, with its seed: WEIR_SEED repeats the moments. Every third round has the
# scenarios of `make test-deep` too.
set -eu

cd "$(dirname "$0")/.."
minutes=${1:?minutes}
end=$(($(date +%s) + minutes * 60))
kept=$PWD/tests/data/faults.jsonl

cargo build --locked --bin weir
cargo test --locked --workspace --test faults --no-run
rounds=0
outcome=0
while [ "$outcome" -eq 0 ] && [ "$(date +%s)" -lt "$end" ]; do
    rounds=$((rounds + 1))
    more=
    [ $((rounds % 3)) -ne 0 ] || more=--include-ignored
    WEIR_FAULTS_OUT=$kept cargo test --locked --workspace --test faults -- --nocapture --test-threads 1 $more ||
        outcome=$?
done
cargo run --locked --bin faults-table
echo "$rounds rounds; $(wc -l <"$kept") runs in $kept"
exit "$outcome"
