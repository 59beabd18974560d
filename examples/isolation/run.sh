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
  --cpus G,B          CPU of generator and abuser, and of both vfnic (default 0,1)
  --vfnic PROGRAM     use this binary; default: build this checkout with cargo
  --bench PROGRAM     use this vf-conformance, likewise
  --out DIR           keep the figures and logs there
  --help              this text

Exit code: 0 everything ran, whatever came out; 1 something did not; 2 something is missing.
USAGE
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
all=(connect enable kick memory commands broadcast segments call linger)
kinds=() seconds=2 rounds=3 path=direct cpus=0,1 vfnic='' bench='' out=''

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
    vfnic=${vfnic:-$here/../../target/release/vfnic} bench=${bench:-$here/../../target/release/vf-conformance}
fi

work=$(mktemp -d)
started=()
end() {
    ((${#started[@]})) && kill "${started[@]}" 2>/dev/null
    wait
    rm -rf "$work"
}
trap end EXIT
out=${out:-$work}
mkdir -p "$out"

for nic in a b; do
    taskset -c "${cpus#*,}" "$vfnic" run --quiet --vfs 8 --socket-dir "$work/$nic" 2>"$out/$nic.log" &
    started+=($!)
    for ((i = 0; i < 200; i++)); do [[ -e $work/$nic/ready ]] && break; sleep 0.05; done
    [[ -e $work/$nic/ready ]] || fail "vfnic does not start: $(tail -n 1 "$out/$nic.log")"
    for vf in 0 1 2; do "$vfnic" --ctl "$work/$nic/ctl.sock" vf $vf set path "$path" >/dev/null || fail 'no such path'; done
done

# What the abuse of a NIC does to round trips and to the rate: three numbers, with it over without.
measure() { # KIND NIC
    local file=$out/$1-$2 sockets=(--socket "$work/a/vf0.sock" --socket "$work/a/vf1.sock")
    local common=(--cpu "${cpus%,*}" --size 64 --rounds "$rounds" --seconds "$seconds" --beside "taskset -c ${cpus%,*} $bench abuse $1 --socket $work/$2/vf2.sock")
    "$bench" bench "${sockets[@]}" "${common[@]}" --mode pingpong --json "$file-trips.json" >"$file.log" 2>&1 || return 1
    "$bench" bench "${sockets[@]}" "${common[@]}" --json "$file-rate.json" >>"$file.log" 2>&1 || return 1
    jq -rs '
        def median: sort | if length == 0 then null else .[length / 2 | floor] end;
        def of(runs; f): [runs[] | f] | median;
        (.[0].runs) as $trips | (.[1].runs) as $rate |
        ([$trips[] | select(.beside)]) as $t | ([$trips[] | select(.beside | not)]) as $t0 |
        ([$rate[] | select(.beside)]) as $r | ([$rate[] | select(.beside | not)]) as $r0 |
        [of($t; .latency.p50) / of($t0; .latency.p50), of($t; .latency."p99.9") / of($t0; .latency."p99.9"),
         of($r; .rx_pps) / of($r0; .rx_pps), ([$trips[], $rate[] | .lost] | add)] | map(. * 100 | round / 100) | @tsv
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
    ratios=$(jq -n "[$p999 / $other999, $rate / $other_rate] | map(. * 100 | round / 100) | @tsv" -r)
    printf '%-10s | %9s %9s %5s %5s | %9s %9s %5s %5s | %s\n' "$kind" "$p50" "$p999" "$rate" "$lost" "$other50" "$other999" "$other_rate" "$other_lost" "$ratios"
done
exit $failed
