#!/bin/bash
# Builds the release of vfnic so that everybody who has the same sources and the same Rust gets the same bytes, wherever he builds: no
# path of the machine is in it. Prints the SHA-256.
#   build.sh            in this tree
#   build.sh --twice    in two folders of other names, and compares what comes out
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."

build() { # TREE: leaves target/release/vfnic there
    local home=${CARGO_HOME:-$HOME/.cargo}
    # Cargo does not count these in what it calls things by.
    (cd "$1" && env -u CARGO_TARGET_DIR -u CARGO_ENCODED_RUSTFLAGS \
        RUSTFLAGS="--remap-path-prefix=$PWD=vfnic --remap-path-prefix=$home=cargo" cargo build --locked --quiet --release -p vfnic)
}

case ${1:-} in
--twice)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for tree in one and-another; do
        mkdir "$work/$tree"
        git archive HEAD | tar -x -C "$work/$tree"
        build "$work/$tree"
        mv "$work/$tree/target/release/vfnic" "$work/$tree.vfnic"
        rm -rf "${work:?}/$tree"
    done
    cmp "$work"/*.vfnic
    sha256sum <"$work/one.vfnic"
    ;;
'')
    build "$PWD"
    sha256sum <target/release/vfnic
    ;;
*) echo "build.sh: $1: not possible; see its head" >&2; exit 2 ;;
esac
