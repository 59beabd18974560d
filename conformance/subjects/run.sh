#!/usr/bin/env bash
# Judges back ends with vf-conformance, and prints a table of what not all of them pass.
#
#   conformance/subjects/run.sh [NAME...]     vfnic, stock, testpmd; without a name all
#
# Findings go to results/NAME.jsonl beside this script. What a back end needs is
# installed with apt-get where that can be (as root); else it is skipped, and the reason is said.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
names=("$@")
[ $# -gt 0 ] || names=(vfnic stock testpmd)

cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vfnic -p vf-conformance --bins
cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vf-conformance --example stock-backend
suite=$target/release/vf-conformance
run=$(mktemp -d "${TMPDIR:-/tmp}/vf-subjects.XXXXXX")
trap 'rm -rf "$run"' EXIT
mkdir -p "$here/results"

skip() { echo "skipped: $1, because $2"; }

judge() { # NAME TITLE OPTIONS...
    echo "== $2"
    "$suite" run --name "$2" --json "$here/results/$1.jsonl" "${@:3}" >"$run/$1.log" || true
    tail -n 3 "$run/$1.log"
}

today=$(date -u +%F)
for name in "${names[@]}"; do
    case $name in
    vfnic)
        title=$("$target/release/vfnic" --version)
        judge vfnic "$title, $today" --socket "$run/vf0.sock" --peer-socket "$run/vf1.sock" \
            --start "'$target/release/vfnic' run --vfs 2 --no-state --socket-dir '$run'"
        ;;
    stock)
        title=$(sed -n 's/^vhost-user-backend = "\(.*\)"$/\1/p' "$root/conformance/Cargo.toml")
        judge stock "vhost-user-backend $title (echo), $today" --socket "$run/stock.sock" \
            --start "'$target/release/examples/stock-backend' {socket}"
        ;;
    testpmd)
        if ! command -v dpdk-testpmd >/dev/null && [ "$(id -u)" = 0 ]; then
            { apt-get update -qq && apt-get install -y -qq dpdk; } >/dev/null 2>&1 || true
        fi
        if ! command -v dpdk-testpmd >/dev/null; then
            skip testpmd "dpdk-testpmd is not installed (apt-get install dpdk)"
            continue
        fi
        title=$(dpkg-query -W -f '${Version}' dpdk 2>/dev/null || true)
        judge testpmd "DPDK testpmd ${title%%-*} (io), $today" --socket "$run/a.sock" --peer-socket "$run/b.sock" \
            --start "'$here/testpmd.sh' {socket} {peer}"
        ;;
    *)
        echo "run.sh: there is no subject $name: vfnic, stock, testpmd" >&2
        exit 2
        ;;
    esac
done
"$suite" table "$here"/results/*.jsonl
