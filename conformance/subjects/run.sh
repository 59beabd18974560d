#!/usr/bin/env bash
# Judges back ends and front ends with vf-conformance, and writes docs/subjects.md: what not all of them pass.
#
#   conformance/subjects/run.sh [NAME...]     without a name all: vfnic stock testpmd ovs passt cloud-hypervisor bridge,
#                                             and of front ends qemu newer-qemu uml virtio-user
#
# BRIDGE_VERSION and CLOUD_HYPERVISOR_VERSION say what those programs are, which do not say it themselves.
# Findings go to results/NAME.jsonl beside this script; the page is made of all that are there. What a back end needs is
# installed with apt-get where that can be (as root); else it is skipped, and the reason is said.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
all=(vfnic stock testpmd ovs passt cloud-hypervisor bridge qemu newer-qemu uml virtio-user)
names=("$@")
[ $# -gt 0 ] || names=("${all[@]}")

cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vfnic -p vf-conformance --bins
cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vf-conformance --example stock-backend
suite=$target/release/vf-conformance
run=$(mktemp -d "${TMPDIR:-/tmp}/vf-subjects.XXXXXX")
trap 'rm -rf "$run"' EXIT
mkdir -p "$here/results/front"
today=$(date -u +%F)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfnic

skip() { echo "skipped: $1, because $2"; }

judge() { # NAME TITLE OPTIONS...
    echo "== $2"
    "$suite" run --name "$2" --json "$here/results/$1.jsonl" --timeout 30 "${@:3}" >"$run/$1.log" || true
    tail -n 3 "$run/$1.log"
}

front() { # NAME TITLE
    echo "== $2"
    "$suite" front-end --name "$2" --json "$here/results/front/$1.jsonl" --listen "$run/$1.sock" --start "'$here/${script:-$1}.sh' {socket}" >"$run/$1.log" || true
    tail -n 3 "$run/$1.log"
}

# Whether PROGRAM is there, or comes with a Debian PACKAGE.
have() { # PROGRAM PACKAGE
    if ! command -v "$1" >/dev/null && [ -n "$2" ] && [ "$(id -u)" = 0 ]; then
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; } >/dev/null 2>&1 || true
    fi
    command -v "$1" >/dev/null
}

# The version of a Debian package, without its epoch.
version() {
    local version
    version=$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null) || version="of unknown version"
    echo "${version#*:}"
}

for name in "${names[@]}"; do
    case $name in
    vfnic)
        title=$("$target/release/vfnic" --version)
        VFNIC=$target/release/vfnic judge vfnic "$title, $today" --socket "$run/vf0.sock" --peer-socket "$run/vf1.sock" \
            --socket "$run/vf2.sock" --peer-socket "$run/vf3.sock" \
            --start "'$target/release/vfnic' run --vfs 4 --no-state --socket-dir '$run'" \
            --control "'$here/vfnic-control' --ctl '$run/ctl.sock' 0 1 2 3"
        ;;
    stock)
        title=$(sed -n 's/^vhost-user-backend = "\(.*\)"$/\1/p' "$root/conformance/Cargo.toml")
        judge stock "vhost-user-backend $title (echo), $today" --socket "$run/stock.sock" \
            --start "'$target/release/examples/stock-backend' {socket}"
        ;;
    testpmd)
        have dpdk-testpmd dpdk || { skip testpmd "dpdk-testpmd is not installed (apt-get install dpdk)"; continue; }
        judge testpmd "DPDK testpmd $(version dpdk) (io), $today" --settle 100 --socket "$run/a.sock" --peer-socket "$run/b.sock" \
            --start "'$here/testpmd.sh' {socket} {peer}"
        ;;
    ovs)
        switch=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
        have $switch openvswitch-switch-dpdk || { skip ovs "it is not installed (apt-get install openvswitch-switch-dpdk)"; continue; }
        mkdir -p "$run/ovs"
        judge ovs "Open vSwitch $(version openvswitch-switch-dpdk) with DPDK, $today" \
            --settle 250 --socket "$run/ovs/a.sock" --peer-socket "$run/ovs/b.sock" --start "'$here/ovs.sh' {socket} {peer}"
        ;;
    passt)
        have passt passt || { skip passt "it is not installed (apt-get install passt)"; continue; }
        title=$(passt --version | head -n 1)
        passt --help 2>&1 | grep -q vhost-user || { skip passt "$title has no vhost-user"; continue; }
        judge passt "$title, $today" --single-session --socket "$run/passt.sock" --start "'$here/passt.sh' {socket}"
        ;;
    cloud-hypervisor)
        have vhost_user_net "" || { skip cloud-hypervisor "vhost_user_net is not in PATH (cargo build --release in cloud-hypervisor's vhost_user_net)"; continue; }
        judge cloud-hypervisor "cloud-hypervisor vhost_user_net${CLOUD_HYPERVISOR_VERSION:+ ($CLOUD_HYPERVISOR_VERSION)}, $today" --socket "$run/ch.sock" \
            --start "'$here/cloud-hypervisor.sh' {socket}"
        ;;
    bridge)
        have vhost-user-bridge "" || { skip bridge "vhost-user-bridge is not in PATH (ninja contrib/... tests/vhost-user-bridge in QEMU's sources)"; continue; }
        judge bridge "libvhost-user's vhost-user-bridge${BRIDGE_VERSION:+ ($BRIDGE_VERSION)}, $today" --single-session --socket "$run/bridge.sock" --start "'$here/bridge.sh' {socket}"
        ;;
    qemu)
        have qemu-system-x86_64 qemu-system-x86 || { skip qemu "it is not installed (apt-get install qemu-system-x86)"; continue; }
        front qemu "QEMU $(version qemu-system-x86) (iPXE), $today"
        ;;
    newer-qemu)
        newer=$cache/newer-qemu/qemu-system-x86_64
        [ -x "$newer" ] || { skip newer-qemu "it has not been unpacked (examples/real-drivers/run.sh does)"; continue; }
        title=$("$newer" --version | sed -n 's/^QEMU emulator version \([^ ]*\).*/\1/p')
        QEMU=$newer script=qemu front newer-qemu "QEMU $title (iPXE), $today"
        ;;
    uml)
        [ -x "$cache/linux-guests-built/linux" ] || { skip uml "there is no kernel (examples/linux-guests/build.sh)"; continue; }
        title=$("$cache/linux-guests-built/linux" --version)
        front uml "User-Mode Linux $title, $today"
        ;;
    virtio-user)
        have dpdk-testpmd dpdk || { skip virtio-user "dpdk-testpmd is not installed (apt-get install dpdk)"; continue; }
        front virtio-user "DPDK virtio-user $(version dpdk) (testpmd), $today"
        ;;
    *)
        echo "run.sh: there is no subject $name: ${all[*]}" >&2
        exit 2
        ;;
    esac
done
page=$root/docs/subjects.md
sed '/^<!-- table -->$/q' "$here/page.md" >"$run/page.md"
shopt -s nullglob
for half in back front; do
    files=("$here"/results/*.jsonl)
    [ $half = back ] || files=("$here"/results/front/*.jsonl)
    [ ${#files[@]} -gt 0 ] || continue
    printf '\n## %s ends\n\n' "${half^}" >>"$run/page.md"
    "$suite" table "${files[@]}" >>"$run/page.md"
done
mv "$run/page.md" "$page"
echo "docs/subjects.md"
