#!/bin/sh
# Fetches Schemathesis, which makes requests from an OpenAPI document, and prints its program:
# tests/tests/openapi_fuzz.rs runs it against Weir.
#
# Safe to run again and to run twice at once: the folder appears complete or not at all, and a change
# of versions makes another one. WEIR_TOOLS chooses another folder than the cache.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=${WEIR_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
versions=$(cat "$here/schemathesis.sh" "$here/clients/schemathesis.txt" | sha256sum | cut -c1-12)
folder=$tools/schemathesis-$versions

# The program needs Python, wherever the folder is from.
missing=
command -v python3 >/dev/null 2>&1 || missing="python3"
if [ ! -d "$folder" ]; then
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="python3 python3-venv"
fi
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of packages
    "$here/apt.sh" $missing
fi

if [ ! -d "$folder" ]; then
    mkdir -p "$tools"
    # On the same file system as the target, so that the rename below is atomic.
    temporary=$(mktemp -d "$tools/.schemathesis.XXXXXX")
    trap 'rm -rf "$temporary"' EXIT
    trap 'exit 1' HUP INT TERM
    python3 -m venv "$temporary/schemathesis" >&2
    # Every package is in the list, with its version: nothing is looked for besides.
    "$temporary/schemathesis/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps -r "$here/clients/schemathesis.txt" >&2
    # Another run may have been faster: then its folder is there, and as good as ours.
    mv -T "$temporary/schemathesis" "$folder" 2>/dev/null || [ -d "$folder" ] || {
        echo "cannot move Schemathesis to $folder" >&2
        exit 1
    }
fi
# Its programs name the folder that they were made in, its Python does not.
echo "$folder/bin/python"
