#!/bin/sh
# What Weir is made of: dependencies by licence and source (deny.toml), those that nobody uses, and
# a list of all of them (CycloneDX) in target/sbom.json. `make supply-chain` calls it.
set -eu

cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v cargo-deny >/dev/null 2>&1 || cargo install --locked cargo-deny --version 0.20.2
command -v cargo-machete >/dev/null 2>&1 || cargo install --locked cargo-machete --version 0.9.2

cargo metadata --locked --format-version 1 >/dev/null
cargo deny --locked --offline check bans licenses sources
cargo machete
output=${CARGO_TARGET_DIR:-target}/sbom.json
cargo run --locked --quiet --bin sbom >"$output"
echo "$output: $(grep -c '"purl"' "$output") packages"
