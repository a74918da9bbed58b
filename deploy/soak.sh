#!/bin/sh
# Runs the fault tests with new seeds until the time is over, and adds each run to the totals.
#
#   deploy/soak.sh 120   # minutes
#
# It can be stopped at any time and begun again: a run counts when it has ended. One that finds
# something wrong ends it, with its seed: WEIR_SEED repeats the moments.
set -eu

cd "$(dirname "$0")/.."
minutes=${1:?minutes}
end=$(($(date +%s) + minutes * 60))
kept=$PWD/tests/data/faults.jsonl

cargo build --locked --bin weir
cargo test --locked --workspace --test faults --no-run
rounds=0
while [ "$(date +%s)" -lt "$end" ]; do
    WEIR_FAULTS_OUT=$kept cargo test --locked --workspace --test faults -- --nocapture --test-threads 1
    rounds=$((rounds + 1))
done
cargo run --locked --bin faults-table
echo "$rounds rounds; $(wc -l <"$kept") runs in $kept"
