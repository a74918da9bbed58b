#!/bin/sh
# Instructions per event by role, counted by valgrind's callgrind on a short embedded run: both
# traces of tests/data through a `weir up` of its own. For machines without hardware counters.
#
#   benches/instructions.sh [path of the binary]      # default: target/release/weir
#
# What threads do while they wait is in it too (some polls a second each), so compare two commits
# on one machine, and do not read the figures as absolute.
set -eu

cd "$(dirname "$0")/.."
weir=${1:-target/release/weir}
command -v valgrind >/dev/null || {
    echo "valgrind is missing: apt-get install valgrind" >&2
    exit 1
}
WEIR_LIBCHDB=${WEIR_LIBCHDB:-$(deploy/setup/clickhouse.sh)}
export WEIR_LIBCHDB
folder=$(mktemp -d)
valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file="$folder/out" \
    "$weir" up --demo --listen 127.0.0.1:0 --data "$folder/data" >"$folder/log" 2>&1 &
process=$!
trap 'kill "$process" 2>/dev/null; wait "$process" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

waited=0
until [ -s "$folder/data/endpoints.json" ]; do
    waited=$((waited + 1))
    if [ "$waited" -gt 300 ] || ! kill -0 "$process" 2>/dev/null; then
        cat "$folder/log" >&2
        exit 1
    fi
    sleep 1
done
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$folder/data/endpoints.json"; }

# The demo's own events are rated and posted by then; what is counted begins here.
sleep 10
callgrind_control -z "$process" >/dev/null
"$weir" replay --url "$(field http)" --key "$(field admin_key)" \
    --csv tests/data/azure-llm-2023/code.csv.zst --csv tests/data/azure-llm-2023/conv.csv.zst \
    --map TIMESTAMP=time --map ContextTokens=data.inputTokens --map GeneratedTokens=data.outputTokens \
    --set type=llm.tokens.v1 --set data.provider=openai --set data.model=gpt-4-turbo \
    --teams 200 --seed 1 --skew 1 >"$folder/replay" 2>&1 || {
    cat "$folder/replay" >&2
    exit 1
}
sleep 10
callgrind_control -d "$process" >/dev/null

# A thread belongs to the role whose loop it runs.
for dump in "$folder"/out.1-*; do
    role=others
    for known in 'tokio (http, sql)=multi_thread::worker::run' 'rater=rater::partition::own' 'rater lane=rater::late' \
        'ledger=ledger_writer::partition::run' 'archive=archiver::partition::own' 'api=api::live'; do
        if grep -q "${known#*=}" "$dump"; then
            role=${known%%=*}
            break
        fi
    done
    awk -v role="$role" '/^(summary|totals): / { print role "\t" $2; exit }' "$dump"
done | awk -F'\t' '
    { sum[$1] += $2; all += $2 }
    END {
        for (role in sum) printf "%-18s %8.0f instructions per event\n", role, sum[role] / 28185
        printf "%-18s %8.0f instructions per event\n", "total", all / 28185
    }' | sort
