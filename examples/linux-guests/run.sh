#!/bin/bash
# Two real Linux guests on two emulated NICs, in virtual time: TCP over a 10 Gb/s link at exactly its rate, and the same to
# the bit in every run. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options]

Boots pairs of Linux guests on two NICs joined by a wire, all of it in virtual time, and runs iperf3 between them.

  --pairs N         pairs of guests (1 to 8, default 1)
  --args ARGUMENTS  of iperf3 -c (default '-t 1')
  --mtu BYTES       the guests' MTU (default 1500)
  --rate RATE       of the wire (default 10G)
  --path PATH       direct or mediated (default direct)
  --repeat N        so many runs, which must have the same digest (default 2)
  --vfnic PROGRAM   use this binary; default: build this checkout with cargo
  --out DIR         keep logs and results there
  --help            this text; arguments behind -- go to vfnic run

Exit code: 0 everything worked, 1 something did not, 2 something is missing.
USAGE
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
pairs=1 arguments='-t 1' mtu=1500 rate=10G path=direct repeat=2 vfnic=${VFNIC:-} out=

fail() { # CODE MESSAGE
    printf 'linux-guests: %s\n' "$2" >&2
    exit "$1"
}

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --) shift; break ;;
    --pairs | --args | --mtu | --rate | --path | --repeat | --vfnic | --out) (($# > 1)) || fail 2 "$1 needs a value" ;;
    *) fail 2 "unknown option $1 (see --help)" ;;
    esac
    case $1=$2 in
    --pairs=[1-8]) pairs=$2 ;;
    --args=?*) arguments=$2 ;;
    --mtu=[1-9]*) mtu=$2 ;;
    --rate=?*) rate=$2 ;;
    --path=direct | --path=mediated) path=$2 ;;
    --repeat=[1-9]) repeat=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --out=?*) out=$(realpath -m "$2") ;;
    *) fail 2 "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

if [[ -z $vfnic ]]; then
    root=$(realpath "$here/../..")
    type -P cargo >/dev/null || fail 2 "needs cargo (https://rustup.rs) to build vfnic, or --vfnic PROGRAM"
    cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vfnic || fail 1 "vfnic does not build"
    vfnic=${CARGO_TARGET_DIR:-$root/target}/release/vfnic
fi
image=$("$here/build.sh") || exit

run=$(mktemp -d "${TMPDIR:-/tmp}/linux-guests.XXXXXX")
groups=()
end_guests() { # by group: a guest has helpers, which keep its sockets open
    local group
    for group in "${groups[@]}"; do kill -KILL -- "-$group" 2>/dev/null; done
    groups=()
}
end_everything() {
    end_guests
    cd / || return
    if [[ -n $out ]]; then mkdir -p "$out" && find "$run" -type f -exec cp --parents -t "$out" {} + 2>/dev/null; fi
    rm -rf "$run"
}
trap end_everything EXIT
trap 'exit 1' INT TERM HUP

# The guests' memory is a file, and a NIC takes none on a disk: in /dev/shm, unless that is as small as in a container.
memory=/dev/shm
if ! (($(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) > 700000 * pairs)) 2>/dev/null; then
    memory=$run
    [[ $(stat --file-system --format %T "$run") == tmpfs ]] ||
        fail 2 "no tmpfs has room for the guests: make /dev/shm larger (mount -o remount,size=${pairs}G /dev/shm), or set TMPDIR to a folder on another"
fi
# Waking another CPU for each turn costs more than it gives: everything is on one.
pin=(); type -P taskset >/dev/null && pin=(taskset -c "$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')")

# NAME ID ADDRESS SCRIPT: a guest, in the folder that is current. All that is on its command line goes into its random numbers,
# so names are short, fixed and relative; and its addresses are not to be random either (setarch -R).
boot() {
    local name=$1 id=$2
    mkdir "$name" && printf '%s\n' "$4" >"$name/script" && touch -d @0 "$name/script"
    cp initramfs.gz "$name.initramfs"
    truncate -s %4 "$name.initramfs"
    (cd "$name" && echo script | cpio --create --format newc --quiet --reproducible) >>"$name.initramfs"
    TMPDIR=$memory setsid "${pin[@]}" setarch -R ./linux mem=256M "initrd=$name.initramfs" uml_dir=uml "umid=$name" "uml-seed=$id" \
        con=null con0=null,fd:2 ssl=null ssl1=null,fd:1 quiet panic=-1 "time-travel=ext:$id:calendar" \
        "virtio_uml.device=$name.sock:1" "guest.mtu=$mtu" "guest.ip=$3" </dev/null >"$name.result" 2>"$name.console" &
    groups+=($!)
    disown
}

simulate() { # FOLDER VFNIC-ARGUMENTS...
    local pair nic process until
    mkdir -p "$1" && cd "$1" || return 1
    shift
    ln -s "$image/linux" linux
    ln -s "$image/initramfs.gz" initramfs.gz
    {
        echo 'socket_dir = "."'
        for nic in a b; do
            printf '[[nic]]\nname = "%s"\nvfs = %d\nmac_base = "02:00:00:00:0%s:00"\nmtu = %d\n' "$nic" "$pairs" "$nic" "$mtu"
            for ((pair = 0; pair < pairs; pair++)); do
                printf '[[nic.vf]]\nindex = %d\nsocket = "%s%d.sock"\npath = "%s"\n' "$pair" "$nic" "$pair" "$path"
            done
        done
        printf '[[wire]]\nbetween = ["a", "b"]\nrate = "%s"\n[hypervisor]\ncpu = "model"\n' "$rate"
    } >nics.toml
    setsid "${pin[@]}" "$vfnic" run --config nics.toml --clock virtual --calendar calendar --wait-for $((2 * pairs)) --digest "$@" \
        </dev/null >summary 2>vfnic.log &
    process=$!
    groups+=("$process")
    until=$((SECONDS + 10))
    until [[ -S calendar ]]; do
        if ! kill -0 "$process" 2>/dev/null || ((SECONDS >= until)); then
            cat vfnic.log >&2
            return 1
        fi
        sleep 0.02
    done
    for ((pair = 0; pair < pairs; pair++)); do
        boot "a$pair" $((2 * pair + 1)) "10.9.$pair.1/24" 'iperf3 -s -1'
        # The server is up after a second; to wait for it costs nothing.
        boot "b$pair" $((2 * pair + 2)) "10.9.$pair.2/24" "sleep 1; ping -c 3 -i 0.2 10.9.$pair.1; iperf3 -c 10.9.$pair.1 $arguments"
    done
    wait "$process" || { grep -a ' WARN\|^vfnic:' vfnic.log >&2; return 1; }
    for ((pair = 0; pair < pairs; pair++)); do
        grep -qax 'exit 0' "b$pair.result" || { echo "guest b$pair: $(tail -n 3 "b$pair.result")" >&2; return 1; }
        printf 'pair %d: %s\n' "$pair" "$(grep -a 'receiver' "b$pair.result" | sed 's/ *receiver.*//; s/.*sec  *//' | paste -sd ' ')"
    done
    cat summary
}

for ((n = 1; n <= repeat; n++)); do
    simulate "$run/$n" "$@" || fail 1 "run $n failed${out:+, see $out}"
    sed -n 's/.*digest //p' summary >digest
    end_guests
    cmp -s "$run/1/digest" "$run/$n/digest" || fail 1 "runs 1 and $n differ"
done
((repeat == 1)) || echo "$repeat runs, the same to the bit"
