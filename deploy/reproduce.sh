#!/bin/sh
# Builds `weir` for release twice, from nothing, and compares the programs byte by byte: what is
# shipped can be made again from its sources. `make reproduce` calls it; it takes two full builds.
set -eu

cd "$(dirname "$0")/.."
profile=${1:-release}
folder=${CARGO_TARGET_DIR:-$PWD/target}/reproduce
# The allocator's C source writes down when it was compiled; compilers take the time from here.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"
for number in 1 2; do
    rm -rf "$folder/build"
    # C compilers write down the folder, so it is the same one both times.
    CARGO_TARGET_DIR="$folder/build" cargo build --locked --profile "$profile" --bin weir
    built=$profile
    [ "$profile" = dev ] && built=debug
    cp "$folder/build/$built/weir" "$folder/weir-$number"
done
sha256sum "$folder/weir-1" "$folder/weir-2"
cmp "$folder/weir-1" "$folder/weir-2"
rm -rf "$folder/build"
echo "both builds are the same"
