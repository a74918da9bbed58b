#!/bin/sh
# Installs everything that building, running and testing Weir needs on one machine. Safe to run
# again; does nothing where all of it is there.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)
"$folder/tools.sh"
"$folder/downloads.sh"
