#!/bin/sh
# Makes a mistake on purpose, one at a time, and sees that a test catches it. `make test-planted` calls it.
#
#   deploy/planted.sh          # each mistake of domain/src/planted.rs
#   deploy/planted.sh 4b 11    # some of them
#
# The build has the feature `planted`; WEIR_PLANT chooses the mistake. Each test passes first without one.
set -eu

cd "$(dirname "$0")/.."
# Runs that fail on purpose are no part of the totals.
unset WEIR_FAULTS_OUT
folder=${CARGO_TARGET_DIR:-$PWD/target}/planted
features=cli/planted,tests/planted
walks=no_walk_loses_or_doubles_anything

# Number, test file, which test of it has to fail, and the mistake.
plants="\
1 ledger a_lost_answer_of_commit_posts_once the ledger's place moves in a transaction of its own
2 simulation $walks the table of duplicates is rebuilt with events that did not take their id
3 ingest every_form_says_the_same an event's time is part of what identifies it
4 simulation $walks a batch is accepted that begins at or before X + 1
4b simulation $walks the hash of the batch before is not compared
5 ingest a_log_that a request is answered before the log has its events
6 simulation $walks the slow lane's place is stored before its append is acknowledged
7 simulation $walks what a batch that was not accepted took stays taken
8 simulation $walks an amount is rounded twice
9 simulation $walks rejected events of a group without rated ones are not archived
10 tenancy nobody_reaches_what_is_not_theirs_by_any_route a question to the archive has no tenant
11 archive a_group_that_was_cut_anywhere an archiver that starts again cuts its groups anew
12 simulation $walks catalogs change where their version is first heard of, not at their marker
13 simulation $walks a verdict is believed however far the archive was
14 log_conformance every_acknowledgement_follows_a_sync_of_its_bytes the local log does not sync
15 ledger a_hold_pays_what_names_it what a hold reserves is freed without waiting for what was in the log
16 ledger of_two_settlements_at_once_one_is_stale a settlement does not compare its number, and locks no partition
17 ledger what_rests_on_the_credit_limit a hold takes an item on again at each settlement
18 simulation $walks a rater that starts takes running totals for zero
19 simulation $walks a correction is carried out however often it comes
20 simulation $walks what closes a period has another id each time
21 simulation $walks what is observed after the close of a period does not amend it
22 simulation $walks a reversal does not name the event that it takes back"

check() { # test file, which test of it
    cargo test --locked --workspace --features "$features" --test "$1" -- --test-threads 2 "$2"
}

# What the check said that failed: a panic's message, or the error that a test ended with.
reason() {
    sed -n -e '/panicked at/{n;p;q}' -e 's/^Error: //p' "$1" | head -1 | cut -c 1-120
}

deploy/setup/all.sh
mkdir -p "$folder"
cargo build --locked --workspace --features "$features" --bin weir
cargo test --locked --workspace --features "$features" --no-run
for sound in $(echo "$plants" | awk '{ print $2 "/" $3 }' | sort -u); do
    echo "== without a mistake: $sound"
    check "${sound%/*}" "${sound#*/}" >"$folder/sound.log" 2>&1 || {
        tail -60 "$folder/sound.log"
        echo "it fails without a mistake, and shows nothing" >&2
        exit 1
    }
    # A name that is no test's would pass, too.
    grep -q "test result: ok. [1-9]" "$folder/sound.log" || {
        echo "$sound runs no test" >&2
        exit 1
    }
done

missed=
report=
while read -r number test only mistake; do
    [ $# -eq 0 ] || case " $* " in *" $number "*) ;; *) continue ;; esac
    echo "== $number: $mistake"
    began=$(date +%s)
    log=$folder/$number.log
    if WEIR_PLANT=$number check "$test" "$only" >"$log" 2>&1 </dev/null; then
        caught="NOTHING CAUGHT IT"
        missed="$missed $number"
    else
        caught=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | paste -s -d' ')
        # A program that does not build or start is no catch.
        [ -n "$caught" ] || missed="$missed $number"
    fi
    line=$(printf '%-3s %4d s  %-16s %s: %s' "$number" $(($(date +%s) - began)) "$test" "$mistake" "$caught")
    echo "$line"
    [ "$caught" = "NOTHING CAUGHT IT" ] || echo "    $(reason "$log")"
    report="$report$line\n"
done <<PLANTS
$plants
PLANTS

echo
printf '%b' "$report"
# What is left in the folder of builds is a weir that makes no mistakes.
cargo build --locked --bin weir
[ -z "$missed" ] || {
    echo "not caught:$missed" >&2
    exit 1
}
