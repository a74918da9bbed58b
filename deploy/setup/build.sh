#!/bin/sh
# Installs what building Weir needs: a C compiler, tools, and the headers that librdkafka is built
# with. Rust it does not install: it says where to get it, or that it is too old. Does nothing where
# all of it is there. Debian and Ubuntu; needs root only to install.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)
missing=
need() { # package, then a command that succeeds where it is installed
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
need gcc command -v gcc
need g++ command -v g++
need make command -v make
need cmake command -v cmake
need perl command -v perl
need pkg-config command -v pkg-config
need curl command -v curl
need libssl-dev test -e /usr/include/openssl/ssl.h
need zlib1g-dev test -e /usr/include/zlib.h
need libc6-dev test -e /usr/include/stdio.h

if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of packages
    "$folder/apt.sh" $missing ca-certificates
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "there is no Rust; install it from https://rustup.rs and run this again" >&2
    exit 1
fi
wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$folder/../../Cargo.toml" | head -1)
found=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1)" != "$wanted" ]; then
    echo "Rust $found is too old; Weir needs $wanted: run rustup update" >&2
    exit 1
fi
echo "build tools: Rust $found"
