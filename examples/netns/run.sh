#!/bin/bash
# Two network namespaces on VFs, on one NIC and on two with each kind of uplink between them, beside what Linux has for that. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options] [KIND ...]

  KIND                direct mediated wire tap packet macvtap vxlan vhost-user bridge kernel-vxlan; default: all
  --seconds S         how long each iperf3 runs (default 3)
  --vfnic PROGRAM     use this binary; default: build this checkout with cargo
  --help              this text

Exit code: 0 everything ran; 1 something did not; 2 something is missing: it wants root, ip, ping, iperf3 and jq.
USAGE
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
all=(direct mediated wire tap packet macvtap vxlan vhost-user bridge kernel-vxlan)
kinds=() seconds=3 vfnic=''
fail() { # EXIT-CODE MESSAGE
    printf 'netns: %s\n' "$2" >&2
    exit "$1"
}
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --*) (($# > 1)) || fail 2 "unknown option $1, or it needs a value (see --help)" ;;
    *)
        [[ " ${all[*]} " == *" $1 "* ]] || fail 2 "no kind $1 (see --help)"
        kinds+=("$1"); shift; continue ;;
    esac
    case $1=$2 in
    --seconds=[1-9]*) seconds=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    *) fail 2 "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done
((${#kinds[@]})) || kinds=("${all[@]}")
PATH=$PATH:/usr/sbin:/sbin
for program in ip ping iperf3 jq; do type -P "$program" >/dev/null || fail 2 "needs $program"; done
((EUID == 0)) || fail 2 'namespaces and their devices take root'
if [[ -z $vfnic ]]; then
    (cd "$here/../.." && cargo build --release -p vfnic) >&2 || fail 2 'cargo build failed'
    vfnic=$here/../../target/release/vfnic
fi

dir=$(mktemp -d) a=vfnic-$$-a b=vfnic-$$-b p=v$$ nics=()
cleanup() {
    stop_nics
    ip netns del "$a"; ip netns del "$b"; ip link del "${p}a"; ip link del "${p}br"
    rm -rf "$dir"
} 2>/dev/null
trap cleanup EXIT

start_nic() { # FOLDER <CONFIGURATION: runs a vfnic until it answers
    mkdir "$dir/$1" && cat >"$dir/$1/nic.toml"
    "$vfnic" run --quiet --no-state --config "$dir/$1/nic.toml" --socket-dir "$dir/$1/run" 2>"$dir/$1/log" &
    nics+=($!)
    until "$vfnic" --ctl "$dir/$1/run/ctl.sock" show >/dev/null 2>&1; do
        kill -0 "${nics[-1]}" 2>/dev/null || fail 1 "vfnic: $(tail -n 1 "$dir/$1/log")"
        sleep 0.1
    done
}
stop_nics() {
    ((${#nics[@]})) && kill "${nics[@]}" && wait "${nics[@]}"
    nics=()
    rm -rf "${dir:?}"/*
}
on_one() { # PATH: both namespaces on VFs of one NIC
    start_nic one <<END
[[nic]]
name = "one"
[[nic.vf]]
index = 0
tap = "eth0"
netns = "$a"
path = "$1"
[[nic.vf]]
index = 1
tap = "eth0"
netns = "$b"
path = "$1"
END
}
on_two() { # WHAT-A-HAS WHAT-B-HAS [MORE]: each on a NIC of its own, which has this in its section
    start_nic two <<END
[[nic]]
name = "a"
$1
[[nic.vf]]
index = 0
tap = "eth0"
netns = "$a"
[[nic]]
name = "b"
$2
[[nic.vf]]
index = 0
tap = "eth0"
netns = "$b"
${3-}
END
}
cable() { # [IN-NAMESPACES]: a pair of veth devices, here or one in each namespace
    if [[ -n ${1-} ]]; then
        ip link add "${p}a" netns "$a" type veth peer name "${p}b" netns "$b"
    else
        ip link add "${p}a" type veth peer name "${p}b" && ip link set "${p}a" up && ip link set "${p}b" up
    fi || fail 1 'no veth devices can be made here'
}
address() { # DEVICE
    ip -n "$a" address add "10.98.0.1/24" dev "$1" && ip -n "$a" link set "$1" up
    ip -n "$b" address add "10.98.0.2/24" dev "$1" && ip -n "$b" link set "$1" up
}
streams() { # OPTIONS: Gb/s of one iperf3
    ip netns exec "$b" iperf3 -s -1 >/dev/null 2>&1 &
    local server=$!
    until ip netns exec "$b" ss -Hltn 'sport = :5201' | grep -q .; do sleep 0.05; done
    ip netns exec "$a" iperf3 -c 10.98.0.2 -t "$seconds" -J "$@" | jq '.end.sum_received.bits_per_second / 1e7 | round / 100'
    wait $server
}
measure() { # NAME
    local rtt n
    # A device has its carrier when its front end is there, and Linux sends by it up to a second later.
    for ((n = 0; ; n++)); do
        ip netns exec "$a" ping -q -c 1 -W 1 10.98.0.2 >/dev/null && break
        ((n < 20)) || fail 1 "$1: no answer to ping"
    done
    rtt=$(ip netns exec "$a" ping -q -c 200 -i 0.002 10.98.0.2 | sed -n 's|.*= [0-9.]*/\([0-9.]*\)/.*|\1|p')
    printf '%-44s %10s %10s %10s\n' "$1" "$rtt" "$(streams)" "$(streams -R)"
}

printf '%-44s %10s %10s %10s\n' '' 'ping, ms' 'there' 'back, Gb/s'
for kind in "${kinds[@]}"; do
    ip netns add "$a" && ip netns add "$b" || fail 2 'no namespace can be made here'

    case $kind in
    direct) on_one direct; name='one NIC, direct path' ;;
    mediated) on_one mediated; name='one NIC, mediated path' ;;
    wire) on_two '' '' $'[[wire]]\nbetween = ["a", "b"]'; name='two NICs, a wire' ;;
    tap)
        on_two "uplink = \"tap ${p}a\"" "uplink = \"tap ${p}b\""
        ip link add "${p}br" type bridge && ip link set "${p}br" up
        for end in "${p}a" "${p}b"; do ip link set "$end" master "${p}br" up; done
        name='two NICs, taps on a Linux bridge' ;;
    packet) cable; on_two "uplink = \"packet ${p}a\"" "uplink = \"packet ${p}b\""; name='two NICs, packet sockets on veth' ;;
    macvtap)
        cable
        for end in "${p}a" "${p}b"; do
            ip link add link "$end" name "${end}t" type macvtap mode passthru && ip link set "${end}t" up
        done
        on_two "uplink = \"macvtap ${p}at\"" "uplink = \"macvtap ${p}bt\""
        name='two NICs, macvtap on veth' ;;
    vxlan)
        on_two $'mtu = 1450\nuplink = "vxlan id 42 local 127.98.0.1 remote 127.98.0.2"' \
            $'mtu = 1450\nuplink = "vxlan id 42 local 127.98.0.2 remote 127.98.0.1"'
        name='two NICs, VXLAN over lo' ;;
    vhost-user)
        start_nic there <<<$'[[nic]]\nname = "there"\nmac_base = "02:98:00:00:00:00"'
        on_two "$(printf 'mac_base = "02:98:00:00:01:00"\nuplink = "vhost-user %s"' "$dir/there/run/there-vf0.sock")" \
            "$(printf 'mac_base = "02:98:00:00:02:00"\nuplink = "vhost-user %s"' "$dir/there/run/there-vf1.sock")"
        "$vfnic" --ctl "$dir/there/run/ctl.sock" vf 0 mac add 02:98:00:00:01:00
        "$vfnic" --ctl "$dir/there/run/ctl.sock" vf 1 mac add 02:98:00:00:02:00
        name='two NICs, two VFs of a third, vhost-user' ;;
    bridge)
        ip link add "${p}br" type bridge && ip link set "${p}br" up || fail 2 'no bridge can be made here'
        for netns in "$a" "$b"; do
            ip link add "${netns/vfnic-/v}" master "${p}br" type veth peer name eth0 netns "$netns"
            ip link set "${netns/vfnic-/v}" up
        done
        name='Linux: veth on a bridge' ;;
    kernel-vxlan)
        cable in-namespaces
        ip -n "$a" address add 10.97.0.1/24 dev "${p}a" && ip -n "$a" link set "${p}a" up
        ip -n "$b" address add 10.97.0.2/24 dev "${p}b" && ip -n "$b" link set "${p}b" up
        ip -n "$a" link add eth0 type vxlan id 42 local 10.97.0.1 remote 10.97.0.2 dstport 4789
        ip -n "$b" link add eth0 type vxlan id 42 local 10.97.0.2 remote 10.97.0.1 dstport 4789
        name='Linux: vxlan devices over veth' ;;
    esac
    address eth0
    measure "$name"
    stop_nics
    ip netns del "$a"; ip netns del "$b"
    { ip link del "${p}a"; ip link del "${p}br"; } 2>/dev/null
done
