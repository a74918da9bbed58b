#!/bin/sh
# Installs Debian packages without asking anything. The other scripts call it with what they have
# found missing; of `one|other` it takes the first that this release of Debian or Ubuntu has.
#
#   deploy/setup/apt.sh cmake 'openjdk-17-jre-headless|openjdk-21-jre-headless'
#
# Needs root, or sudo. Everything it says goes to stderr, because its callers print results.
set -eu
exec >&2

if ! command -v apt-get >/dev/null 2>&1; then
    echo "there is no apt-get here; install these yourself: $*"
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "packages are missing, and this is not root; run as root: $0 $*"
        exit 1
    fi
    as_root=sudo
fi

run_apt() {
    # sudo passes no environment on, so the setting stands behind it. needrestart asks on Ubuntu.
    $as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

chosen() { # prints the packages, one of each group of alternatives
    for group in "$@"; do
        for package in $(echo "$group" | tr '|' ' '); do
            candidate=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: *//p')
            case $candidate in '' | '(none)') ;; *) break ;; esac
        done
        echo "$package"
    done
}

install_packages() {
    # A package source that is away must not keep those of the others from being installed.
    run_apt update || echo "cannot update the lists of packages; going on with those that are there"
    # The settings of a package may be there before it: they are kept.
    # shellcheck disable=SC2046 # a list of packages
    run_apt -o Dpkg::Options::=--force-confold install -y --no-install-recommends $(chosen "$@")
}

# The timeout above is for one of apt's locks. It gives up at once on the others, which the machine's own
# updates hold after a start.
attempt=1
until install_packages "$@"; do
    if [ "$attempt" -eq 4 ]; then
        echo "cannot install: $*"
        exit 1
    fi
    echo "trying again in $((attempt * 5)) s"
    sleep $((attempt * 5))
    attempt=$((attempt + 1))
done
