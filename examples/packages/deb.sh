#!/bin/bash
# Builds the Debian package of vfnic: the program, man pages, completions and the unit vfnic@.service. Prints the file.
#   deb.sh
# Needs cargo and cargo-deb (cargo install --locked cargo-deb). VFNIC_PROFILE=dev takes the debug build, to try the package quickly.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
profile=${VFNIC_PROFILE:-release}
cargo deb --version >/dev/null 2>&1 || { echo "deb.sh: needs cargo-deb (cargo install --locked cargo-deb)" >&2; exit 2; }
cargo build --locked --quiet --profile "$profile" -p vfnic
target=${CARGO_TARGET_DIR:-target}
program=$target/${profile/#dev/debug}/vfnic
rm -rf "$target/deb"
mkdir -p "$target/deb/man"
"$program" man "$target/deb/man"
gzip -9n "$target"/deb/man/*.1
for shell in bash zsh fish; do "$program" completions "$shell" >"$target/deb/vfnic.$shell"; done
gzip -9nc CHANGELOG.md >"$target/deb/changelog.gz"
cargo deb --locked --quiet --no-build --no-strip --profile "$profile" -p vfnic
