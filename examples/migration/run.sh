#!/bin/bash
# A guest that migrates from one NIC to another and back, while another guest talks to it: QEMU's live migration with vfnic's dirty log.
# See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options]

Two NICs, a and b, joined by a wire. A guest migrates from VF 0 of one to VF 0 of the other, again and again, while a guest on VF 1 of a
sends it a TCP stream and pings it. Says for each migration how long the guest stood still and what was lost.
Packages that are missing are installed when this is run as root; everything else goes to ~/.cache/vfnic and a temporary folder.

  --times N         migrations (default 4)
  --path PATH       direct, mediated or auto (default direct)
  --ring split|packed
                    format of the guest's rings (default split)
  --rate MBITS      of the TCP stream, in Mb/s (default 100)
  --vfnic PROGRAM   use this binary; default: build this checkout with cargo
  --qemu PROGRAM    use this QEMU
  --out DIR         keep logs there
  --keep            keep the temporary folder; it is always kept after a failure
  --help            this text

Exit code: 0 everything worked, 1 something did not, 2 something is missing.
USAGE
}

here=$(realpath "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../two-hosts") # whose guests these are
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vfnic
guests=qemu tool=iperf3 pairs=2 times=4 path=direct rate=100 vfnic=${VFNIC:-} out='' keep=no

for part in packages image guest nic session; do
    # shellcheck source=/dev/null
    . "$here/lib/$part.sh"
done

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --keep) keep=yes; shift; continue ;;
    --times | --path | --ring | --rate | --vfnic | --qemu | --out) (($# > 1)) || fail "$1 needs a value" ;;
    *) fail "unknown option $1 (see --help)" ;;
    esac
    case $1=$2 in
    --times=[1-9] | --times=[1-9][0-9] | --times=[1-9][0-9][0-9]) times=$2 ;;
    --path=direct | --path=mediated | --path=auto) path=$2 ;;
    --ring=split) qemu_device_options= ;;
    --ring=packed) qemu_device_options=,packed=on ;;
    --rate=[1-9]*) rate=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --qemu=?*) qemu=$2 ;;
    --out=?*) out=$2 ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

guest_mac=02:00:00:00:0c:01     # goes with the guest
patience=60                     # seconds that anything may take, on a machine that does something else
nobody=02:00:00:00:0c:ff        # of a VF whose guest is elsewhere
peer_mac=$(nic_mac a 1)
# Guests send to each other and to nobody else, so that each frame has one receiver.
quiet='echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'
declare -A monitor=() reader=() # of each guest

broken() { # WHAT
    note "$1"
    return 1
}

# --- QEMU's monitor (QMP) of a guest, over pipes: NAME.qmp is what it says --------------------------------------------

boot() { # NAME NIC MAC VF ARGUMENT...: a guest with a monitor
    local name=$1 nic=$2 mac=$3 vf=$4 fd
    rm -f "$run/$name.qmp"*
    mkfifo "$run/$name.qmp.in" "$run/$name.qmp.out"
    exec {fd}<>"$run/$name.qmp.in"
    monitor[$name]=$fd
    cat <>"$run/$name.qmp.out" >"$run/$name.qmp" &
    reader[$name]=$!
    qemu_arguments=(-chardev "pipe,id=qmp,path=$run/$name.qmp" -mon chardev=qmp,mode=control "${@:5}")
    guest_boot "$name" "$run/vfnic/$nic-vf$vf.sock" "$mac"
    ask "$name" qmp_capabilities
}

ask() { # NAME COMMAND [ARGUMENTS]
    printf '{"execute": "%s"%s}\n' "$2" "${3:+, \"arguments\": $3}" >&"${monitor[$1]}"
}

says() { # NAME PATTERN SECONDS: waits until its monitor has said it
    local until=$((SECONDS + $3))
    until grep -qE "$2" "$run/$1.qmp" 2>/dev/null; do
        guest_alive "$1" && ((SECONDS < until)) || return 1
        sleep 0.01
    done
}

end() { # NAME
    local fd=${monitor[$1]}
    guest_kill "$1"
    kill "${reader[$1]}" 2>/dev/null
    exec {fd}>&-
    unset "monitor[$1]" "reader[$1]"
}

# --- a migration --------------------------------------------------------------------------------------------------------

attached() { nic_show | jq -e --arg nic "$1" '.nics[] | select(.name == $nic) | .vfs[0].connected' >/dev/null; } # NIC

set_mac() { nic_control --nic "$1" vf 0 set mac "$2" >/dev/null; } # NIC MAC

# The guest is stopped when its address moves from one NIC to the other: as with hardware, that is the administrator's to do.
migrate() { # FROM TO NIC OTHER
    local from=$1 to=$2 nic=$3 other=$4 until=$((SECONDS + patience)) uri="unix:$run/$2.migration"
    local events='{"capability": "events", "state": true}' pause='{"capability": "pause-before-switchover", "state": true}'
    boot "$to" "$other" "$guest_mac" 0 -incoming defer
    ask "$to" migrate-set-capabilities "{\"capabilities\": [$events]}"
    ask "$to" migrate-incoming "{\"uri\": \"$uri\"}"
    until attached "$other"; do
        guest_alive "$to" && ((SECONDS < until)) || broken "QEMU does not connect to NIC $other: $(tail -n 2 "$run/$to.errors")" || return
        sleep 0.05
    done
    says "$to" '"status": "setup"' $patience || broken "QEMU does not wait for a guest: $(tail -n 2 "$run/$to.qmp")" || return
    ask "$from" migrate-set-capabilities "{\"capabilities\": [$events, $pause]}"
    ask "$from" migrate-set-parameters '{"max-bandwidth": 4294967296}'
    ask "$from" migrate "{\"uri\": \"$uri\"}"
    says "$from" '"status": "pre-switchover"' $((2 * patience)) || broken "the migration does not come to its end: $(tail -n 2 "$run/$from.qmp")" || return
    set_mac "$nic" "$nobody" && set_mac "$other" "$guest_mac" || return
    ask "$from" migrate-continue '{"state": "pre-switchover"}'
    says "$to" '"event": "RESUME"' $patience || broken "the guest does not go on: $(tail -n 2 "$run/$to.qmp" "$run/$to.errors")" || return
    says "$from" '"status": "completed"' $patience || broken "QEMU does not say that it is done" || return
    ask "$from" query-migrate
    says "$from" '"downtime"' $patience || return
    end "$from"
}

# What the two ends have counted of the pings so far.
pings() { reply_so_far peer "$ping_job" | sed -n 's/.*seq=\([0-9]*\).*/\1/p' | sort -n | awk '
    NR > 1 && $1 > last + 1 { lost += $1 - last - 1 } { last = $1 } END { printf "%d %d\n", last, lost }'; }

main() {
    local n nic=a other=b from to downtime lost said before=0 code=0
    open_session
    find_vfnic
    guest_kernel=linux-image-cloud-amd64
    need_programs
    build_image || fail "cannot build the guest"
    choose_accelerator
    read -r n _ < <(qemu_version)
    [[ $accelerator == tcg ]] && ((n < 9)) && note "QEMU before 9.0 loses what a guest without KVM writes while it migrates, whatever its NIC: see README.md"
    nic_configure ''
    nic_start || broken "vfnic does not start: $(tail -n 3 "$run/vfnic.log")" || return
    for n in 0 1; do nic_path "$n" "$path" || return; done
    set_mac a "$guest_mac" && set_mac b "$nobody" || return
    boot g0 a "$guest_mac" 0
    boot peer a "$peer_mac" 1
    for n in g0 peer; do guest_ready "$n" 240 || broken "$n does not boot, see $run/$n.kernel" || return; done
    run_in g0 20 "$quiet; ip addr add 10.9.3.1/24 dev eth0; ip link set eth0 up; arp -s 10.9.3.2 $peer_mac; iperf3 --server --daemon" || broken "no network in the guest" || return
    run_in peer 20 "$quiet; ip addr add 10.9.3.2/24 dev eth0; ip link set eth0 up; arp -s 10.9.3.1 $guest_mac" || return
    for n in {1..21}; do run_in peer 5 "ping -c 1 -W 1 10.9.3.1" >/dev/null && break; done
    ((n < 21)) || broken "the guests do not reach each other" || return
    start_in peer "ping -i 0.05 10.9.3.1"
    ping_job=$job
    start_in peer "iperf3 --client 10.9.3.1 --bitrate ${rate}M --time 36000 --interval 1 --forceflush"
    stream_job=$job
    sleep 3
    note "$times migrations, path $path, $accelerator, TCP of $rate Mb/s and a ping each 50 ms"
    printf '%4s  %-6s  %12s  %10s\n' '' '' 'stood still' 'pings lost'
    for ((n = 1; n <= times; n++)); do
        from=g$((n - 1)) to=g$n
        migrate "$from" "$to" "$nic" "$other" || return
        downtime=$(grep -o '"downtime": [0-9]*' "$run/$from.qmp" | tail -n 1)
        sleep 2
        goes_on || { broken "the stream has not gone on after migration $n"; return 1; }
        read -r _ lost < <(pings)
        printf '%4d  %s to %s  %9s ms  %10d\n' "$n" "$nic" "$other" "${downtime#* }" $((lost - before))
        before=$lost
        read -r nic other <<<"$other $nic"
    done
    reply_so_far peer "$stream_job" | grep -E 'Mbits|Kbits|  0.00 bits' >"$run/stream"
    awk '{ for (i = 1; i < NF; i++) if ($(i + 1) ~ /bits\/sec/) { n++; if ($i + 0 == 0) still++ } }
        END { printf "TCP: %d seconds, %d of them with nothing\n", n, still }' "$run/stream"
    said=$(run_in "$to" 120 "dmesg | grep -E 'BUG:|WARNING:|NETDEV WATCHDOG'; true") || broken "the guest does not answer any more" || code=1
    [[ -z $said ]] || broken "the guest complains: $said" || code=1
    guest_kill_all
    sleep 1
    # But for what announces a guest that has moved: QEMU asks for it five times, and two other VFs may get it.
    copies=$((10 * times)) nic_accounts_for_all_frames || code=1
    note "${accounts:-}"
    grep -E ' WARN | ERROR ' "$run/vfnic.log" && { broken "vfnic complains"; code=1; }
    nic_stop || broken "vfnic did not end on SIGTERM" || return
    return $code
}

goes_on() { # more pings are answered than a moment ago
    local until=$((SECONDS + patience)) first now
    read -r first _ < <(pings)
    while :; do
        sleep 0.2
        read -r now _ < <(pings)
        ((now <= first)) || return 0
        ((SECONDS < until)) || return 1
    done
}

main
finish $?
