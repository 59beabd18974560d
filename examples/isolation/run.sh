#!/bin/bash
# What two guests notice of a third that does its worst to the same NIC, beside the same abuse of another NIC on the same CPU. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options] [ABUSE ...]

Two vfnic run on one CPU. Two VFs of the first are measured, round trips and the rate of small frames, while a third VF is abused: of the
same vfnic, or of the other one, which takes the same time of the CPU and shares nothing else. A line for each kind of abuse.

  ABUSE               connect enable kick memory commands broadcast segments call linger; default: all (vf-conformance abuse --help)
  --seconds S         how long each run is measured (default 2)
  --rounds N          runs of each kind, of which the medians count (default 3)
  --path direct|mediated
  --subject vfnic|testpmd|ovs
                      which back end: vfnic, or for comparison DPDK's testpmd (io) or Open vSwitch with DPDK (action NORMAL), two processes of it
                      likewise; those take Debian's packages dpdk-dev and openvswitch-switch-dpdk, and root
  --cpus G,B          CPU of generator and abuser, and of both back ends (default 0,1)
  --vfnic PROGRAM     use this binary; default: build this checkout with cargo
  --bench PROGRAM     use this vf-conformance, likewise
  --out DIR           keep the figures and logs there
  --help              this text

Exit code: 0 everything ran, whatever came out; 1 something did not; 2 something is missing.
USAGE
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
all=(connect enable kick memory commands broadcast segments call linger)
kinds=() seconds=2 rounds=3 path=direct subject=vfnic cpus=0,1 vfnic='' bench='' out=''

fail() {
    printf 'isolation: %s\n' "$1" >&2
    exit 2
}

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --*) (($# > 1)) || fail "unknown option $1, or it needs a value (see --help)" ;;
    *)
        [[ " ${all[*]} " == *" $1 "* ]] || fail "no abuse $1 (see --help)"
        kinds+=("$1"); shift; continue ;;
    esac
    case $1=$2 in
    --seconds=[0-9]*) seconds=$2 ;;
    --rounds=[1-9]*) rounds=$2 ;;
    --path=direct | --path=mediated) path=$2 ;;
    --subject=vfnic | --subject=testpmd | --subject=ovs) subject=$2 ;;
    --cpus=[0-9]*,[0-9]*) cpus=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --bench=?*) bench=$(realpath -m "$2") ;;
    --out=?*) out=$(realpath -m "$2") ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done
((${#kinds[@]})) || kinds=("${all[@]}")
type -P jq >/dev/null || fail 'needs jq'
(($(nproc) > 1)) || fail 'needs two CPUs'
if [[ -z $vfnic || -z $bench ]]; then
    (cd "$here/../.." && cargo build --release -p vfnic -p vf-conformance) >&2 || fail 'cargo build failed'
    built=${CARGO_TARGET_DIR:-$here/../../target}/release
    vfnic=${vfnic:-$built/vfnic} bench=${bench:-$built/vf-conformance}
fi
switch=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
case $subject in
testpmd) type -P dpdk-testpmd >/dev/null || fail 'needs dpdk-testpmd (apt-get install dpdk-dev)' ;;
ovs) [[ -x $switch ]] || fail 'needs Open vSwitch with DPDK (apt-get install openvswitch-switch-dpdk)' ;;
esac

work=$(mktemp -d)
started=()
end() {
    ((${#started[@]})) && kill "${started[@]}" 2>/dev/null
    wait
    if [[ $out != "$work" ]]; then cp "$work"/?.log "$out" 2>/dev/null; fi
    rm -rf "$work"
}
trap end EXIT
out=${out:-$work}
mkdir -p "$out"

# Each starts a back end in a folder of its own, whose sockets are vf0.sock, vf1.sock and vf2.sock, and waits until they are there.
start_vfnic() { # FOLDER
    local vf
    taskset -c "${cpus#*,}" "$vfnic" run --quiet --vfs 8 --socket-dir "$1" 2>"$1.log" &
    started+=($!)
    is_there "$1/ready" || return
    for vf in 0 1 2; do "$vfnic" --ctl "$1/ctl.sock" vf $vf set path "$path" >/dev/null || return; done
}

start_testpmd() { # FOLDER
    local n ports=() cpu=${cpus#*,} input
    # It ends with its standard input, and forwards between its first two ports, and between the others.
    mkfifo "$1/input"
    exec {input}<>"$1/input"
    for n in 0 1 2 3; do ports+=("--vdev=net_vhost$n,iface=$1/vf$n.sock"); done
    dpdk-testpmd --lcores "0@$cpu,1@$cpu" --no-huge -m 1024 --no-pci --no-telemetry --no-shconf --file-prefix="isolation$$${1##*/}" "${ports[@]}" \
        -- -i --auto-start --total-num-mbufs=32768 --nb-cores=1 --forward-mode=io --disable-link-check <&"$input" >"$1.log" 2>&1 &
    started+=($!)
    is_there "$1/vf3.sock"
}

start_ovs() { # FOLDER
    local n cpu=${cpus#*,} db=unix:$1/db.sock mask vsctl
    mask=$(printf '0x%x' $((1 << cpu)))
    export OVS_RUNDIR=$1 OVS_LOGDIR=$1 OVS_DBDIR=$1 OVS_SYSCONFDIR=$1
    vsctl=(timeout 30 ovs-vsctl "--db=$db")
    {
        ovsdb-tool create "$1/conf.db" /usr/share/openvswitch/vswitch.ovsschema || return
        ovsdb-server "$1/conf.db" --remote="punix:$1/db.sock" --unixctl="$1/db.ctl" &
        started+=($!)
        is_there "$1/db.sock" || return
        "${vsctl[@]}" --no-wait init
        "${vsctl[@]}" --no-wait set Open_vSwitch . other_config:dpdk-init=true "other_config:pmd-cpu-mask=$mask" \
            "other_config:dpdk-lcore-mask=$mask" \
            "other_config:dpdk-extra=--no-huge --legacy-mem -m 2048 --no-pci --no-telemetry --file-prefix=isolation$$${1##*/}"
        "$switch" "$db" --unixctl="$1/ctl" --pidfile="$1/pid" &
        started+=($!)
        "${vsctl[@]}" add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=standalone
        for n in 0 1 2; do
            "${vsctl[@]}" add-port br0 "vf$n.sock" -- set interface "vf$n.sock" type=dpdkvhostuser
        done
    } >"$1.log" 2>&1
    is_there "$1/vf2.sock"
}

is_there() { # FILE
    local n
    for ((n = 0; n < 1200; n++)); do
        [[ -e $1 ]] && return
        sleep 0.05
    done
    return 1
}

for nic in a b; do
    mkdir -p "$work/$nic"
    "start_$subject" "$work/$nic" || fail "$subject does not start: $(tail -n 1 "$work/$nic.log")"
done

# What the abuse of a NIC does to round trips and to the rate: three numbers, with it over without.
measure() { # KIND NIC
    local file=$out/$1-$2 sockets=(--socket "$work/a/vf0.sock" --socket "$work/a/vf1.sock")
    local common=(--cpu "${cpus%,*}" --size 64 --rounds "$rounds" --seconds "$seconds" --beside "taskset -c ${cpus%,*} $bench abuse $1 --socket $work/$2/vf2.sock")
    "$bench" bench "${sockets[@]}" "${common[@]}" --mode pingpong --json "$file-trips.json" >"$file.log" 2>&1 || return 1
    "$bench" bench "${sockets[@]}" "${common[@]}" --json "$file-rate.json" >>"$file.log" 2>&1 || return 1
    jq -rs '
        def median: sort | if length == 0 then null else .[length / 2 | floor] end;
        def of(runs; f): [runs[] | f | numbers] | median;
        # Of a run that was too short for it there is no p99.9.
        def over(with; without): if with == null or without == null or without == 0 then "-" else with / without * 100 | round / 100 end;
        (.[0].runs) as $trips | (.[1].runs) as $rate |
        ([$trips[] | select(.beside)]) as $t | ([$trips[] | select(.beside | not)]) as $t0 |
        ([$rate[] | select(.beside)]) as $r | ([$rate[] | select(.beside | not)]) as $r0 |
        [over(of($t; .latency.p50); of($t0; .latency.p50)), over(of($t; .latency."p99.9"); of($t0; .latency."p99.9")),
         over(of($r; .rx_pps); of($r0; .rx_pps)), ([$trips[], $rate[] | .lost] | add)] | @tsv
    ' "$file-trips.json" "$file-rate.json"
}

failed=0
printf '%-10s | %-31s | %-31s | %s\n' '' 'this NIC is abused' 'another process is' 'this NIC over the other'
printf '%-10s | %9s %9s %11s | %9s %9s %11s | %s\n' abuse 'trip p50' p99.9 'rate, lost' 'trip p50' p99.9 'rate, lost' 'p99.9 (<= 2), rate (>= 0.9)'
for kind in "${kinds[@]}"; do
    if ! own=$(measure "$kind" a) || ! other=$(measure "$kind" b); then
        printf '%-10s | did not run: %s\n' "$kind" "$(tail -n 1 "$out/$kind"-?.log | tr '\n' ' ')"
        failed=1
        continue
    fi
    read -r p50 p999 rate lost <<<"$own"
    read -r other50 other999 other_rate other_lost <<<"$other"
    ratios=$(jq -rn --arg own "$p999 $rate" --arg other "$other999 $other_rate" '
        [$own, $other] | map(split(" ") | map(tonumber? // null)) | transpose
            | map(if .[0] == null or .[1] == null or .[1] == 0 then "-" else .[0] / .[1] * 100 | round / 100 end) | @tsv')
    printf '%-10s | %9s %9s %5s %5s | %9s %9s %5s %5s | %s\n' "$kind" "$p50" "$p999" "$rate" "$lost" "$other50" "$other999" "$other_rate" "$other_lost" "$ratios"
done
exit $failed
