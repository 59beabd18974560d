#!/bin/bash
# vfnic beside the polling switches that Debian has: DPDK's testpmd and Open vSwitch with DPDK. Each back end in turn, round
# by round, on one core; the same generator on another; one table of ratios. See README.md.
# shellcheck disable=SC2317 # functions are also called by name: by trap, wait_for and in_turn
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options] [PART ...]

Measures vhost-user back ends beside each other with vf-conformance bench, and prints ratios to testpmd io.
Installs Debian's dpdk-dev (testpmd) and openvswitch-switch-dpdk when run as root; everything else goes to a temporary folder.

  PART              rings, bidir, ports, flows, filters, attached, latency, idle, tso; default: all
  --quick           two rounds of rings and latency with fewer sizes: about two minutes
  --rounds N        rounds (default 5)
  --seconds S       how long each run is measured (default 0.5)
  --peers LIST      back ends with commas (default testpmd-io,vfnic,testpmd-mac,ovs-normal,ovs-filters)
  --cpus G,B        CPU of the generator and of the back end (default 0,1)
  --vfnic PROGRAM   use this binary; default: build this checkout with cargo
  --bench PROGRAM   use this vf-conformance, likewise
  --out DIR         keep the figures (vf-conformance compare DIR/*.json, or with --bars bars.toml) and logs there
  --help            this text

At the end each bar that vfnic is measured by is a line: what was reached, and whether that is met.
Exit code: 0 everything ran (bars met or not), 1 something did not, 2 something is missing.
USAGE
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
parts=(rings bidir ports flows filters attached latency idle tso)
vfnic=${VFNIC:-} bench='' out='' rounds=5 seconds=0.5 quick=0 chosen=() cpus=0,1
peers=(testpmd-io vfnic testpmd-mac ovs-normal ovs-filters)
sizes=64,128,512,1518
filters=8192 # as many as the NIC takes
stream=5     # seconds of a TCP stream

fail() { # MESSAGE: what is missing; nothing can be done about it here
    printf 'against-peers: %s\n' "$1" >&2
    exit 2
}

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --quick) quick=1; shift; continue ;;
    --*) (($# > 1)) || fail "unknown option $1, or it needs a value (see --help)" ;;
    *)
        [[ " ${parts[*]} " == *" $1 "* ]] || fail "no part $1 (see --help)"
        chosen+=("$1"); shift; continue ;;
    esac
    case $1=$2 in
    --rounds=[1-9] | --rounds=[1-9][0-9]) rounds=$2 ;;
    --seconds=[0-9]*) seconds=$2 ;;
    --peers=?*) IFS=, read -ra peers <<<"$2" ;;
    --cpus=[0-9]*,[0-9]*) cpus=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --bench=?*) bench=$(realpath -m "$2") ;;
    --out=?*) out=$(realpath -m "$2") ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done
if ((quick)); then
    rounds=2 sizes=64,1518
    ((${#chosen[@]})) || chosen=(rings latency)
fi
((${#chosen[@]})) || chosen=("${parts[@]}")
ulimit -n "$(ulimit -Hn)" # part attached: 256 sessions
generator_cpu=${cpus%,*} back_end_cpu=${cpus#*,}
(($(nproc) > 1)) || fail 'needs two CPUs, one for the generator and one for the back end'

# --- what is needed ---

ovs=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
packages=()
with_part() { [[ " ${chosen[*]} " == *" $1 "* ]]; }
! with_part tso || { type -P cpio >/dev/null || packages+=(cpio); type -P cc >/dev/null || packages+=(gcc libc6-dev); }
[[ " ${peers[*]} " != *' testpmd'* ]] || type -P dpdk-testpmd >/dev/null || packages+=(dpdk-dev)
[[ " ${peers[*]} " != *' ovs'* ]] || [[ -x $ovs ]] || packages+=(openvswitch-switch-dpdk)
if ((${#packages[@]})); then
    if ((EUID != 0)) || ! type -P apt-get >/dev/null; then fail "needs ${packages[*]}: apt-get install ${packages[*]}"; fi
    echo "installing ${packages[*]}" >&2
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 ||
        fail "apt-get cannot install ${packages[*]}"
fi
if [[ -z $vfnic || -z $bench ]]; then
    root=$(realpath "$here/../..")
    target=${CARGO_TARGET_DIR:-$root/target}/release
    if type -P cargo >/dev/null; then
        cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vfnic -p vf-conformance || fail 'vfnic does not build'
    fi
    vfnic=${vfnic:-$target/vfnic} bench=${bench:-$target/vf-conformance}
fi
# shellcheck source=guests.sh
. "$here/guests.sh"
[[ -x $vfnic && -x $bench ]] || fail 'needs cargo (https://rustup.rs) to build vfnic, or --vfnic PROGRAM and --bench PROGRAM'

run=$(mktemp -d "${TMPDIR:-/tmp}/vfnic-peers.XXXXXX") back_end=() pages=''
results=$run/results logs=$run/logs
mkdir "$results" "$logs"

stop_back_end() {
    local pid n
    for pid in "${back_end[@]}"; do
        kill "$pid" 2>/dev/null
        for ((n = 0; n < 50; n++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    back_end=()
}

finish() {
    end_guests
    stop_back_end
    [[ -z $pages ]] || echo "$pages" >/proc/sys/vm/nr_hugepages
    [[ -z $out ]] || { mkdir -p "$out" && cp "$results"/* "$logs"/* "$out"; } 2>/dev/null
    rm -rf "$run"
}
trap finish EXIT
trap 'exit 1' INT TERM

# Huge pages of 2 MiB for DPDK and for the generator: 512 are enough for any back end here.
free_pages() { awk '/^HugePages_Free/ { n = $2 } /^Hugepagesize/ { kb = $2 } END { print kb == 2048 ? n : 0 }' /proc/meminfo; }
if (($(free_pages) < 512)) && ((EUID == 0)); then
    pages=$(</proc/sys/vm/nr_hugepages)
    echo $((pages + 512)) >/proc/sys/vm/nr_hugepages
fi
memory=(--no-huge -m 512)
(($(free_pages) < 400)) || memory=(--in-memory --single-file-segments -m 512)

# --- back ends; each leaves its sockets in sockets[] and what it started in back_end[] ---

# testpmd reads its standard input, and ends with it.
mkfifo "$run/input"
exec {input}<>"$run/input"

wait_for() { # COMMAND...: until it succeeds, 10 s at most
    local n
    for ((n = 0; n < 100; n++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    return 1
}

all_sockets() {
    local socket
    for socket in "${sockets[@]}"; do [[ -S $socket ]] || return; done
}

# Each leaves a command in counter that prints its busy cycles and packets so far, for bench --counter.
start_testpmd() { # MODE PORTS CPUS [PORT-OPTION]
    local n ports=()
    for ((n = 0; n < $2; n++)); do
        rm -f "$run/tp$n"
        ports+=("--vdev=net_vhost$n,iface=$run/tp$n${4:-}")
        sockets+=("$run/tp$n")
    done
    # Its answers come at once, not a buffer full at a time.
    stdbuf -oL dpdk-testpmd --lcores "0@$3,1@$3" "${memory[@]}" --no-pci --no-telemetry --no-shconf --file-prefix="peers$$" \
        "${ports[@]}" -- -i --auto-start --nb-cores=1 --forward-mode="$1" --record-core-cycles <&"$input" >>"$log" 2>&1 &
    back_end=($!)
    counter="'$here/testpmd-cycles.sh' '$run/input' '$log'"
    wait_for all_sockets
}

in_ovs() { timeout 30 "$@"; }

ovs_answers() { in_ovs ovs-appctl -t "$OVS_RUNDIR/ctl" version; }

start_ovs() { # MODE PORTS
    local dir n db mask
    dir=$(mktemp -d "$run/ovs.XXX") mask=$(printf '0x%x' $((1 << back_end_cpu)))
    export OVS_RUNDIR=$dir OVS_LOGDIR=$dir OVS_DBDIR=$dir OVS_SYSCONFDIR=$dir
    db=unix:$dir/db.sock
    local vsctl=(in_ovs ovs-vsctl "--db=$db")
    {
        ovsdb-tool create "$dir/conf.db" /usr/share/openvswitch/vswitch.ovsschema || return
        ovsdb-server "$dir/conf.db" --remote="punix:$dir/db.sock" --pidfile="$dir/db.pid" &
        back_end=($!)
        wait_for test -S "$dir/db.sock"
        "${vsctl[@]}" --no-wait init
        "${vsctl[@]}" --no-wait set Open_vSwitch . other_config:dpdk-init=true other_config:dpdk-socket-mem=512 \
            "other_config:dpdk-lcore-mask=$(printf '0x%x' $((1 << generator_cpu)))" "other_config:pmd-cpu-mask=$mask" \
            other_config:vhost-sock-dir=. "other_config:dpdk-extra=--no-pci --no-telemetry ${memory[*]:0:1} --file-prefix=peers$$"
        "$ovs" "$db" --pidfile="$dir/vsw.pid" --unixctl="$dir/ctl" &
        back_end=($! "${back_end[@]}")
        wait_for ovs_answers || return
        local fail_mode=standalone
        [[ $1 == normal ]] || fail_mode=secure
        "${vsctl[@]}" add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=$fail_mode
        for ((n = 0; n < $2; n++)); do
            "${vsctl[@]}" add-port br0 "vh$n" -- set Interface "vh$n" type=dpdkvhostuser ofport_request=$((n + 1))
            sockets+=("$dir/vh$n")
        done
        if [[ $1 == filters ]]; then
            ovs_rules "$2" >"$dir/rules"
            in_ovs ovs-ofctl add-flows "unix:$dir/br0.mgmt" "$dir/rules" || return
        fi
    } >>"$log" 2>&1
    counter="ovs-appctl -t '$dir/ctl' dpif-netdev/pmd-stats-show |
        awk '/processing cycles:/ { c += \$3 } /packets received:/ { p += \$3 } END { printf \"%.0f %.0f\", c, p }'"
    wait_for all_sockets
}

# As many rules as vfnic gets filters, of like kinds; those that decide come last.
ovs_rules() { # PORTS
    awk -v ports="$1" -v filters="$filters" 'BEGIN {
        for (k = 0; k < filters; k++) {
            a = int(k / 250) % 250; b = k % 250
            if (k % 5 < 2) printf "priority=20,udp,nw_src=10.9.%d.%d,nw_dst=10.8.0.1,tp_src=%d,tp_dst=53,actions=drop\n", a, b, 1024 + k
            else if (k % 5 < 4) printf "priority=19,udp,nw_dst=10.7.%d.%d,tp_dst=80,actions=drop\n", a, b
            else printf "priority=18,dl_dst=02:99:00:00:%02x:%02x,actions=drop\n", a, b
        }
        for (k = 0; k < ports; k++) printf "priority=5,dl_dst=02:10:00:00:00:%02x,actions=output:%d\n", k + 1, k + 1
    }'
}

start_vfnic() { # FILTERS PORTS CPUS [NIC-SETTING [VF-SETTING]]
    local dir n
    dir=$(mktemp -d "$run/nic.XXX")
    awk -v dir="$dir" -v filters="$1" -v vfs="$2" -v setting="${4:-}" -v vf="${5:-}" 'BEGIN {
        printf "socket_dir = \"%s\"\n[[nic]]\nname = \"nic\"\nvfs = %d\n%s\nfilters = [\n", dir, vfs, setting
        for (k = 0; k < filters; k++) {
            a = int(k / 250) % 250; b = k % 250
            if (k % 40 == 39) words = sprintf("flow-type ether proto %d action drop", 40000 + k)
            else if (k % 5 < 2) words = sprintf("flow-type udp4 src-ip 10.9.%d.%d dst-ip 10.8.0.1 src-port %d dst-port 53 action drop", a, b, 1024 + k)
            else if (k % 5 < 4) words = sprintf("flow-type udp4 dst-ip 10.7.%d.%d dst-port 80 action drop", a, b)
            else words = sprintf("flow-type ether dst 02:99:00:00:%02x:%02x%s vf %d", a, b, k % 2 ? "" : sprintf(" vlan %d", 1 + k % 4000), k % vfs)
            printf "\"%s\",\n", words
        }
        print "]"
        for (k = 0; k < vfs; k++) printf "[[nic.vf]]\nindex = %d\nvlan = 100\n%s\n", k, vf
    }' >"$dir/nic.toml"
    taskset -c "$3" "$vfnic" run --quiet --config "$dir/nic.toml" </dev/null >>"$log" 2>&1 &
    back_end=($!)
    for ((n = 0; n < $2; n++)); do sockets+=("$dir/nic-vf$n.sock"); done
    control=$dir/ctl.sock
    counter="'$vfnic' --ctl '$control' show workers --json |
        awk -F '[:,]' '/\"busy_cycles\"/ { c += \$2 } /\"frames\"/ { p += \$2 } END { printf \"%.0f %.0f\", c, p }'"
    wait_for all_sockets
}

start_back_end() { # LABEL PORTS
    sockets=() log=$logs/$1.log counter=
    case $1 in
    # Guests and back end share the CPUs: nothing is pinned. A queue pair each, as testpmd offers.
    testpmd-tso) start_testpmd io "$2" "($cpus)" ,tso=1 ;;
    vfnic-tso) start_vfnic "$filters" "$2" "$cpus" 'queue_pairs = 1' ;;
    testpmd-*) start_testpmd "${1#testpmd-}" "$2" "$back_end_cpu" ;;
    ovs-*) start_ovs "${1#ovs-}" "$2" ;;
    vfnic) start_vfnic "$filters" "$2" "$back_end_cpu" ;;
    vfnic-mediated) start_vfnic "$filters" "$2" "$back_end_cpu" '' 'path = "mediated"' ;;
    vfnic-empty) start_vfnic 0 "$2" "$back_end_cpu" ;;
    *) fail "no peer $1 (see --help)" ;;
    esac && sleep 0.5
}

# --- measuring ---

verdict=0 serial=0

complain() { # LABEL MESSAGE
    printf '%s: %s\n' "$1" "$2" >&2
    verdict=1
}

load() { # LABEL OPTIONS...: one run of the generator
    local label=$1 socket ports=() error
    shift
    for socket in "${sockets[@]}"; do ports+=(--socket "$socket"); done
    printf -v file '%s/%s-%04d-%s.json' "$results" "$part" "$((++serial))" "$label"
    error=$("$bench" bench "${ports[@]}" --label "$label" --part "$part" --cpu "$generator_cpu" --back-end-cpu "$back_end_cpu" --rounds 1 --seconds "$seconds" --counter "$counter" --json "$file" "$@" 2>&1 >/dev/null) ||
        { complain "$label" "${error##*$'\n'} ($*)"; [[ -s $file ]] || rm -f "$file"; }
}

figure() { # LABEL FIGURES: what was measured without the generator, as vf-conformance compare reads it
    printf '{ "part": "%s", "label": "%s", "ports": %d, "figures": { %s } }\n' "$part" "$1" "${#sockets[@]}" "$2" \
        >"$(printf '%s/%s-%04d-%s.json' "$results" "$part" "$((++serial))" "$1")"
}

with() { # PORTS LABEL FUNCTION: starts a back end, measures, ends it
    if start_back_end "$2" "$1"; then
        "$3" "$2"
    else
        complain "$2" "does not start: $(tail -n 1 "$log")"
    fi
    stop_back_end
}

in_turn() { # PORTS FUNCTION [LABEL...]
    local count=$1 what=$2 label
    shift 2
    for label in "$@"; do with "$count" "$label" "$what"; done
}

split_vec() { load "$1" --size "$sizes" --layout vec; }
split_mrg() { load "$1" --size "$sizes" --layout mrg; }
packed() { load "$1" --size "$sizes" --layout mrg --ring packed; }
both_ways() { load "$1" --mode bidir --size "$sizes"; }
every_port() { load "$1" --mode bidir --size 64; }
many_flows() {
    load "$1" --size 64
    load "$1" --size 64 --flows 20000
}
one_flow() { load "$1" --size 64; }
two_active() {
    load "$1" --size 64 --active 2
    load "$1" --size 64 --active 2 --mode pingpong
}
there_and_back() {
    load "$1" --mode pingpong --size 64,1518
    load "$1" --mode pingpong --size 64,1518 --layout mrg
    load "$1" --mode pingpong --size 64,1518 --layout mrg --ring packed
}

cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

idle() { # LABEL: what 64 guests cost that say nothing
    local before after
    "$bench" bench "${sockets[@]/#/--socket=}" --mode sink --size 64 --rounds 1 --seconds 6 --warm-up 0 --cpu "$generator_cpu" >/dev/null &
    local generator=$!
    sleep 2
    before=$(cpu_ticks "${back_end[0]}")
    sleep 3
    after=$(cpu_ticks "${back_end[0]}")
    figure "$1" "$(awk -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" \
        '/^VmRSS/ { printf "\"cpu\": %.1f, \"memory\": %d", 100 * ticks / hz / 3, $2 / 1024 }' "/proc/${back_end[0]}/status")"
    wait "$generator" || complain "$1" 'the generator failed on idle ports'
}

tcp() { # LABEL: a stream between two guests; through vfnic on both paths
    local path environment=()
    [[ $1 == vfnic* ]] || environment=("LD_PRELOAD=$hidden" "UML_FEATURES_HIDDEN=$dpdk_hides")
    for path in direct mediated; do
        if [[ $1 == vfnic* ]]; then
            { "$vfnic" --ctl "$control" vf 0 set path "$path" && "$vfnic" --ctl "$control" vf 1 set path "$path"; } >>"$log" 2>&1 ||
                complain "$1" "no path $path"
        elif [[ $path == mediated ]]; then
            continue
        fi
        if tcp_stream "$stream" "${environment[@]}"; then
            figure "$1-$path" "\"tcp\": $mbits"
        else
            complain "$1" "no stream on path $path: $(tail -n 1 "$logs/guest-b.txt")"
        fi
    done
}

version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || echo 'not a package'; }
echo "$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) CPUs, kernel $(uname -r); DPDK $(version dpdk), OVS $(version openvswitch-switch-dpdk), $("$vfnic" --version)"
echo "back ends on CPU $back_end_cpu, generator on CPU $generator_cpu, $rounds rounds of $seconds s, DPDK memory: ${memory[*]}"

! with_part tso || find_guests "$stream" || fail 'cannot make the guests of part tso (examples/linux-guests/build.sh)'
for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds" >&2
    for part in "${chosen[@]}"; do
        case $part in
        rings) for ring in split_vec split_mrg packed; do in_turn 2 "$ring" "${peers[@]}"; done ;;
        bidir) in_turn 2 both_ways "${peers[@]}" ;;
        ports) for n in 2 4 8; do in_turn "$n" every_port "${peers[@]}"; done ;;
        flows) in_turn 2 many_flows "${peers[@]}" ;;
        filters) in_turn 2 one_flow testpmd-io vfnic-empty vfnic ;;
        attached) for n in 2 64 256; do in_turn "$n" two_active vfnic vfnic-mediated; done ;;
        latency) in_turn 2 there_and_back "${peers[@]}" ;;
        idle) ((round > 1)) || in_turn 64 idle vfnic ;;
        tso) in_turn 2 tcp testpmd-tso vfnic-tso ;;
        esac
    done
done

for part in "${chosen[@]}"; do
    compgen -G "$results/$part-*.json" >/dev/null || continue
    base=()
    ! compgen -G "$results/$part-*-testpmd-io.json" >/dev/null || base=(--base testpmd-io)
    printf '\n%s\n\n' "$part"
    "$bench" compare "${base[@]}" "$results/$part"-*.json || verdict=1
done
if compgen -G "$results/*-vfnic*.json" >/dev/null; then
    printf '\nbars: ratios over the rounds that compare; "by cycles": the generator was the limit, and busy cycles a packet are the proof\n\n'
    "$bench" compare --bars "$here/bars.toml" "$results"/*.json
    (($? < 2)) || verdict=1 # a bar that is missed is a result, too
fi
exit "$verdict"
