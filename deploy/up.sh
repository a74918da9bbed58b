#!/bin/sh
# Starts `weir up --demo` in the background and waits until it is ready; where it runs already,
# says the same again. `make up` calls it.
#
#   deploy/up.sh DIR
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
data=${1:-.weir}
case $data in /*) ;; *) data=$PWD/$data ;; esac
profile=${PROFILE:-dev}
case $profile in dev) built=debug ;; *) built=$profile ;; esac
weir=${CARGO_TARGET_DIR:-$root/target}/$built/weir
# Recovery after a crash and the demo's first run on a slow disk.
wait_s=300

running() {
    found=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$data/endpoints.json" 2>/dev/null) || return 1
    [ -n "$found" ] && [ -e "/proc/$found/exe" ] &&
        case $(readlink "/proc/$found/exe") in */weir | */weir\ *) true ;; *) false ;; esac
}

if ! running; then
    "$root/deploy/setup/build.sh"
    "$root/deploy/setup/postgres.sh"
    echo "clickhouse: $("$root/deploy/setup/clickhouse.sh")"
    echo "building; the first time takes some minutes"
    (cd "$root" && cargo build --locked --profile "$profile" --bin weir)
    mkdir -p "$data"
    chmod 700 "$data"
    umask 077
    listen=${WEIR_LISTEN:-127.0.0.1:0}
    # The address of last time, if it is free, so that bookmarks keep working.
    [ -n "${WEIR_LISTEN:-}" ] || listen=$(cat "$data/address" 2>/dev/null || echo 127.0.0.1:0)
    started=$(date +%s)
    for attempt in 1 2; do
        # stdin, stdout and stderr of its own: it must not hold the caller's terminal or pipe.
        setsid nohup "$weir" up --data "$data" --listen "$listen" --demo </dev/null >>"$data/weir.log" 2>&1 &
        pid=$!
        while ! running; do
            if ! kill -0 "$pid" 2>/dev/null; then
                if [ "$attempt" = 1 ] && [ "$listen" != 127.0.0.1:0 ] && tail -1 "$data/weir.log" | grep -q "cannot listen"; then
                    listen=127.0.0.1:0
                    continue 2
                fi
                echo "weir did not start; the end of $data/weir.log:" >&2
                tail -20 "$data/weir.log" >&2
                exit 1
            fi
            if [ $(($(date +%s) - started)) -gt "$wait_s" ]; then
                echo "weir was not ready within $wait_s s; the end of $data/weir.log:" >&2
                tail -20 "$data/weir.log" >&2
                exit 1
            fi
            sleep 0.2
        done
        break
    done
    sed -n 's|.*"http": *"http://\([^"]*\)".*|\1|p' "$data/endpoints.json" >"$data/address"
fi
exec "$weir" hints --data "$data"
