#!/bin/sh
# Fetches clients of other systems, as they are published, and prints the folder that holds them:
# tests/tests/clients.rs runs them against Weir.
#
#   python/bin/python     OpenMeter's, Lago's and CloudEvents' SDKs, versions in clients/python.txt
#   litellm/bin/python    LiteLLM, versions in clients/litellm.txt
#   node/node_modules     OpenMeter's, Lago's and CloudEvents' SDKs for JavaScript, versions below
#
# Safe to run again and to run twice at once: the folder appears complete or not at all, and a change
# of versions makes another one. WEIR_TOOLS chooses another folder than the cache.
set -eu

OPENMETER=1.0.0-beta.232
LAGO=1.53.0
CLOUDEVENTS=10.0.0

here=$(cd "$(dirname "$0")" && pwd)
tools=${WEIR_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
versions=$(cat "$here/clients.sh" "$here/clients/python.txt" "$here/clients/litellm.txt" | sha256sum | cut -c1-12)
folder=$tools/clients-$versions

# The clients themselves need these, wherever the folder is from.
missing=
command -v python3 >/dev/null 2>&1 || missing="python3"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
if [ ! -d "$folder" ]; then
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3 python3-venv"
    command -v npm >/dev/null 2>&1 || missing="$missing npm"
fi
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of packages
    "$here/apt.sh" $missing
fi
if [ -d "$folder" ]; then
    echo "$folder"
    exit 0
fi

mkdir -p "$tools"
# On the same file system as the target, so that the rename below is atomic.
temporary=$(mktemp -d "$tools/.clients.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
trap 'exit 1' HUP INT TERM

for environment in python litellm; do
    python3 -m venv "$temporary/clients/$environment" >&2
    # Every package is in the list, with its version: nothing is looked for besides.
    "$temporary/clients/$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps -r "$here/clients/$environment.txt" >&2
done
mkdir "$temporary/clients/node"
npm install --silent --no-audit --no-fund --prefix "$temporary/clients/node" \
    "@openmeter/sdk@$OPENMETER" "lago-javascript-client@$LAGO" "cloudevents@$CLOUDEVENTS" >&2

# Another run may have been faster: then its folder is there, and as good as ours.
mv -T "$temporary/clients" "$folder" 2>/dev/null || [ -d "$folder" ] || {
    echo "cannot move the clients to $folder" >&2
    exit 1
}
echo "$folder"
