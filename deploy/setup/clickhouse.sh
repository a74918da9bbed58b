#!/bin/sh
# Fetches libchdb, the ClickHouse engine as one shared library, and prints the path of libchdb.so.
# `weir up` and the tests run it in a child process where no ClickHouse server is configured.
#
# Safe to run again and to run twice at once: the library appears under its final name complete
# or not at all. WEIR_TOOLS chooses another folder than the cache.
set -eu

PACKAGE=@chdb/lib-linux-x64-gnu
VERSION=26.7.3-stable.1
# Of the package's archive; the newest version that passes tests/tests/clickhouse_engine.rs.
SHA256=c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad

tools=${WEIR_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
folder=$tools/chdb-$VERSION
library=$folder/libchdb.so

if [ -s "$library" ]; then
    echo "$library"
    exit 0
fi

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    echo "libchdb is fetched for Linux on x86-64 only; set WEIR_LIBCHDB to your own build" >&2
    exit 1
fi

command -v npm >/dev/null 2>&1 || "$(dirname "$0")/apt.sh" nodejs npm

mkdir -p "$tools"
# On the same file system as the target, so that the rename below is atomic.
temporary=$(mktemp -d "$tools/.chdb.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
trap 'exit 1' HUP INT TERM

(cd "$temporary" && npm pack --silent "$PACKAGE@$VERSION" >/dev/null)
archive=$(find "$temporary" -maxdepth 1 -name '*.tgz')
echo "$SHA256  $archive" | sha256sum -c - >/dev/null || {
    echo "the archive of $PACKAGE@$VERSION is not the one this script was written for" >&2
    exit 1
}

mkdir "$temporary/unpacked"
tar -xzf "$archive" -C "$temporary/unpacked" --strip-components=1 package/libchdb.so
chmod 0755 "$temporary/unpacked" "$temporary/unpacked/libchdb.so"

# Another run may have been faster: then its folder is there, and as good as ours.
mv -T "$temporary/unpacked" "$folder" 2>/dev/null || [ -s "$library" ] || {
    echo "cannot move libchdb.so to $folder" >&2
    exit 1
}
echo "$library"
