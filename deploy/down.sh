#!/bin/sh
# Stops the `weir up` of a folder and waits until it has ended. Data stay. `make down` calls it.
#
#   deploy/down.sh DIR
set -eu

data=${1:-.weir}
pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$data/endpoints.json" 2>/dev/null) || pid=
program=$(readlink "/proc/${pid:-none}/exe" 2>/dev/null) || program=
case $program in
*/weir | */weir\ *) ;;
*)
    echo "weir does not run in $data"
    exit 0
    ;;
esac
kill "$pid"
# Draining takes at most 10 s, stopping the databases a little more.
count=0
while kill -0 "$pid" 2>/dev/null; do
    count=$((count + 1))
    if [ "$count" -gt 600 ]; then
        echo "weir (process $pid) has not ended after 60 s; see $data/weir.log" >&2
        exit 1
    fi
    sleep 0.1
done
echo "weir has stopped; its data are in $data"
