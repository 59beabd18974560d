# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# TCP streams between the guests a0 .. and b0 .., each pair one stream in each direction at once.
# Reads: run, pairs, guests, tool. Provides: boot_pairs, address, start_streams, finish_streams, await_intervals, received, intervals.

address() { # NIC VF
    local host=1
    [[ $1 == b ]] && host=2
    echo "10.9.$2.$host"
}

peer_of() { if [[ $1 == a ]]; then echo b; else echo a; fi; }

# NIC VF [READY-COUNT]: waits for a guest, gives it its address and starts its servers.
set_up_guest() {
    local name=$1$2 mac
    mac=$(nic_mac "$1" "$2")
    guest_ready "$name" 60 "${3:-1}" || { note "guest $name does not start, see $run/$name.*"; return 1; }
    run_in "$name" 20 "ip link set eth0 up && ip addr add $(address "$1" "$2")/24 dev eth0 && cat /sys/class/net/eth0/address" |
        grep -qix "$mac" || { note "guest $name has no eth0 with address $mac"; return 1; }
    run_in "$name" 20 "iperf3 -s -D" || return 1
    [[ $tool == iperf3 ]] || run_in "$name" 20 "netserver >/dev/null" || return 1
}

ping_peer() { # NIC VF TRIES
    run_in "$1$2" $(($3 + 20)) "n=0; until ping -c 1 -W 1 $(address "$(peer_of "$1")" "$2") >/dev/null 2>&1; do n=\$((n+1)); [ \$n -lt $3 ] || exit 1; sleep 0.2; done"
}

boot_pairs() {
    local nic vf
    for ((vf = 0; vf < pairs; vf++)); do
        for nic in a b; do guest_boot "$nic$vf" "$run/vfnic/$nic-vf$vf.sock" "$(nic_mac "$nic" "$vf")"; done
    done
    for ((vf = 0; vf < pairs; vf++)); do
        for nic in a b; do set_up_guest "$nic" "$vf" || return 1; done
        ping_peer a "$vf" 10 || { note "guest a$vf cannot reach b$vf"; return 1; }
    done
}

parallel=1 # TCP connections of a stream (iperf3)

client() { # SECONDS PEER-ADDRESS: a shell command for the guest
    case $tool in
    iperf3) echo "iperf3 -c $2 -t $1 -P $parallel -i 1 -f m --forceflush" ;;
    netperf) echo "netperf -H $2 -l $1 -t TCP_STREAM -f m -P 0" ;;
    esac
}

declare -A stream=() # "a0" -> id of the job in which a0 sends

# SECONDS [VF]: starts the streams of all pairs, or of one.
start_streams() {
    local nic vf job first=${2:-0} last=${2:-$((pairs - 1))}
    stream=()
    # After a test iperf3's server opens its listener anew; a probe of the port would make it do that again.
    for ((vf = first; vf <= last; vf++)); do
        for nic in a b; do
            run_in "$nic$vf" 20 "until cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ':1451 .* 0A '; do sleep 0.1; done" || return 1
        done
    done
    for ((vf = first; vf <= last; vf++)); do
        for nic in a b; do
            start_in "$nic$vf" "$(client "$1" "$(address "$(peer_of "$nic")" "$vf")")"
            stream[$nic$vf]=$job
        done
    done
}

# SECONDS: waits for all streams; output of each in $run/NAME.stream; fails unless all of them ended well.
finish_streams() {
    local name code failed=0
    for name in "${!stream[@]}"; do
        reply_of "$name" "${stream[$name]}" "$1" >"$run/$name.stream"
        code=$?
        ((code == 0)) && continue
        note "stream from $name: $tool ended with $code: $(tail -n 1 "$run/$name.stream")"
        failed=1
    done
    return $failed
}

# Reads a client's output: Mb/s of each interval, one a line.
intervals() { sed -n 's/^\[ *[0-9]*\] *[0-9.]*-[0-9.]* *sec .* \([0-9.]*\) Mbits\/sec.*/\1 &/p' | awk '!/sender|receiver/ { print $1 }'; }

# NAME COUNT SECONDS: waits until the stream that NAME sends has reported COUNT intervals.
await_intervals() {
    local until=$((SECONDS + $3))
    while (($(reply_so_far "$1" "${stream[$1]}" | intervals | wc -l) < $2)); do
        ((SECONDS < until)) || return 1
        sleep 0.05
    done
}

received() { # NIC: Mb/s that the streams sent by this side brought to the other
    local vf
    for ((vf = 0; vf < pairs; vf++)); do
        case $tool in
        iperf3) awk '/receiver/ && !/SUM/ { for (i = 1; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) }' "$run/$1$vf.stream" ;;
        netperf) awk 'NF >= 5 { print $5 }' "$run/$1$vf.stream" ;;
        esac
    done | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}
