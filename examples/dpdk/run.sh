#!/bin/bash
# DPDK as the guest: testpmd's virtio-user ports on two VFs pass frames round and round, in every layout of split and packed
# rings that DPDK has a driver path for; at rest, every frame sent must have been received. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options] [VARIANT ...]

Runs dpdk-testpmd with two virtio-user ports on two VFs of one emulated NIC, and checks that no frame is lost.
Installs Debian's dpdk when run as root; everything else goes to a temporary folder.

  --vfnic PROGRAM   use this binary; default: build this checkout with cargo
  --seconds N       how long frames go round in each run (default 2)
  --out DIR         keep logs there
  --list            name the variants
  --help            this text

Exit code: 0 everything that could run passed, 1 something did not, 2 something is missing.
USAGE
}

# NAME QUEUES DEVICE-OPTIONS RX-PATH: what DPDK's log must say that it uses, else the variant is not what its name says.
variants=(
    'standard      1 mrg_rxbuf=0,in_order=0              standard Rx path'
    'mergeable     1 mrg_rxbuf=1,in_order=0              mergeable buffer Rx path'
    'in-order      1 mrg_rxbuf=0,in_order=1              inorder Rx path'
    'in-order-mrg  1 mrg_rxbuf=1,in_order=1              inorder Rx path'
    'vectorized    1 mrg_rxbuf=0,in_order=0,vectorized=1 vectorized Rx path'
    'standard-4    4 mrg_rxbuf=0,in_order=0              standard Rx path'
    'mergeable-4   4 mrg_rxbuf=1,in_order=0              mergeable buffer Rx path'
    'in-order-4    4 mrg_rxbuf=0,in_order=1              inorder Rx path'
    'vectorized-4  4 mrg_rxbuf=0,in_order=0,vectorized=1 vectorized Rx path'
    'packed               1 packed_vq=1,mrg_rxbuf=0,in_order=0              packed ring standard Rx path'
    'packed-mergeable     1 packed_vq=1,mrg_rxbuf=1,in_order=0              packed ring mergeable buffer Rx path'
    'packed-in-order      1 packed_vq=1,mrg_rxbuf=0,in_order=1              packed ring standard Rx path'
    'packed-in-order-mrg  1 packed_vq=1,mrg_rxbuf=1,in_order=1              packed ring mergeable buffer Rx path'
    'packed-vectorized    1 packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1 packed ring vectorized Rx path'
    'packed-4             4 packed_vq=1,mrg_rxbuf=0,in_order=0              packed ring standard Rx path'
    'packed-mergeable-4   4 packed_vq=1,mrg_rxbuf=1,in_order=0              packed ring mergeable buffer Rx path'
    'packed-vectorized-4  4 packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1 packed ring vectorized Rx path'
)

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
vfnic=${VFNIC:-} seconds=2 out='' chosen=()
mac=(02:00:00:00:0d:00 02:00:00:00:0d:01)

fail() { # MESSAGE: what is missing; nothing can be done about it here
    printf 'dpdk: %s\n' "$1" >&2
    exit 2
}

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --list) printf '%s\n' "${variants[@]}" | awk '{ print $1 }'; exit 0 ;;
    --vfnic | --seconds | --out) (($# > 1)) || fail "$1 needs a value" ;;
    -*) fail "unknown option $1 (see --help)" ;;
    *)
        printf '%s\n' "${variants[@]}" | grep -q "^$1 " || fail "no variant $1 (see --list)"
        chosen+=("$1"); shift; continue ;;
    esac
    case $1=$2 in
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --seconds=[1-9] | --seconds=[1-9][0-9]) seconds=$2 ;;
    --out=?*) out=$2 ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

if ! type -P dpdk-testpmd >/dev/null; then
    if ((EUID != 0)) || ! type -P apt-get >/dev/null; then fail 'needs dpdk-testpmd: apt-get install dpdk-dev'; fi
    echo 'installing dpdk-dev' >&2
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends dpdk-dev; } >/dev/null 2>&1
    type -P dpdk-testpmd >/dev/null || fail 'apt-get cannot install dpdk-dev'
fi
if [[ -z $vfnic ]]; then
    root=$(realpath "$here/../..")
    vfnic=${CARGO_TARGET_DIR:-$root/target}/release/vfnic
    if type -P cargo >/dev/null; then
        cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vfnic || fail 'vfnic does not build'
    fi
fi
[[ -x $vfnic ]] || fail 'needs cargo (https://rustup.rs) to build vfnic, or --vfnic PROGRAM'

run=$(mktemp -d "${TMPDIR:-/tmp}/vfnic-dpdk.XXXXXX") nic=''
finish() {
    [[ -z $nic ]] || { kill "$nic"; wait "$nic"; } 2>/dev/null
    [[ -z $out ]] || { mkdir -p "$out" && cp "$run"/*.log "$out"; }
    rm -rf "$run"
}
trap finish EXIT
trap 'exit 1' INT TERM

# Guest memory: huge pages where 256 MB of them are free, else ordinary ones.
memory=(--no-huge -m 256)
if awk '/^HugePages_Free/ { n = $2 } /^Hugepagesize/ { kb = $2 } END { exit !(n * kb >= 262144) }' /proc/meminfo; then
    memory=(--in-memory --single-file-segments -m 256)
fi
cores="0-$(($(nproc) - 1))"

ask() { "$vfnic" --ctl "$run/ctl.sock" "$@"; }

start_nic() { # LOG
    "$vfnic" run --quiet --queue-pairs 4 --socket-dir "$run" --mac-base "${mac[0]}" </dev/null >"$1" 2>&1 &
    nic=$!
    local n
    for ((n = 0; n < 200; n++)); do
        ask show >/dev/null 2>&1 && return
        kill -0 "$nic" 2>/dev/null || break
        sleep 0.05
    done
    fail "vfnic does not start: $(tail -n 1 "$1")"
}

stop_nic() {
    kill "$nic" && wait "$nic"
    nic=''
}

set_paths() { ask vf 0 set path "$1" && ask vf 1 set path "$2"; } # PATH PATH

# What testpmd is told. Each port sends bursts of 32 to the other, then sends on what the other has received: the same frames
# go round for ever, never more than half a ring of them. At the end the ports only receive, until all have arrived.
conversation() { # QUEUES PATHS LOG
    local n bursts=4 until=$((SECONDS + 30))
    until grep -qs 'testpmd>' "$3"; do
        ((SECONDS < until)) || return
        sleep 0.1
    done
    # DPDK enables its rings without waiting for an answer, and a back end must discard what it finds in a ring that is not
    # enabled yet: give the last of those messages time to arrive.
    sleep 0.5
    (($1 == 1)) || bursts=1
    echo "start tx_first $bursts"
    if [[ $2 == switching ]]; then
        until=$((SECONDS + seconds))
        for ((n = 0; SECONDS < until; n++)); do
            case $((n % 4)) in
            0) ask vf 0 set path mediated ;;
            1) ask vf 1 set path mediated ;;
            2) ask vf 0 set path direct ;;
            3) ask vf 1 set path direct ;;
            esac || return
            sleep 0.02
        done
    else
        sleep "$seconds"
    fi
    printf '%s\n' stop 'set fwd rxonly' start
    sleep 1
    printf '%s\n' stop 'show port stats all' quit
}

statistic() { # LOG PORT NAME: from the last "show port stats"
    awk -v port="$2" -v name="$3:" '
        /NIC statistics for port/ { at = $6 }
        at == port { for (i = 1; i < NF; i++) if ($i == name) value = $(i + 1) }
        END { print value + 0 }' "$1"
}

# Sets verdict and reason.
try() { # NAME QUEUES DEVICE-OPTIONS RX-PATH PATHS SIZE
    local name=$1 queues=$2 options=$3 rx_path=$4 paths=$5 size=$6 log ports=() n
    log=$run/$name-$paths-$size.log
    verdict=FAIL reason=''
    start_nic "$run/vfnic-$name-$paths-$size.log"
    if [[ $paths != switching ]] && ! set_paths "${paths%,*}" "${paths#*,}"; then
        reason='vfnic refuses the path'
        stop_nic
        return
    fi
    for n in 0 1; do
        ports+=("--vdev=net_virtio_user$n,path=$run/vf$n.sock,mac=${mac[n]},queues=$queues,queue_size=256,$options")
    done
    # shellcheck disable=SC2094 # it reads the log while testpmd writes it: that is its half of the conversation
    conversation "$queues" "$paths" "$log" | timeout $((seconds + 60)) dpdk-testpmd --lcores "0@($cores),1@($cores)" "${memory[@]}" \
        --no-pci --no-telemetry --no-shconf --force-max-simd-bitwidth=512 --file-prefix="vfnic$$" --log-level=pmd.net.virtio.init:info "${ports[@]}" -- \
        -i --nb-cores=1 --total-num-mbufs=16384 --forward-mode=io --rxq="$queues" --txq="$queues" \
        --rxd=256 --txd=256 --burst=32 --txpkts="$size" --txonly-multi-flow --eth-peer="0,${mac[1]}" --eth-peer="1,${mac[0]}" >"$log" 2>&1
    local status=$? dropped sent=() got=() errors=0
    dropped=$(ask show drops 2>/dev/null | awk '$2 == "vf" { print $2, $3, $4, $5, $6 }' | paste -sd, -)
    kill -0 "$nic" 2>/dev/null || { reason='vfnic has ended'; nic=''; return; }
    stop_nic
    if ((status != 0)); then
        reason="testpmd: exit code $status: $(grep -iE 'error|fail|cannot|panic' "$log" | head -n 1)"
        return
    fi
    if (($(grep -c "using .*$rx_path on port" "$log") < 2)); then
        verdict=SKIP reason="this DPDK takes another path: $(grep -o 'using .*Rx path' "$log" | head -n 1)"
        return
    fi
    for n in 0 1; do
        sent[n]=$(statistic "$log" "$n" TX-packets)
        got[n]=$(statistic "$log" "$n" RX-packets)
        errors=$((errors + $(statistic "$log" "$n" RX-errors) + $(statistic "$log" "$n" TX-errors)))
    done
    reason="${sent[0]} frames there, ${sent[1]} back"
    if ((sent[0] != got[1] || sent[1] != got[0])); then
        reason+="; received ${got[1]} there, ${got[0]} back; vfnic: ${dropped:-nothing dropped}"
    elif ((sent[0] <= 256 || sent[1] <= 256)); then
        reason+='; too few: frames did not go round'
    elif ((errors > 0)); then
        reason+="; $errors errors"
    elif [[ -n $dropped ]]; then
        reason+="; vfnic: $dropped"
    else
        verdict=PASS
    fi
}

version=$(dpkg-query -W -f '${Version}' dpdk 2>/dev/null)
echo "DPDK${version:+ $version}, memory: ${memory[*]}, $seconds s a run"
declare -A count=([PASS]=0 [FAIL]=0 [SKIP]=0)
for variant in "${variants[@]}"; do
    read -r name queues options rx_path <<<"$variant"
    ((${#chosen[@]} == 0)) || [[ " ${chosen[*]} " == *" $name "* ]] || continue
    for paths in direct,direct mediated,mediated switching; do
        for size in 64 1514; do
            try "$name" "$queues" "$options" "$rx_path" "$paths" "$size"
            printf '%-4s  %-19s  %-17s  %4d B  %s\n' "$verdict" "$name" "$paths" "$size" "$reason"
            ((++count[$verdict]))
        done
    done
done
printf '%d passed, %d failed, %d skipped\n' "${count[PASS]}" "${count[FAIL]}" "${count[SKIP]}"
((count[FAIL] == 0))
