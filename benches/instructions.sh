#!/bin/sh
# Instructions per event by role, counted by valgrind's callgrind on a short run. For machines without
# hardware counters.
#
#   benches/instructions.sh [path of the binary]      # default: target/release/weir
#
# Weir's threads, its private Postgres and its ClickHouse engine, on an embedded run: both traces of
# tests/data through a `weir up` of its own. Takes about ten minutes.
#
#   WEIR_KAFKA_BROKERS=127.0.0.1:9092 BROKER_PID=… benches/instructions.sh [path of the binary]
#
# A broker: one that was started as `valgrind --tool=callgrind --smc-check=all-non-file java …` and is
# nobody else's, under two runs of the bench. The first warms up its compiler and is not counted.
#
# What threads do while they wait is in it too (some polls a second each), and requests are smaller
# than under load, so compare two commits on one machine, and do not read the figures as absolute.
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

if [ -n "${BROKER_PID:-}" ]; then
    trap 'rm -rf "$folder"' EXIT
    events=50000
    # A broker as slow as this one gets the time that it needs.
    export WEIR_LOG__KAFKA__PROPERTIES='{"message.timeout.ms" = "60000", "socket.timeout.ms" = "60000", "request.timeout.ms" = "30000"}'
    for run in warm counted; do
        [ "$run" = warm ] || callgrind_control -z "$BROKER_PID" >/dev/null
        "$weir" bench pipeline --events "$events" --connections 2 --partitions 4 >"$folder/log" 2>&1 || {
            cat "$folder/log" >&2
            exit 1
        }
    done
    # Where a process writes to is its own affair: the answer to a dump names no file.
    out=$(tr '\0' '\n' <"/proc/$BROKER_PID/cmdline" | sed -n 's/^--callgrind-out-file=//p')
    rm -f "$out".*
    callgrind_control -d "$BROKER_PID" >/dev/null
    awk -v events="$events" '/^summary: / { sum += $2 }
        END { printf "%-18s %8.0f instructions per event\n", "broker", sum / events }' "$out".*
    exit
fi

valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file="$folder/out.%p" \
    --trace-children=yes --trace-children-skip='*/initdb' --smc-check=all-non-file \
    "$weir" up --demo --listen 127.0.0.1:0 --data "$folder/data" >"$folder/log" 2>&1 &
process=$!
trap 'kill "$process" 2>/dev/null; wait "$process" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

running() {
    waited=$((waited + 1))
    if [ "$waited" -gt 120 ] || ! kill -0 "$process" 2>/dev/null; then
        cat "$folder/log" >&2
        exit 1
    fi
    sleep 10
}
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$folder/data/endpoints.json"; }
# All processes that are counted, this one's descendants.
counted() {
    ps -eo pid=,ppid= | awk -v root="$process" '
        { parent[$1] = $2 }
        END {
            for (pid in parent) {
                for (above = pid; above > 1 && above != root; above = parent[above]) {}
                if (above == root) print pid
            }
        }'
}
archived() {
    waited=0
    until [ "$(curl -s -m 120 "$(field clickhouse)" -d 'SELECT count() FROM weir.usage_events')" = "$1" ]; do
        running
    done
    # What is archived is posted too by then, and what follows the insert is done.
    sleep 20
}

waited=0
until [ -s "$folder/data/endpoints.json" ]; do
    running
done
# The demo's own events. What is counted begins here.
archived 3000
# shellcheck disable=SC2046 # a list
callgrind_control -z $(counted) >/dev/null 2>&1
# What has ended by now.
rm -f "$folder"/out.*-[0-9][0-9]
"$weir" replay --url "$(field http)" --key "$(field admin_key)" \
    --csv tests/data/azure-llm-2023/code.csv.zst --csv tests/data/azure-llm-2023/conv.csv.zst \
    --map TIMESTAMP=time --map ContextTokens=data.inputTokens --map GeneratedTokens=data.outputTokens \
    --set type=llm.tokens.v1 --set data.provider=openai --set data.model=gpt-4-turbo \
    --teams 200 --seed 1 --skew 1 >"$folder/replay" 2>&1 || {
    cat "$folder/replay" >&2
    exit 1
}
archived 31185
# shellcheck disable=SC2046 # a list
callgrind_control -d $(counted) >/dev/null 2>&1

# A thread of Weir belongs to the role whose loop it runs.
for dump in "$folder"/out.*-[0-9][0-9]; do
    role=others
    case $(sed -n '/^cmd: /{p;q}' "$dump") in
    *clickhouse-engine*) role=clickhouse ;;
    *bin/postgres*) role=postgres ;;
    *)
        for known in 'tokio (http, sql)=multi_thread::worker::run' 'rater=rater::partition::own' \
            'rater lane=rater::late' 'ledger=ledger_writer::partition::run' \
            'archive=archiver::partition::own' 'api=api::live'; do
            if grep -q "${known#*=}" "$dump"; then
                role=${known%%=*}
                break
            fi
        done
        ;;
    esac
    awk -v role="$role" '/^(summary|totals): / { print role "\t" $2; exit }' "$dump"
done | awk -F'\t' '
    { sum[$1] += $2; all += $2 }
    END {
        for (role in sum) printf "%-18s %8.0f instructions per event\n", role, sum[role] / 28185
        printf "%-18s %8.0f instructions per event\n", "total", all / 28185
    }' | sort
