#!/bin/bash
# Builds the Debian package of vfnic: the program, man pages, completions and the unit vfnic@.service. Prints the file.
#   deb.sh
# Needs cargo and cargo-deb (cargo install --locked cargo-deb).
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
unset CARGO_TARGET_DIR # the list of what goes in names files below target
cargo deb --version >/dev/null 2>&1 || { echo "deb.sh: needs cargo-deb (cargo install --locked cargo-deb)" >&2; exit 2; }
examples/packages/build.sh >/dev/null
rm -rf target/deb
mkdir -p target/deb/man
target/release/vfnic man target/deb/man
gzip -9n target/deb/man/*.1
for shell in bash zsh fish; do target/release/vfnic completions "$shell" >"target/deb/vfnic.$shell"; done
gzip -9nc CHANGELOG.md >target/deb/changelog.gz
cargo deb --locked --quiet --no-build -p vfnic
